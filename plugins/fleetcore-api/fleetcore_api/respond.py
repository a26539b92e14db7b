"""Runs one request as a call, and makes its answer; independent of the web framework."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Literal
from urllib.parse import parse_qsl, quote

import msgspec

from fleetcore.calls import decode
from fleetcore.calls.table import Call, Rows
from fleetcore.calls.types import Page, Response, encode_hook
from fleetcore.errors import Refused
from fleetcore.wire.decode import Fault, Invalid
from fleetcore.wire.headers import Headers
from fleetcore.wire.strict_json import loads
from fleetcore_api.preconditions import expected
from fleetcore_api.tables import ARROW, CSV, arrow, csv

Format = Literal["json", "csv", "arrow"]
FORMATS: tuple[Format, ...] = ("json", "csv", "arrow")
_encode = msgspec.json.Encoder(enc_hook=encode_hook).encode
_MAX_QUERY_MEMBERS = 100
_MAX_TAG = 64
_JSON = ("application/json",)
#: A change is a merge patch (RFC 7396), under either of two names.
_PATCHES = ("application/merge-patch+json", *_JSON)


class Answered(msgspec.Struct, frozen=True):
    """A complete answer."""

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
    except Invalid as invalid:
        raise decode.refusal([invalid.fault]) from None


def values_of(
    call: Call,
    *,
    path: Mapping[str, str],
    query: bytes,
    headers: Headers,
    body: bytes = b"",
    content: AsyncIterator[bytes] | None = None,
) -> dict[str, Any]:
    """The parameters of the call in a request.

    Args:
        path: the named parts of the path, decoded.
        query: the query as it was sent.
        body: the whole body; empty if the call reads it piece by piece.
        content: the body in pieces.

    Raises:
        Refused: for parameters that the call does not have.
    """
    given: dict[str, Any] = {name: [text] for name, text in path.items()} | _query(call, query)
    for name in call.placed["last-event-id"]:
        header = headers.get("last-event-id")
        if header is not None:
            given[name] = [header]
    texts = set(given)
    values = call.values(given | _body(call, headers, body), texts=texts, content=content)
    match = call.parameters.get("if_version")
    if match is not None:
        version = _version(headers.get("if-match"), match.section, required=call.declared.match_required)
        if version is not None:
            values["if_version"] = version
    key = headers.idempotency_key
    if key is not None:
        values |= dict.fromkeys(call.placed["idempotency-key"], key)
    return values


def _version(header: str | None, section: str, *, required: bool) -> int | None:
    if header is not None and len(header) > _MAX_TAG:
        fault = Fault("/if_version", f"If-Match may have at most {_MAX_TAG} characters", "Send an ETag")
        raise decode.refusal([fault])
    return expected(header, section, required=required)


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


def _body(call: Call, headers: Headers, body: bytes) -> dict[str, Any]:
    whole, known = next(iter(call.placed["whole"]), None), call.placed["body"]
    if not body:
        if whole is not None or known & set(call.required):
            raise Refused("The request has no body", remedy="Send a JSON object, {} for one without members")
        return {}
    headers.coding(())
    headers.check_media_type(_PATCHES if call.method == "PATCH" else _JSON)
    plain = loads(body, depth=decode.JSON_DEPTH)
    if whole is not None:
        return {whole: plain}
    if not isinstance(plain, dict):
        raise Refused("The body must be a JSON object", remedy="Send an object, {} for one without members", pointer="")
    faults = [decode.unknown(name, known) for name in plain if name not in known]
    if faults:
        raise decode.refusal(faults)
    return plain


def answered(call: Call, answer: object, *, located: bool = False, format: Format = "json") -> Answered:
    """An answer of a call.

    Args:
        located: whether the created object can be read below the path; the answer then has its ``Location``.
        format: its format; other than JSON for a call with rows.
    """
    status = call.declared.status
    if answer is None:
        return Answered(status if status != 200 else 204)
    if format != "json" and call.declared.rows is not None:
        return _as_rows(call.declared.rows, answer, format)
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


def _as_rows(rows: Rows, answer: object, format: Format) -> Answered:
    items, following = (answer.items, answer.next) if isinstance(answer, Page) else ([answer], None)
    headers = {} if following is None else {"fleetcore-next": following}
    table = (row for item in items for row in rows.of(item))
    if format == "arrow":
        return Answered(200, arrow(rows.header, table), {"content-type": ARROW, **headers})
    return Answered(200, csv(rows.header, table).encode(), {"content-type": CSV, **headers})


def format_of(call: Call, query: bytes) -> tuple[Format, bytes]:
    """The format of an answer, and the rest of the query. Raises Refused for an unknown format."""
    if call.declared.rows is None:
        return "json", query
    parts = query.split(b"&")
    asked = [part.partition(b"=")[2].decode("latin-1") for part in parts if part.partition(b"=")[0] == b"format"]
    rest = b"&".join(part for part in parts if part.partition(b"=")[0] != b"format")
    if not asked:
        return "json", rest
    if asked[1:] or asked[0] not in FORMATS:
        fault = Fault("/format", f"{asked[-1][:64]!r} is not a format", f"Use one of: {', '.join(FORMATS)}")
        raise decode.refusal([fault])
    return FORMATS[FORMATS.index(asked[0])], rest
