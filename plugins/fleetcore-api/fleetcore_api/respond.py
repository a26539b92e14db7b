"""One request to a call, and its answer; nothing here knows of a web framework."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, quote

import msgspec

from fleetcore.calls import decode
from fleetcore.calls.caller import Caller
from fleetcore.calls.table import Call, invoke
from fleetcore.calls.types import Response, encode_hook
from fleetcore.errors import Refused
from fleetcore.wire.strict_json import loads
from fleetcore_api.preconditions import expected

_encode = msgspec.json.Encoder(enc_hook=encode_hook).encode
_MAX_QUERY_MEMBERS = 100
_MAX_TAG = 64


class Answered(msgspec.Struct, frozen=True):
    """A whole answer."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = {}


def chosen(calls: Sequence[Call], query: bytes) -> tuple[Call, bytes]:
    """The call of a route that the query selects, and the rest of the query. Raises Refused."""
    if len(calls) == 1 and not calls[0].declared.selected_by:
        return calls[0], query
    selectors = {call.declared.selected_by: call for call in calls}
    found = selectors.get("")
    rest = []
    for part in query.split(b"&"):
        name, _, text = part.partition(b"=")
        call = selectors.get(name.decode("latin-1")) if name else None
        if call is None:
            rest.append(part)
        elif _is_true(call.declared.selected_by, text.decode("latin-1")):
            found = call
    if found is None:
        raise decode.refusal([decode.missing(next(iter(selectors)))])
    return found, b"&".join(rest)


def _is_true(name: str, text: str) -> bool:
    try:
        return bool(decode.read_text("boolean", [text], name, repeated=False))
    except decode.Invalid as invalid:
        raise decode.refusal([invalid.fault]) from None


async def respond(
    call: Call,
    caller: Caller,
    *,
    path: Mapping[str, str],
    query: bytes,
    headers: Mapping[bytes, bytes],
    body: bytes,
    located: bool = False,
) -> Answered:
    """Carries a request out.

    Args:
        path: the named parts of the path, decoded.
        query: the query as it was sent.
        headers: by their names in lower case.
        body: the whole body.
        located: whether what is made can be read below the path; the answer then has its ``Location``.

    Raises:
        FleetError: what the call raises, and Refused for what the call does not take.
    """
    given: dict[str, Any] = {name: [text] for name, text in path.items()}
    texts = set(path)
    for name, texts_of in _query(call, query).items():
        given[name] = texts_of
        texts.add(name)
    values = call.values(given | _body(call, body), texts=texts)
    match = call.parameters.get("if_version")
    if match is not None:
        version = _version(headers.get(b"if-match"), match.section, required=call.declared.match_required)
        if version is not None:
            values["if_version"] = version
    key = headers.get(b"idempotency-key")
    if key is not None:
        values |= {name: key.decode("latin-1") for name in call.placed["idempotency-key"]}
    return _answered(call, await invoke(call, caller, values), located=located)


def _version(header: bytes | None, section: str, *, required: bool) -> int | None:
    if header is not None and len(header) > _MAX_TAG:
        fault = decode.Fault("/if_version", f"If-Match may have at most {_MAX_TAG} characters", "Send an ETag")
        raise decode.refusal([fault])
    return expected(None if header is None else header.decode("latin-1"), section, required=required)


def _query(call: Call, query: bytes) -> dict[str, list[str]]:
    try:
        pairs = parse_qsl(
            query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MAX_QUERY_MEMBERS
        )
    except (UnicodeDecodeError, ValueError):
        raise Refused("The query cannot be read", code="payload_unreadable") from None
    known = call.placed["query"]
    found: dict[str, list[str]] = {}
    for name, text in pairs:
        if name not in known:
            raise decode.refusal([decode.unknown(name, known)])
        found.setdefault(name, []).append(text)
    return found


def _body(call: Call, body: bytes) -> dict[str, Any]:
    whole, known = next(iter(call.placed["whole"]), None), call.placed["body"]
    if whole is None and not known:
        return {}
    if not body:
        if whole is not None or known & set(call.required):
            raise Refused("The request has no body", remedy="Send a JSON object, {} for one without members")
        return {}
    plain = loads(body, depth=decode.JSON_DEPTH)
    if whole is not None:
        return {whole: plain}
    if not isinstance(plain, dict):
        raise Refused("The body is not a JSON object", remedy="Send an object, {} for one without members", pointer="")
    faults = [decode.unknown(name, known) for name in plain if name not in known]
    if faults:
        raise decode.refusal(faults)
    return plain


def _answered(call: Call, answer: object, *, located: bool) -> Answered:
    status = call.declared.status
    if answer is None:
        return Answered(status if status != 200 else 204)
    headers = {"content-type": "application/json"}
    tag = answer.etag() if isinstance(answer, Response) else ""
    if tag:
        headers["etag"] = f'"{tag}"'
    if call.declared.secret_fields:
        headers["cache-control"] = "no-store"
    if call.declared.location and isinstance(answer, Response):
        named = {name: quote(str(answer[name]), safe="") for name in answer}
        headers["location"] = f"/api/v1{call.declared.location.format(**named)}"
    made = getattr(answer, "id", None)
    if (status == 202 or (status == 201 and located)) and isinstance(made, str):
        place = "/operations" if status == 202 else call.path
        headers["location"] = f"/api/v1{place}/{quote(made, safe='')}"
    return Answered(status, _encode(answer), headers)
