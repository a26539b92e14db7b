"""Bodies except readings: decodes bytes to the typed body of the message's row, strictly and within its bounds.

An invalid body is an outcome and not an exception: :class:`Rejected` with the pointer of the member, ``limit_exceeded``
with limit and unit for a value beyond a bound, ``schema_invalid`` for anything else.
"""

from typing import Any

import msgspec
from attrs import evolve

from fleetcore.errors import Refused
from fleetcore.model.message import MessageType, PointRefusal, Rejected
from fleetcore.wire import strict_json
from fleetcore.wire.decode import Fault, Invalid, check_finite, fault_of, plain_hook
from fleetcore.wire.headers import media_type
from fleetcore.wire.messages import AHEAD_S, ASCII
from fleetcore.wire.strict_cbor import loads as load_cbor
from fleetcore.wire.strict_json import StrictJsonError

_CBOR = "application/cbor"
_JSON = frozenset({"application/json", "application/merge-patch+json"})
#: The pattern of a name → a description of it.
_ALPHABETS = {"^/": "a JSON pointer, as in /interval", ASCII: "the PEM text of a certificate request"}


class Many(list[Any]):
    """The valid bodies of a message that may hold several, with ``refused`` for the others, by index."""

    def __init__(self, refused: tuple[PointRefusal, ...]) -> None:
        super().__init__()
        self.refused = refused


def unreadable(error: StrictJsonError) -> Rejected:
    """The refusal of a payload that cannot be read, with the limit where one was exceeded."""
    limit = error.limit
    return Rejected(
        code=error.code,
        reason=error.reason,
        pointer=error.pointer,
        limit=limit,
        unit=None if limit is None else "levels",
        scope=None if limit is None else "message",
    )


def read_plain(payload: bytes, content_type: str | None, depth: int) -> object:
    """The body's plain data, ``{}`` for none; :class:`Rejected` where it cannot be read (returned, as for readings)."""
    if not payload:
        return {}
    declared = None if content_type is None else media_type(content_type)
    if declared is None:
        # 0x80-0xBF starts a CBOR array or map, 0xD9D9F7 is CBOR's own tag (RFC 8949 §3.4.6); no JSON starts so.
        declared = _CBOR if 0x80 <= payload[0] <= 0xBF or payload[:3] == b"\xd9\xd9\xf7" else "application/json"
    try:
        if declared == _CBOR:
            return load_cbor(payload, depth=depth)
        if declared in _JSON:
            return strict_json.loads(payload, depth=depth)
    except StrictJsonError as error:
        return unreadable(error)
    return Rejected(
        code="media_type_unsupported",
        reason=f"A body of type {declared[:100]!r} cannot be read; send application/json or application/cbor",
    )


def read_body(row: MessageType, payload: bytes, content_type: str | None, depth: int) -> Any:
    """A message's body in the type of its row, or :class:`Rejected`; a :class:`Many` where the row takes several."""
    plain = read_plain(payload, content_type, depth)
    if isinstance(plain, Rejected):
        return plain
    if row.many:
        return _read_many(row, plain)
    try:
        return _typed(row.body, plain)
    except Invalid as invalid:
        return _rejected(invalid.fault)


def _read_many(row: MessageType, plain: object) -> "Many | Rejected":
    items = plain if isinstance(plain, list) else [plain]
    if len(items) > row.many:
        return Rejected(
            code="limit_exceeded",
            reason=f"A message holds at most {row.many} of them",
            limit=row.many,
            unit="items",
            scope="message",
        )
    good: list[Any] = []
    faults: list[tuple[int, Fault]] = []
    for index, item in enumerate(items):
        try:
            good.append(_typed(row.body, item, f"/{index}" if isinstance(plain, list) else ""))
        except Invalid as invalid:
            faults.append((index, invalid.fault))
    refused = tuple(PointRefusal(index, row.name, fault.code) for index, fault in faults)
    if faults and not good:
        rejected = _rejected(faults[0][1])
        return evolve(rejected, refused=refused)
    if not items:
        return Rejected(code="schema_invalid", reason="The list is empty")
    found = Many(refused)
    found.extend(good)
    return found


def _typed(kind: Any, plain: object, at: str = "") -> Any:
    check_finite(plain, at)
    try:
        return msgspec.convert(plain, kind, dec_hook=plain_hook)
    except msgspec.ValidationError as error:
        raise Invalid(fault_of(error, at, kind, _ALPHABETS)) from None


def _rejected(fault: Fault) -> Rejected:
    limit = int(fault.limit) if isinstance(fault.limit, float) else None
    code, reason, remedy = fault.code, fault.reason, fault.remedy
    if code == "name_invalid":
        code, reason, remedy = "schema_invalid", f"it must be {remedy.removeprefix('Use ')}", ""
    name = fault.pointer.rpartition("/")[2]
    return Rejected(
        code=code if limit is None else "limit_exceeded",
        reason=". ".join(part for part in (f"{name}: {reason}" if name else reason, remedy) if part),
        pointer=fault.pointer,
        limit=limit,
        unit=fault.unit if isinstance(fault.unit, str) else None,
        scope=None if limit is None else "message",
    )


def check_ahead(time: int | None, name: str, now_ms: int) -> None:
    """Refuses a time that lies more than ``AHEAD_S`` ahead."""
    if time is not None and time > now_ms + AHEAD_S * 1000:
        raise Refused(
            f"{name} lies at most a year ahead",
            code="limit_exceeded",
            pointer=f"/{name}",
            limit=AHEAD_S,
            unit="seconds ahead",
            scope="message",
        )
