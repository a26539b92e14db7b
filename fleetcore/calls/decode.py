"""Converts given parameters to the values that a call takes, or refuses them: one place for all front ends.

A refusal has a code, a JSON Pointer to the fault, a reason and a remedy, the same on every front end. Text (a path, a
query, a command line) is first converted by the type of the parameter, then validated like JSON.
"""

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import inspect as types

from fleetcore.calls.types import ALPHABETS, Ms, decode_hook
from fleetcore.errors import Refused
from fleetcore.wire.decode import (
    REMEDIES,
    Fault,
    Invalid,
    check_finite,
    fault_of,
    in_words,
    inner,
    one_of,
    values_of,
)
from fleetcore.wire.strict_json import StrictJsonError, loads
from fleetcore.wire.times import TimeFault

_SCALARS = {types.StrType, types.IntType, types.FloatType, types.BoolType}
#: How many faults a refusal lists.
_MAX_FAULTS = 20
_INTEGER = re.compile(r"-?[0-9]{1,30}", re.ASCII)
_NUMBER = re.compile(r"-?[0-9]{1,30}(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?", re.ASCII)
#: A twin's ten levels (wire.md §8) and those of its envelope.
JSON_DEPTH = 12

#: Kind of text → its description, and the types of its plain value.
_GIVEN: Mapping[str, tuple[str, tuple[type, ...]]] = {
    "text": ("text", (str,)),
    "integer": ("an integer", (int,)),
    "number": ("a number", (int, float)),
    "boolean": ("true or false", (bool,)),
    "integer-or-word": ("an integer or text", (int, str)),
    "scalar": ("text", (str, int, float, bool)),
}
_TYPE_NAMES = ((bool, "bool"), (int, "int"), (float, "float"), (str, "str"), (type(None), "null"), (list, "array"))


class Reader:
    """Converts the values of one parameter; made once per parameter, since analysing the type takes time."""

    def __init__(self, name: str, kind: Any) -> None:
        self.name, self.kind = name, kind
        self._info = inner(types.type_info(kind))
        #: How its text is converted: ``text``, ``integer``, ``integer-or-word``, ``number``, ``boolean``, ``time``,
        #: ``scalar``, ``json``, or ``bytes``, which are not converted here.
        self.text_kind = _text_kind(self._info)

    @property
    def repeated(self) -> bool:
        """Whether text gives it item by item."""
        return isinstance(self._info, types.ListType | types.VarTupleType | types.SetType | types.FrozenSetType)

    @property
    def takes_none(self) -> bool:
        """Whether None is a valid value."""
        info = types.type_info(self.kind)
        return isinstance(info, types.UnionType) and any(isinstance(item, types.NoneType) for item in info.types)

    def text(self, texts: Sequence[str]) -> Any:
        """The value of a text; raises Invalid where it has none."""
        return read_text(self.text_kind, texts, self.name, repeated=self.repeated)

    def value(self, given: object) -> Any:
        """A given value as the call takes it; raises Invalid."""
        try:
            found = msgspec.convert(given, self.kind, dec_hook=decode_hook)
        except msgspec.ValidationError as error:
            raise Invalid(fault_of(error, f"/{self.name}", self.kind, ALPHABETS)) from None
        except TimeFault as error:  # the parameter itself is a time: msgspec names only places inside it
            raise Invalid(Fault(f"/{self.name}", error.message, error.remedy, error.code)) from None
        check_finite(found, f"/{self.name}")
        return found


def read_text(kind: str, texts: Sequence[str], name: str, *, repeated: bool) -> Any:
    """The value of a text, by the kind of text; raises Invalid."""
    read = _KINDS[kind]
    if repeated:
        return [read(text, f"/{name}/{at}") for at, text in enumerate(texts)]
    if len(texts) != 1:
        raise Invalid(Fault(f"/{name}", f"it is given {len(texts)} times", "Give it once"))
    return read(texts[0], f"/{name}")


def check_given(kind: str, value: object, name: str, *, repeated: bool, choices: Sequence[str] = ()) -> None:
    """Validates a plain value before it is sent as text; raises Invalid.

    Limits, names and times as text, which are validated alike in both forms, are left to the receiver.
    """
    if repeated:
        if not isinstance(value, list | tuple):
            raise Invalid(_not_a("a list", value, f"/{name}"))
        for at, item in enumerate(value):
            check_given(kind, item, f"{name}/{at}", repeated=False, choices=choices)
    elif kind == "time":
        if isinstance(value, bool) or not (isinstance(value, int | str) or _is_whole(value)):
            reason = "a time is an integer of milliseconds or RFC 3339 text"
            raise Invalid(Fault(f"/{name}", reason, code="time_invalid"))
    elif kind in _GIVEN:
        expected, kinds = _GIVEN[kind]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            fault = _not_a(expected, value, f"/{name}")
            raise Invalid(msgspec.structs.replace(fault, remedy=one_of(choices)) if choices else fault)
        check_finite(value, f"/{name}")


