"""Refusals as concise problem details (RFC 9290): the code from the one registry, the rest as over HTTP."""

from collections.abc import Mapping
from math import ceil

import cbor2

from fleetcore.errors import CODES
from fleetcore.model.message import Rejected
from fleetcore.wire.replies import problem as members_of
from fleetcore_coap.codec import Kind, Option, Packet, code_of, options, uint
from fleetcore_coap.formats import CONCISE_PROBLEM

#: Keys of RFC 9290 §2; -4 is the response code.
_TITLE, _DETAIL, _CODE = -1, -2, -4
#: Our own entry (RFC 9290 §3.2), a map with the members of the problem for which the standard has no keys.
ENTRY = "urn:fleetcore:error"
_SAID = frozenset({"type", "title", "detail"})
#: Seconds to wait if the plane names none, as over HTTP.
_RETRY_AFTER_S = {"enrollment_pending": 60, "rate_limited": 1, "storage_full": 30}
_TEMPORARY = 5


def problem(refusal: Rejected, *, code: int | None = None) -> Packet:
    """The answer to a refused request; ``code`` if CoAP has a finer one than the registry."""
    return answer(members_of(refusal), code=code)


def answer(members: Mapping[str, object], *, code: int | None = None) -> Packet:
    """The answer for the members of a problem (RFC 9457): concise, with Max-Age if a retry is useful."""
    name = str(members.get("code"))
    known = CODES.get(name, CODES["internal"])
    if members.get("rejected") and members.get("status") == 422:
        code = code_of(422)
    if code is None:
        code = code_of(known.coap)
    body: dict[object, object] = {_TITLE: str(members.get("title") or known.title), _CODE: code}
    if members.get("detail"):
        body[_DETAIL] = str(members["detail"])
    body[ENTRY] = {key: value for key, value in members.items() if key not in _SAID}
    max_age = None
    if known.temporary or name == "enrollment_pending":
        given = members.get("retry_after_s")
        wait_s = given if isinstance(given, int | float) else _RETRY_AFTER_S.get(name, _TEMPORARY)
        max_age = uint(max(1, min(86_400, ceil(wait_s))))
    return Packet(
        kind=Kind.ACK,
        code=code,
        options=options([(Option.CONTENT_FORMAT, uint(CONCISE_PROBLEM)), (Option.MAX_AGE, max_age)]),
        payload=cbor2.dumps(body),
    )


def members(payload: bytes, code: int) -> dict[str, object]:
    """A concise problem as the members of every protocol; an unreadable one is an internal error."""
    try:
        body = cbor2.loads(payload)
    except (cbor2.CBORError, ValueError):
        body = None
    if not isinstance(body, dict):
        body = {}
    own = body.get(ENTRY)
    found: dict[str, object] = {str(key): value for key, value in own.items()} if isinstance(own, dict) else {}
    found.setdefault("code", "internal")
    found.setdefault("status", CODES[str(found["code"])].http if found["code"] in CODES else 500)
    found.setdefault("title", str(body.get(_TITLE) or f"code {code >> 5}.{code & 31:02}"))
    if body.get(_DETAIL):
        found["detail"] = str(body[_DETAIL])
    return found
