"""Explains why plain data does not fit a type: where, why, which limit, and what to give instead.

msgspec validates; this module turns its message into the refusal that front ends and protocols give. The same value
gets the same text on every one of them.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType
from msgspec import inspect as types

from fleetcore.wire.times import Ms, TimeFault, read_ms

#: Messages of msgspec → our text.
_SENTENCES: Sequence[tuple[re.Pattern[str], str]] = [
    (re.compile(pattern, re.DOTALL), words)
    for pattern, words in (
        (r"Expected `(\w+)` matching regex .*", "this is not a valid name"),
        (r"Expected `str` of length <= (\d+)", "it may have at most {0} characters"),
        (r"Expected `str` of length >= (\d+)", "it must have at least {0} characters"),
        (r"Expected `(?:array|object)` of length <= (\d+)", "it may have at most {0} items"),
        (r"Expected `(?:array|object)` of length >= (\d+)", "it must have at least {0} items"),
        (r"Expected `(?:int|float)` <= (\S+)", "it must be at most {0}"),
        (r"Expected `(?:int|float)` >= (\S+)", "it must be at least {0}"),
        (r"Expected `(?:int|float)` < (\S+)", "it must be less than {0}"),
        (r"Expected `(?:int|float)` > (\S+)", "it must be more than {0}"),
        (r"Expected `([^`]+)`, got `([^`]+)`", "it must be {0}, not {1}"),
        (r"Object missing required field `([^`]*)`", "{0!r} is missing"),
        (r"Object contains unknown field `([^`]*)`", "member {0!r} does not exist"),
        (r"Invalid enum value (.*)", "{0} is not one of its values"),
    )
]
#: Upper bounds: the message of msgspec → the unit of the limit, where the type does not name it.
_LIMITS: Sequence[tuple[re.Pattern[str], str]] = [
    (re.compile(pattern), unit)
    for pattern, unit in (
        (r"Expected `str` of length <= (\d+)", "characters"),
        (r"Expected `(?:array|object)` of length <= (\d+)", "items"),
        (r"Expected `(?:int|float)` <= (\S+)", ""),
    )
]
_WORDS = {
    "str": "text", "int": "an integer", "float": "a number", "bool": "true or false", "null": "null",
    "array": "a list", "object": "an object",
}  # fmt: skip
#: What to give for each type.
REMEDIES = {
    "an integer": "Give digits", "a number": "Give a number as JSON writes it", "true or false": "Give true or false",
}  # fmt: skip
_PLACE = re.compile(r" - at (?:`key` in )?`\$?([^`]*)`$")
_PATH = re.compile(r"\.([A-Za-z_][A-Za-z0-9_]*)|\[(\d+)\]|\[\.\.\.\]")


class Fault(msgspec.Struct, frozen=True):
    """The fault of one value: where (a JSON pointer), why, and what to do; the exceeded limit, if any."""

    pointer: str
    reason: str
    remedy: str = ""
    code: str = "schema_invalid"
    limit: float | UnsetType = UNSET
    unit: str | UnsetType = UNSET


class Invalid(Exception):
    """One value is invalid."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.reason)
        self.fault = fault


_ALWAYS_FINITE = frozenset({str, int, bool, type(None)})


def not_finite(value: object, at: str = "") -> str | None:
    """The JSON pointer of the first number in ``value`` that is not finite, or None."""
    if isinstance(value, float):
        return None if math.isfinite(value) else at
    places: Iterable[tuple[object, object]] = ()
    if isinstance(value, Mapping):
        places = value.items()
    elif isinstance(value, list | tuple):
        places = enumerate(value)
    for name, item in places:
        if type(item) in _ALWAYS_FINITE:
            continue
        place = not_finite(item, f"{at}/{name}")
        if place is not None:
            return place
    return None


def check_finite(value: object, at: str = "") -> None:
    """Raises Invalid for a number that is not finite, at any depth."""
    place = not_finite(value, at)
    if place is not None:
        raise Invalid(Fault(place, "it is not finite", "Give a finite number", "number_not_finite"))


def plain_hook(kind: Any, value: object) -> object:
    """Msgspec's ``dec_hook`` for plain data; raises TimeFault for an invalid time."""
    if kind is Ms:
        return read_ms(value)
    raise NotImplementedError(f"{kind} is not read from plain data")