def _is_whole(value: object) -> bool:
    return isinstance(value, float) and value.is_integer()


def _not_a(expected: str, value: object, pointer: str) -> Fault:
    found = next((name for kind, name in _TYPE_NAMES if isinstance(value, kind)), "object")
    return Fault(pointer, f"it must be {expected}, not {in_words(found)}", REMEDIES.get(expected, ""))


def convert(
    readers: Mapping[str, Reader],
    given: Mapping[str, Any],
    *,
    required: Iterable[str] = (),
    texts: Iterable[str] = (),
) -> dict[str, Any]:
    """All given values as the call takes them; the values of ``texts`` are lists of text.

    Raises Refused: its ``ids["pointer"]`` names the first fault, ``ids["errors"]`` lists all.
    """
    found: dict[str, Any] = {}
    faults = [missing(name) for name in required if name not in given]
    textual = frozenset(texts)
    for name, value in given.items():
        reader = readers.get(name)
        try:
            if reader is None:
                raise Invalid(unknown(name, readers))
            found[name] = reader.value(reader.text(value) if name in textual else value)
        except Invalid as invalid:
            faults.append(invalid.fault)
    if faults:
        raise refusal(faults)
    return found


def refusal(faults: Sequence[Fault]) -> Refused:
    """The error for the faults of given values."""
    first = faults[0]
    return Refused(
        "; ".join(f"{fault.pointer}: {fault.reason}" for fault in faults[:_MAX_FAULTS]),
        code=first.code,
        remedy=first.remedy,
        pointer=first.pointer,
        errors=[msgspec.to_builtins(fault) for fault in faults[:_MAX_FAULTS]],
    )


def unknown(name: str, known: Iterable[str]) -> Fault:
    """The fault of a parameter that the call does not have."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, 1)
    remedy = f"Did you mean {near[0]!r}?" if near else f"It has: {', '.join(names) or 'none'}"
    return Fault(f"/{name[:64]}", f"parameter {name[:64]!r} does not exist", remedy)


def missing(name: str) -> Fault:
    """The fault of a missing parameter."""
    return Fault(f"/{name}", "it is missing", f"Give {name}")


def choices(kind: Any) -> list[str]:
    """The valid values of a parameter that has few; empty where it has many."""
    return values_of(inner(types.type_info(kind)))


def _text_kind(info: types.Type) -> str:
    match info:
        case types.IntType():
            return "integer"
        case types.FloatType():
            return "number"
        case types.BoolType():
            return "boolean"
        case types.CustomType(cls) if cls is Ms:
            return "time"
        case types.ListType(item) | types.VarTupleType(item) | types.SetType(item) | types.FrozenSetType(item):
            return _text_kind(inner(item))
        case types.StrType() | types.LiteralType() | types.EnumType():
            return "text"
        case types.UnionType(kinds) if {type(inner(kind)) for kind in kinds} <= _SCALARS:
            return "scalar"
        case types.BytesType():
            return "bytes"
        case types.UnionType(kinds) if {type(inner(kind)) for kind in kinds} == {types.IntType, types.LiteralType}:
            return "integer-or-word"
        case _:
            return "json"


def _text(text: str, _pointer: str) -> str:
    return text


def _integer(text: str, pointer: str) -> int:
    if _INTEGER.fullmatch(text) is None:
        raise Invalid(_not_a("an integer", 0.5 if _NUMBER.fullmatch(text) else text, pointer))
    return int(text)


def _integer_or_word(text: str, _pointer: str) -> int | str:
    return int(text) if _INTEGER.fullmatch(text) else text


def _number(text: str, pointer: str) -> float:
    if _NUMBER.fullmatch(text) is None or not math.isfinite(float(text)):
        raise Invalid(_not_a("a number", text, pointer))
    return float(text)


def _boolean(text: str, pointer: str) -> bool:
    if text not in ("true", "false"):
        raise Invalid(_not_a("true or false", text, pointer))
    return text == "true"


def _time(text: str, _pointer: str) -> object:
    return int(text) if _INTEGER.fullmatch(text) else text


def _json(text: str, pointer: str) -> object:
    try:
        return loads(text.encode(), depth=JSON_DEPTH)
    except StrictJsonError as error:
        raise Invalid(Fault(pointer, f"this is not JSON: {error}", "Give JSON, as in '{\"a\": 1}'")) from None


def _scalar(text: str, _pointer: str) -> object:
    """A number, a boolean or text, as JSON writes it; any other text is taken literally."""
    try:
        found = loads(text.encode())
    except StrictJsonError:
        return text
    return found if isinstance(found, str | int | float) else text


_KINDS: Mapping[str, Callable[[str, str], Any]] = {
    "text": _text, "integer": _integer, "number": _number, "boolean": _boolean, "time": _time, "scalar": _scalar,
    "json": _json, "integer-or-word": _integer_or_word,
}  # fmt: skip
