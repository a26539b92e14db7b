"""Plain data ↔ records: one cattrs converter, and how stored records of older releases are read.

A stored body carries no schema number as long as new members have defaults; a change of meaning gets a function in
``UPGRADES``, which runs before structuring. Unknown members are ignored, so an older release reads a newer record.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import attrs
import cattrs
from cattrs.preconf.json import make_converter

T = TypeVar("T")
Plain = dict[str, object]

#: Kind → functions that bring an older body to today's form, oldest first. Each must accept today's form unchanged.
UPGRADES: Mapping[str, tuple[Callable[[Plain], Plain], ...]] = {
    # Before there were layers, all that was desired of a device was its own.
    "twin": (lambda body: body if "own" in body else {**body, "own": body.get("desired", {})},),
    # Before executions were counted, the campaign's record held every target.
    "campaign": (lambda body: body if "total" in body else {**body, "total": len(cast("list[str]", body["targets"]))},),
}

#: Record class → its members that may be left out, found once.
_LEFT_OUT: dict[type[Any], tuple[str, ...]] = {}

converter: cattrs.Converter = make_converter()
# Members of type object are JSON as it came; the check is by identity, since every class is an object.
converter.register_structure_hook_func(lambda cls: cls is object, lambda value, _type: value)


def to_plain(record: Any) -> Plain:
    """The JSON-compatible form of an attrs record; members that equal their default are left out."""
    plain = cast("Plain", converter.unstructure(record))
    for name in _left_out(type(record)):
        if plain.get(name) is None:
            plain.pop(name, None)
    return plain


def _left_out(cls: type[Any]) -> tuple[str, ...]:
    names = _LEFT_OUT.get(cls)
    if names is None:
        names = _LEFT_OUT[cls] = tuple(field.name for field in attrs.fields(cls) if field.default is None)
    return names


def from_plain(kind: str, body: Mapping[str, object], cls: type[T]) -> T:
    """The record of a stored body; raises ``cattrs.BaseValidationError`` for a body that no release wrote."""
    plain = dict(body)
    for upgrade in UPGRADES.get(kind, ()):
        plain = upgrade(plain)
    return converter.structure(plain, cls)
