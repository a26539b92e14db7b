"""Plain data ↔ records: one cattrs converter, and how stored records of older releases are read.

A stored body carries no schema number as long as new members have defaults; a change of meaning gets a function in
``UPGRADES``, which runs before structuring. Unknown members are ignored, so an older release reads a newer record.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import attrs
import cattrs
from cattrs.gen import make_dict_unstructure_fn, override
from cattrs.preconf.json import make_converter
from msgspec import Struct, to_builtins

T = TypeVar("T")
Plain = dict[str, object]

#: Kind → functions that bring an older body to today's form, oldest first. Each must accept today's form unchanged.
UPGRADES: Mapping[str, tuple[Callable[[Plain], Plain], ...]] = {
    # Before there were layers, all that was desired of a device was its own.
    "twin": (lambda body: body if "own" in body else {**body, "own": body.get("desired", {})},),
    # Before executions were counted, the campaign's record held every target.
    "campaign": (lambda body: body if "total" in body else {**body, "total": len(cast("list[str]", body["targets"]))},),
}

#: Record class → what makes plain data of its records, made once.
_PLAIN: dict[type[Any], Callable[[Any], Plain]] = {}

converter: cattrs.Converter = make_converter()
# Members of type object are JSON as it came; the check is by identity, since every class is an object.
converter.register_structure_hook_func(lambda cls: cls is object, lambda value, _type: value)
# What the converter makes of any tuple item by item; the most frequent kind is read a quarter as long.
converter.register_structure_hook_func(lambda cls: cls == tuple[str, ...], lambda value, _type: tuple(map(str, value)))


def to_plain(record: Any) -> Plain:
    """The JSON-compatible form of a record; its members that are None by default are left out as long."""
    make = _PLAIN.get(type(record))
    if make is None:
        make = _PLAIN[type(record)] = _maker(type(record))
    return make(record)


def _maker(cls: type[Any]) -> Callable[[Any], Plain]:
    if issubclass(cls, Struct):
        # Puts and events: what they hold is plain already, and stays theirs.
        return cast("Callable[[Any], Plain]", to_builtins)
    left_out: dict[str, Any] = {
        field.name: override(omit_if_default=True) for field in attrs.fields(cls) if field.default is None
    }
    return cast("Callable[[Any], Plain]", make_dict_unstructure_fn(cls, converter, **left_out))


def from_plain(kind: str, body: Mapping[str, object], cls: type[T]) -> T:
    """The record of a stored body; raises ``cattrs.BaseValidationError`` for a body that no release wrote."""
    plain = dict(body)
    for upgrade in UPGRADES.get(kind, ()):
        plain = upgrade(plain)
    return converter.structure(plain, cls)
