"""The forms of readings that JSON and CBOR share (wire.md §3): flat, envelope, single, and lists that mix them.

Works on parsed plain data, before names, times and limits are checked. A fault in one reading refuses that reading; the
message is refused only if no reading can be found in it.
"""

import difflib
import math
from collections.abc import Mapping

from fleetcore.interfaces.codec import Decoded, DecodedReading
from fleetcore.model.kinds import EXACT
from fleetcore.model.message import Rejected
from fleetcore.model.names import is_message_id
from fleetcore.wire.readings import RESERVED
from fleetcore.wire.strict_json import MAX_INTEGER

#: Members of the flat form that describe its readings; the other reserved names are refused as metrics.
_ABOUT_NAMES = ("time", "age_ms", "id", "seq")
_ABOUT = frozenset(_ABOUT_NAMES)
#: The members of an envelope, and what devices call the time instead.
_ENVELOPE = _ABOUT | {"values"}
_SPELT = {**{name: name for name in _ENVELOPE}, "ts": "time", "timestamp": "time", "datetime": "time", "at": "time"}
#: Enough of a metric's name to recognise it in a refusal.
_SHOWN = 64


def read_forms(document: object) -> Decoded | Rejected:
    """The readings of a parsed document, in document order.

    The index of a reading is the place of its form in the list, 0 for all readings of a single form. Message ids are
    taken from envelopes only: a flat member ``id`` is too often the device's serial number, and messages that all carry
    the same id would look like repeats.
    """
    forms = _Forms()
    if isinstance(document, list):
        for index, form in enumerate(document):
            fault = _envelope_fault(form)
            if fault is None:
                forms.read(index, form, _id_of(form))
            else:
                forms.refuse(index, fault.pointer[1:], fault.code, fault.reason)
        return Decoded(forms.readings, None, forms.refused)
    if not isinstance(document, dict):
        return Rejected(code="schema_invalid", reason="readings must be an object or a list of objects")
    fault = _envelope_fault(document)
    if fault is not None:
        return fault
    forms.read(0, document, None)
    return Decoded(forms.readings, _id_of(document), forms.refused)


def _envelope_fault(form: object) -> Rejected | None:
    """What is wrong with an envelope apart from its readings: an unknown member, or its id."""
    if not isinstance(form, dict) or not isinstance(form.get("values"), dict):
        return None
    for name in form:
        if name not in _ENVELOPE:
            # Ignoring a time under another name would put a backlog at the time of its receipt.
            text = str(name)[:_SHOWN]
            near = difflib.get_close_matches(text.lower(), _SPELT, 1, 0.5)
            hint = (
                f"did you mean {_SPELT[near[0]]!r}?" if near else f"beside values there are {', '.join(_ABOUT_NAMES)}"
            )
            reason = f"an envelope has no member {text!r}: {hint}"
            return Rejected(code="schema_invalid", reason=reason, pointer=f"/{text}")
    given = form.get("id")
    if given is not None and (not isinstance(given, str) or not is_message_id(given)):
        reason = "a message id must be 1-64 printable ASCII characters without spaces"
        return Rejected(code="schema_invalid", reason=reason, pointer="/id")
    return None


def _id_of(form: object) -> str | None:
    if isinstance(form, dict) and isinstance(form.get("values"), dict):
        given = form.get("id")
        return given if isinstance(given, str) else None
    return None


def as_value(value: object) -> float | bool | str | None:
    """``value`` if it can be a reading's value; else None, and :func:`value_fault` gives the reason."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int) and abs(value) > EXACT:
        return None
    return value if isinstance(value, (bool, int, str)) else None


def value_fault(value: object) -> str:
    """The error code for a ``value`` that cannot be a reading's value."""
    if isinstance(value, int):
        return "number_inexact"
    return "number_not_finite" if isinstance(value, float) else "schema_invalid"


def _nested(metric: str, value: object) -> str:
    """The remedy for a value that is null or holds others; empty for another."""
    if value is None:
        return "null is not a value: leave the reading out"
    if isinstance(value, dict) and value:
        name = f"{metric}.{next(iter(value))}"[:_SHOWN]
        return f"an object is not a value: send its members under separate names, such as {name!r}"
    return "a list is not a value: send each entry under a separate name" if isinstance(value, list) else ""


class _Forms:
    def __init__(self) -> None:
        self.readings: list[DecodedReading] = []
        self.refused: list[tuple[int, str, str, str]] = []
        self._id: str | None = None

    def read(self, index: int, form: object, id: str | None) -> None:
        """Reads one form; ``id`` is that of its envelope in a list."""
        self._id = id
        if not isinstance(form, dict):
            self.refuse(index, "", "schema_invalid", "each entry of the list must be an object with readings")
            return
        seq = form.get("seq")
        if seq is not None and (type(seq) is not int or not 0 <= seq <= MAX_INTEGER):
            self.refuse(index, "seq", "schema_invalid", f"seq must be an integer from 0 to {MAX_INTEGER}")
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
                    # If it were ignored, a device that calls its voltage "v" would lose it without notice.
                    hint = "is reserved beside a flat object's readings: use another name, or put it in values"
                    self.refuse(index, metric, "metric_name_invalid", f"{metric!r} {hint}")

    def _read_single(self, index: int, form: Mapping[object, object], seq: int | None) -> None:
        unit = form.get("unit")
        if unit is not None and not isinstance(unit, str):
            self.refuse(index, form["metric"], "schema_invalid", "unit must be text, such as 'Cel'")
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
            self.refuse(index, metric, "metric_name_invalid", "the name of a metric must be text")
            return
        checked = as_value(value)
        if checked is None:
            self.refuse(index, metric, value_fault(value), _nested(metric, value))
            return
        self.readings.append(
            DecodedReading(index, metric, checked, unit, form.get("time"), form.get("age_ms"), seq, None, self._id)
        )

    def refuse(self, index: int, metric: object, code: str, reason: str) -> None:
        """Notes a reading that the format itself refuses."""
        # A key of a CBOR map may be a number.
        self.refused.append((index, str(metric)[:_SHOWN], code, reason))