def fault_of(error: msgspec.ValidationError, at: str, kind: Any, alphabets: Mapping[str, str]) -> Fault:
    """The fault that msgspec found in a value of type ``kind`` at the pointer ``at``.

    Args:
        alphabets: pattern → a description of its values.
    """
    sentence = str(error)
    place = _PLACE.search(sentence)
    path: list[str] = []
    if place is not None:
        sentence = sentence[: place.start()]
        path = [member or index for member, index in _PATH.findall(place[1]) if member or index]
    pointer = at + "".join(f"/{step}" for step in path)
    info = _at(types.type_info(kind), path)
    cause = error.__cause__
    if isinstance(cause, TimeFault):
        return Fault(pointer, cause.message, cause.remedy, cause.code)
    alphabet = next((words for pattern, words in alphabets.items() if repr(pattern) in sentence), None)
    if alphabet is not None:
        return Fault(pointer, "this is not a valid name", f"Use {alphabet}", "name_invalid")
    remedy = one_of(values) if info is not None and (values := values_of(inner(info))) else ""
    missing = re.fullmatch(r"Object missing required field `([^`]*)`", sentence)
    if missing is not None:
        name = missing[1]
        return Fault(f"{pointer}/{name}", "it is missing", f"Give {name}")
    limit, unit = _limit(sentence, info)
    for pattern, words in _SENTENCES:
        match = pattern.fullmatch(sentence)
        if match is not None:
            parts = [_in_words(part) for part in match.groups()]
            reason = words.format(*(part.removesuffix(".0") for part in parts))
            if unit and words.startswith(("it must be at", "it must be less", "it must be more")):
                reason += f" {unit}"
            return Fault(pointer, reason, remedy or REMEDIES.get(parts[0], ""), limit=limit, unit=unit or UNSET)
    if sentence == "Number out of range" or "out of range" in sentence:
        return Fault(pointer, "it is out of range", "Give a smaller number")
    return Fault(pointer, sentence, remedy)


def one_of(values: Sequence[str]) -> str:
    """The remedy where there are few valid values."""
    return f"Use one of: {', '.join(values)}"


def values_of(info: types.Type) -> list[str]:
    """The valid values of a type that has few; empty where it has many."""
    match info:
        case types.EnumType(cls):
            return [str(member.value) for member in cls]
        case types.LiteralType(values):
            return [str(value) for value in values]
        case _:
            return []


def inner(info: types.Type) -> types.Type:
    """The type without None and without metadata."""
    while isinstance(info, types.Metadata):
        info = info.type
    if isinstance(info, types.UnionType):
        kinds = [each for each in info.types if not isinstance(each, types.NoneType)]
        if len(kinds) == 1:
            return inner(kinds[0])
    return info


def unit_of(info: types.Type) -> str:
    """The unit that a type names by ``Meta(extra={"unit": …})``, or an empty string."""
    unit = _says(info, "unit")
    return unit if isinstance(unit, str) else ""


def _says(info: types.Type, name: str) -> object:
    """A member of the ``extra`` of a type, or None."""
    if isinstance(info, types.Metadata):
        found = (info.extra or {}).get(name)
        return _says(info.type, name) if found is None else found
    if isinstance(info, types.UnionType):
        return next((found for each in info.types if (found := _says(each, name)) is not None), None)
    return None


def in_words(kind: str) -> str:
    """A type as a phrase, ``an integer`` for ``int``."""
    return _WORDS[kind]


def _in_words(part: str) -> str:
    """A type's name as a phrase; None is a missing value."""
    return " or ".join(_WORDS.get(kind, kind) for kind in part.split(" | ") if kind != "null" or part == "null")


def _at(info: types.Type | None, path: Sequence[str]) -> types.Type | None:
    """The type of the value at a path, or None where it is unknown."""
    for step in path:
        match inner(info) if info is not None else None:
            case types.StructType(fields=fields):
                info = next((field.type for field in fields if field.encode_name == step), None)
            case types.ListType(item) | types.VarTupleType(item):
                info = item
            case _:
                return None
    return info


def _limit(sentence: str, info: types.Type | None) -> tuple[float | UnsetType, str]:
    """The exceeded upper bound, and its unit; a number's bound counts as a limit only where its type says so."""
    named = "" if info is None else unit_of(info)
    for pattern, unit in _LIMITS:
        match = pattern.fullmatch(sentence)
        if match is not None and (unit or (info is not None and _says(info, "limit"))):
            return float(match[1]), named or unit
    return UNSET, named
