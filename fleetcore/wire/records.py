"""Plain data ↔ records: one cattrs converter, and the upgrades of records from older releases.

A stored body has no schema number as long as new members have defaults; a change of meaning gets a function in
``UPGRADES``, which runs before structuring. Unknown members are ignored, so an older release can read a newer record.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import attrs
import cattrs
from cattrs.gen import make_dict_unstructure_fn, override
from cattrs.preconf.json import make_converter
from msgspec import Struct, convert, to_builtins
from msgspec.structs import fields, replace

T = TypeVar("T")
Plain = dict[str, object]

#: Kind → functions that upgrade an older body to the present form, oldest first. Each must accept the present form
#: unchanged.
UPGRADES: Mapping[str, tuple[Callable[[Plain], Plain], ...]] = {
    # Before layers existed, all desired state of a device was its own.
    "twin": (lambda body: body if "own" in body else {**body, "own": body.get("desired", {})},),
    # Before executions were counted, the campaign's record held every target.
    "campaign": (lambda body: body if "total" in body else {**body, "total": len(cast("list[str]", body["targets"]))},),
}

#: Record class → the function that makes plain data of its records, generated once.
_PLAIN: dict[type[Any], Callable[[Any], Plain]] = {}

converter: cattrs.Converter = make_converter()
# Members of type object are JSON without conversion; the check is by identity, since every class is an object.
converter.register_structure_hook_func(lambda cls: cls is object, lambda value, _type: value)
# The converter handles any tuple item by item; for the most frequent kind this takes half the time.
converter.register_structure_hook_func(lambda cls: cls == tuple[str, ...], lambda value, _type: tuple(map(str, value)))


def to_plain(record: Any) -> Plain:
    """The JSON-compatible form of a record; members whose default is None are left out while they are None."""
    make = _PLAIN.get(type(record))
    if make is None:
        make = _PLAIN[type(record)] = _maker(type(record))
    return make(record)


def _maker(cls: type[Any]) -> Callable[[Any], Plain]:
    if issubclass(cls, Struct):
        # The content of puts and events is plain already, and stays theirs.
        unset = tuple(field.name for field in fields(cls) if field.default is None)

        def make(record: Struct) -> Plain:
            plain: Plain = to_builtins(record)
            for name in unset:
                if plain[name] is None:
                    del plain[name]
            return plain

        return make
    left_out: dict[str, Any] = {
        field.name: override(omit_if_default=True) for field in attrs.fields(cls) if field.default is None
    }
    return cast("Callable[[Any], Plain]", make_dict_unstructure_fn(cls, converter, **left_out))


def from_plain(kind: str, body: Mapping[str, object], cls: type[T]) -> T:
    """The record of a stored body; raises ``cattrs.BaseValidationError`` for an invalid body.

    For a Struct it raises ``msgspec.ValidationError`` instead.
    """
    plain = dict(body)
    for upgrade in UPGRADES.get(kind, ()):
        plain = upgrade(plain)
    return convert(plain, cls) if issubclass(cls, Struct) else converter.structure(plain, cls)


def at_version(record: T, version: int) -> T:
    """The record with another version; every record class has one."""
    if isinstance(record, Struct):
        return replace(record, version=version)
    return attrs.evolve(record, version=version)  # type: ignore[misc]  # a record class is attrs' or a Struct
