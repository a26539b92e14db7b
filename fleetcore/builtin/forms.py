"""The forms of readings that JSON and CBOR share (CONTRACT.md §1): flat, envelope, single, and lists that mix them.

Works on plain data, after a strict parser and before anybody judges names, times and limits. What is wrong with one
reading refuses that reading; only what leaves no readings to speak of refuses the message.
"""

import math
from collections.abc import Mapping

from fleetcore.interfaces.codec import Decoded, DecodedReading
from fleetcore.model.message import Rejected
from fleetcore.model.names import is_message_id
from fleetcore.wire.readings import RESERVED
from fleetcore.wire.strict_json import MAX_INTEGER

#: Members of the flat form that say something about its readings; the other reserved names are refused as metrics.
_ABOUT = frozenset({"time", "age_ms", "seq", "id"})
#: Enough of a metric's name to recognise it by in a refusal.
_SHOWN = 64


def read_forms(document: object) -> Decoded | Rejected:
    """The readings of a parsed document, in the order they stand in.

    The index of a reading is the place of its form in the list, 0 for all readings of a single form. A message id is
    taken from a lone envelope only: a flat member ``id`` is too often the device's serial number, and messages that all
    carry the same id would be taken for repeats.
    """
    forms = _Forms()
    if isinstance(document, list):
        for index, form in enumerate(document):
            forms.read(index, form)
        return Decoded(forms.readings, None, forms.refused)
    if not isinstance(document, dict):
        return Rejected(code="schema_invalid", reason="readings are an object or a list of objects")
    message_id: str | None = None
    if isinstance(document.get("values"), dict) and document.get("id") is not None:
        given = document["id"]
        if not isinstance(given, str) or not is_message_id(given):
            reason = "a message id is 1-64 printable ASCII characters without space"
            return Rejected(code="schema_invalid", reason=reason, pointer="/id")
        message_id = given
    forms.read(0, document)
    return Decoded(forms.readings, message_id, forms.refused)


def as_value(value: object) -> float | bool | str | None:
    """``value`` where it can be a reading's; else None, and :func:`value_fault` says why."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, (bool, int, str)) else None


def value_fault(value: object) -> str:
    """The code of why ``value`` cannot be a reading's value."""
    return "number_not_finite" if isinstance(value, float) else "schema_invalid"


class _Forms:
    def __init__(self) -> None:
        self.readings: list[DecodedReading] = []
        self.refused: list[tuple[int, str, str]] = []

    def read(self, index: int, form: object) -> None:
        if not isinstance(form, dict):
            self._refuse(index, "", "schema_invalid")
            return
        seq = form.get("seq")
        if seq is not None and (type(seq) is not int or not 0 <= seq <= MAX_INTEGER):
            self._refuse(index, "seq", "schema_invalid")
            return
        values = form.get("values")
        if isinstance(values, dict):
            for metric, value in values.items():
                self._add(index, metric, value, None, form, seq)
        elif "metric" in form and "value" in form:
            self._read_single(index, form, seq)
        else:
            for metric, value in form.items():
                if metric not in RESERVED:
                    self._add(index, metric, value, None, form, seq)
                elif metric not in _ABOUT:
                    # Left out silently, a device that calls its voltage "v" would lose it and never know.
                    self._refuse(index, metric, "metric_name_invalid")

    def _read_single(self, index: int, form: Mapping[object, object], seq: int | None) -> None:
        unit = form.get("unit")
        if unit is not None and not isinstance(unit, str):
            self._refuse(index, form["metric"], "schema_invalid")
            return
        self._add(index, form["metric"], form["value"], unit, form, seq)

    def _add(
        self,
        index: int,
        metric: object,
        value: object,
        unit: str | None,
        form: Mapping[object, object],
        seq: int | None,
    ) -> None:
        if not isinstance(metric, str):
            self._refuse(index, metric, "metric_name_invalid")
            return
        checked = as_value(value)
        if checked is None:
            self._refuse(index, metric, value_fault(value))
            return
        self.readings.append(
            DecodedReading(index, metric, checked, unit, form.get("time"), form.get("age_ms"), seq, None)
        )

    def _refuse(self, index: int, metric: object, code: str) -> None:
        # A key of a CBOR map may be a number.
        self.refused.append((index, str(metric)[:_SHOWN], code))
