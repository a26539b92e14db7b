"""Readings on the wire (wire.md §3): the reserved names, and a fast decoder for the most frequent messages.

Nearly every message of a fleet is one object of a few numbers at one time. :func:`decode_quick` reads exactly these,
without an object per reading. Anything less simple, or suspicious, is left to the full decoder, which also knows the
reasons for a refusal. So the fast decoder never refuses: it decodes or returns None.
"""

from typing import Annotated

import msgspec

from fleetcore.model.kinds import EXACT
from fleetcore.wire.strict_json import MAX_INTEGER, MIN_INTEGER

#: Member names that are never metrics in the flat form (wire.md §3).
RESERVED = frozenset(
    {
        *("time", "age_ms", "id", "seq", "values", "metric", "value", "unit"),
        *("bn", "bt", "bu", "bv", "bs", "bver", "n", "u", "v", "vs", "vb", "vd", "s", "t", "ut"),
    }
)

#: ``time`` as it was sent (int or str), or None; and the readings: float, int or bool by metric.
FlatMessage = tuple[int | str | None, dict[str, float]]

_Integer = Annotated[int, msgspec.Meta(ge=MIN_INTEGER, le=MAX_INTEGER)]
#: An integer that a float64 holds exactly; the full decoder refuses any other.
_Exact = Annotated[int, msgspec.Meta(ge=-EXACT, le=EXACT)]


class _Envelope(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    values: dict[str, _Exact | float | bool]
    time: _Integer | str | None = None


# Typed decoders check kinds and ranges while decoding, at no measurable cost.
_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_flat = msgspec.json.Decoder(dict[str, _Exact | float | bool | str]).decode


def decode_quick(payload: bytes) -> FlatMessage | None:
    """Reads ``{"time": …, "values": {…}}`` and ``{"time": …, "temperature": 25.5, …}``, where all values are numbers.

    The result is checked as strictly as by :func:`~fleetcore.wire.strict_json.loads`: no duplicate keys, no NUL, finite
    floats, integers within 64 bits; reserved names are not among the metrics of the flat form. Not checked: metric
    names against their alphabet and length, the time, and how many readings there are.

    Returns:
        A dict of the caller's, with values as decoded (``bool`` for true and false), or None: use the full decoder.
    """
    time: float | str | None
    try:
        if payload.find(b'"values"') >= 0:
            envelope = _decode_envelope(payload)
            time, values = envelope.time, envelope.values
            keys = len(values) + 1
        else:
            flat = _decode_flat(payload)
            time = flat.pop("time", None)
            values = flat  # type: ignore[assignment]  # text is looked for below
            keys = len(values)
            if str in map(type, flat.values()) or not RESERVED.isdisjoint(flat):
                return None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if type(time) is str:
        keys += 1 + time.count(":")
    elif time is not None:
        if type(time) is not int:
            return None
        keys += 1
    # Only keys and the time can contain colons here: as many colons as keys proves that each key occurs once. A
    # backslash might hide NUL in a key.
    if payload.count(b":") != keys or payload.find(b"\\") >= 0:
        return None
    return time, values
