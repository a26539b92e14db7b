"""SenML packs (RFC 8428) to readings: base fields resolved, names split, units mapped; and how a pack is detected.

Works on plain records with the text labels of the JSON representation; the codec beside it translates CBOR labels. A
fault of the whole pack (version, must-understand fields) refuses the pack; every other fault refuses one record.
"""

import math
from collections.abc import Mapping, Sequence

import msgspec

from fleetcore.builtin.forms import as_value, value_fault
from fleetcore.interfaces.codec import Decoded, DecodedReading
from fleetcore.model.message import Rejected
from fleetcore.model.units import plain_name

#: Times below are relative to now, others are seconds since the epoch (RFC 8428 §4.5.3); the limit is in 1978, or 8.5
#: years.
_RELATIVE_BELOW_S = 2**28
_DEFAULT_VERSION = 10  # RFC 8428 §4.1
#: Version 10 with feature 4, secondary units (RFC 9100, RFC 8798); the unit table has them.
_WITH_SECONDARY_UNITS = 26

_BASE = frozenset({"bn", "bt", "bu", "bv", "bs", "bver"})
_FIELDS = _BASE | {"n", "u", "v", "vs", "vb", "vd", "s", "t", "ut"}
_DEVICE = "urn:fleetcore:device:"

#: RFC 8428 §6, table 4.
CBOR_LABELS: Mapping[object, str] = {
    -6: "bs", -5: "bv", -4: "bu", -3: "bt", -2: "bn", -1: "bver",
    0: "n", 1: "u", 2: "v", 3: "vs", 4: "vb", 5: "s", 6: "t", 7: "ut", 8: "vd",
}  # fmt: skip


def looks_like_senml_json(payload: bytes) -> bool:
    """Whether the payload is a JSON array whose first object has ``bn`` or ``n``."""
    if not payload.lstrip(b" \t\r\n").startswith(b"["):
        return False
    # The labels may be written with escapes; without any backslash, a plain search is enough.
    if payload.find(b'"n"') < 0 and payload.find(b'"bn"') < 0 and payload.find(b"\\") < 0:
        return False
    try:
        pack = msgspec.json.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return bool(pack) and isinstance(pack[0], dict) and ("bn" in pack[0] or "n" in pack[0])


def looks_like_senml_cbor(payload: bytes) -> bool:
    """Whether the payload is a CBOR array whose first item is a map whose first key is an integer."""
    pack = payload.removeprefix(b"\xd9\xd9\xf7")
    record = _content_of(pack, 0x80)
    keys = _content_of(record, 0xA0)
    return keys != b"" and keys[0] < 0x40


def _content_of(item: bytes, major: int) -> bytes:
    """What follows the head of a non-empty array (0x80) or map (0xA0); empty for anything else."""
    if not item or item[0] & 0xE0 != major or item[0] == major:
        return b""
    argument = item[0] & 0x1F
    if argument < 24 or argument == 31:
        return item[1:]
    return item[1 + 2 ** (argument - 24) :] if argument < 28 else b""


def resolve(pack: object, received_ms: int, fleet: str) -> Decoded | Rejected:
    """The readings of a pack.

    Args:
        pack: records with text labels.
        received_ms: the time to which future relative times are added; relative times in the past become ages.
        fleet: the fleet whose device URNs name subjects; those of another fleet are refused as not_your_device.
    """
    if not isinstance(pack, list) or not pack:
        return Rejected(code="schema_invalid", reason="a SenML pack must be a list of records")
    resolver = _Resolver(received_ms, f"{_DEVICE}{fleet}:")
    for index, record in enumerate(pack):
        if not isinstance(record, dict):
            return _pack_fault(index, "", "a SenML record must be an object")
        fault = resolver.take_base(index, record)
        if fault is not None:
            return fault
        resolver.read(index, record)
    return Decoded(resolver.readings, None, resolver.refused)


def with_text_labels(pack: object) -> object:
    """A CBOR pack with the labels of JSON; anything but a list of maps is returned unchanged."""
    if not isinstance(pack, list):
        return pack
    return [
        {CBOR_LABELS.get(label, label): value for label, value in record.items()}
        if isinstance(record, dict)
        else record
        for record in pack
    ]


def _pack_fault(index: int, label: str, reason: str) -> Rejected:
    pointer = f"/{index}/{label}" if label else f"/{index}"
    return Rejected(code="schema_invalid", reason=reason, pointer=pointer)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


