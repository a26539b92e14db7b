"""Bodies of everything but readings: JSON or CBOR bytes to plain data, strictly and within bounds."""

from fleetcore.model.message import Rejected
from fleetcore.wire import strict_json
from fleetcore.wire.strict_cbor import loads as load_cbor
from fleetcore.wire.strict_json import StrictJsonError

_CBOR = "application/cbor"
_JSON = frozenset({"application/json", "application/merge-patch+json"})


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


def read_body(payload: bytes, content_type: str | None, depth: int) -> object:
    """The body's plain data, ``{}`` for none; :class:`Rejected` where it cannot be read (a value, as for readings)."""
    if not payload:
        return {}
    declared = None if content_type is None else content_type.partition(";")[0].strip().lower()
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
    return Rejected(code="media_type_unsupported", reason=f"No body is read as {declared[:100]!r}")