class _Resolver:
    """The base values after the records so far, and the readings made from them."""

    def __init__(self, received_ms: int, own: str) -> None:
        self.readings: list[DecodedReading] = []
        self.refused: list[tuple[int, str, str]] = []
        self._received_ms = received_ms
        self._own = own
        self._name = ""
        self._time: float = 0
        self._unit: str | None = None
        self._value: float | None = None
        self._version: object = None

    def take_base(self, index: int, record: Mapping[object, object]) -> Rejected | None:
        """Takes the record's base fields; returns a refusal of the whole pack if they are invalid, else None."""
        for label, value in record.items():
            if isinstance(label, str) and label.endswith("_") and label not in _FIELDS:
                return _pack_fault(index, label[:64], f"{label[:64]!r} must be understood, and is not supported")
            if label not in _BASE:
                continue
            if label in ("bn", "bu"):
                if not isinstance(value, str):
                    return _pack_fault(index, str(label), f"{label} is text")
            elif not _is_number(value) or not math.isfinite(value):  # type: ignore[arg-type]  # it is a number
                return _pack_fault(index, str(label), f"{label} must be a finite number")
        version = record.get("bver", self._version)
        if index and version != self._version and not (self._version is None and version == _DEFAULT_VERSION):
            return _pack_fault(index, "bver", "all records of a pack must have one version")
        if version is not None and version != _WITH_SECONDARY_UNITS and version > _DEFAULT_VERSION:  # type: ignore[operator]  # it is a number
            return _pack_fault(index, "bver", f"SenML version {version} is not supported")
        self._version = version
        self._name = record.get("bn", self._name)  # type: ignore[assignment]  # checked above
        self._time = record.get("bt", self._time)  # type: ignore[assignment]  # checked above
        self._unit = record.get("bu", self._unit)  # type: ignore[assignment]  # checked above
        self._value = record.get("bv", self._value)  # type: ignore[assignment]  # checked above
        return None

    def read(self, index: int, record: Mapping[object, object]) -> None:
        """Adds the record's reading or its refusal; a record of base fields alone adds neither."""
        if _BASE.issuperset(record):
            return
        name, unit = record.get("n", ""), record.get("u", self._unit)
        if not isinstance(name, str):
            self._refuse(index, "", "metric_name_invalid")
            return
        subject, metric = self._split(self._name + name)
        if subject is None and metric.startswith(_DEVICE):
            self._refuse(index, metric, "not_your_device")
            return
        if not isinstance(unit, str | None):
            self._refuse(index, metric, "schema_invalid")
            return
        value, code = self._value_of(record)
        if value is None:
            self._refuse(index, metric, code)
            return
        seconds = record.get("t", 0)
        if not _is_number(seconds) or not math.isfinite(self._time + seconds):  # type: ignore[operator]  # a number
            self._refuse(index, metric, "time_invalid")
            return
        time, age_ms = self._when(self._time + seconds)  # type: ignore[operator]  # it is a number
        unit = None if unit is None else plain_name(unit)
        self.readings.append(DecodedReading(index, metric, value, unit, time, age_ms, None, subject))

    def _split(self, name: str) -> tuple[str | None, str]:
        if not name.startswith(self._own):
            return None, name
        subject, _, metric = name[len(self._own) :].partition("/")
        return subject, metric

    def _value_of(self, record: Mapping[object, object]) -> tuple[float | bool | str | None, str]:
        kinds: Sequence[str] = [kind for kind in ("v", "vs", "vb", "vd") if kind in record]
        if len(kinds) > 1:
            return None, "schema_invalid"
        if not kinds:
            # A missing value counts as zero beside a base value (RFC 8428 §4.5.4); a sum alone is not stored.
            return (None, "schema_invalid") if self._value is None or "s" in record else (self._value, "")
        given = record[kinds[0]]
        if kinds[0] == "v" and _is_number(given):
            total = given + (self._value or 0)  # type: ignore[operator]  # it is a number
            return as_value(total), value_fault(total)
        if (kinds[0] == "vs" and isinstance(given, str)) or (kinds[0] == "vb" and isinstance(given, bool)):
            return given, ""
        return None, "schema_invalid"

    def _when(self, seconds: float) -> tuple[int | None, int | None]:
        """Event time and age in ms, at most one of them; neither where it means now."""
        ms = round(seconds * 1000) if abs(seconds) < 1e15 else int(seconds) * 1000
        if seconds >= _RELATIVE_BELOW_S:
            return ms, None
        if seconds > 0:
            return self._received_ms + ms, None
        return None, -ms if ms else None

    def _refuse(self, index: int, metric: str, code: str) -> None:
        self.refused.append((index, metric[:64], code))
