"""Evaluates a query against plain data: true, false or unknown (None). Only true selects a document."""

import operator
from collections.abc import Callable, Mapping
from typing import Any, assert_never

from fleetcore.query.ast import (
    And,
    Clause,
    Compare,
    Exists,
    Geofence,
    Has,
    Instant,
    Like,
    Literal_,
    Not,
    Now,
    OneOf,
    Or,
    Path,
    Scalar,
    Shape,
    Version,
    Within,
)
from fleetcore.query.geo import within
from fleetcore.query.versions import version_key

#: The value of a field that is absent.
ABSENT = object()
_OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {  # both sides have the same kind here
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def matches(clause: Clause | None, body: Mapping[str, object]) -> bool:
    """Whether ``clause`` is true for ``body``; None as a clause is always true."""
    return clause is None or evaluate(clause, body) is True


def evaluate(clause: Clause, body: Mapping[str, object]) -> bool | None:
    """Three-valued truth of ``clause``: comparing an absent field, or values of two kinds, is unknown (None).

    ``now`` and geofences are :func:`~fleetcore.query.resolve.resolved` first; unresolved they are unknown.
    """
    match clause:
        case Compare(path, op, value):
            return _compare(value_at(body, path), op, value)
        case Has(path, value):
            return _holds(value_at(body, path), value)
        case OneOf(path, values):
            held = value_at(body, path)
            return _any([_compare(held, "=", value) for value in values])
        case Like(path, pattern):
            held = value_at(body, path)
            return like(held, pattern) if isinstance(held, str) else None
        case Within(path, shape):
            return _within(value_at(body, path), shape)
        case Exists(path):
            return value_at(body, path) is not ABSENT
        case Not(inner):
            truth = evaluate(inner, body)
            return None if truth is None else not truth
        case And(clauses):
            truths = [evaluate(inner, body) for inner in clauses]
            return False if False in truths else None if None in truths else True
        case Or(clauses):
            return _any([evaluate(inner, body) for inner in clauses])
        case _:
            assert_never(clause)


def value_at(body: Mapping[str, object], path: Path) -> object:
    """The value of a document at a path, or :data:`ABSENT`; null is absent."""
    here: object = body
    for key in path:
        if not isinstance(here, Mapping) or here.get(key) is None:
            return ABSENT
        here = here[key]
    return here


def like(text: str, pattern: str) -> bool:
    """Whether the whole text matches: ``*`` any characters, ``?`` exactly one. Time grows only with both lengths."""
    at = place = 0
    star, back = -1, 0
    while at < len(text):
        if place < len(pattern) and pattern[place] == "*":
            star, back = place, at
            place += 1
        elif place < len(pattern) and pattern[place] in ("?", text[at]):
            at, place = at + 1, place + 1
        elif star >= 0:
            # The last star takes one more character; earlier ones never need to.
            back += 1
            at, place = back, star + 1
        else:
            return False
    return all(item == "*" for item in pattern[place:])


def _any(truths: list[bool | None]) -> bool | None:
    return True if True in truths else None if None in truths else False


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "boolean"
    return "number" if isinstance(value, int | float) else "text" if isinstance(value, str) else "other"


def _holds(held: object, value: Scalar) -> bool | None:
    if not isinstance(held, list | tuple):
        return None
    kind = _kind(value)
    return any(_kind(item) == kind and item == value for item in held)


def _compare(held: object, op: str, value: Literal_) -> bool | None:
    match value:
        case Version(text):
            key = version_key(held) if isinstance(held, str) else None
            return None if key is None else _OPERATORS[op](key, version_key(text))
        case Instant(ms):
            return _OPERATORS[op](held, ms) if _kind(held) == "number" else None
        case Now():
            return None
    kind = _kind(held)
    if kind != _kind(value) or (kind == "boolean" and op not in ("=", "!=")):
        return None
    return _OPERATORS[op](held, value)


def _within(held: object, shape: Shape) -> bool | None:
    if isinstance(shape, Geofence) or not isinstance(held, Mapping):
        return None
    lat, lon = held.get("lat"), held.get("lon")
    if _kind(lat) != "number" or _kind(lon) != "number":
        return None
    here = float(lat), float(lon)  # type: ignore[arg-type]  # numbers
    # Coordinates out of range are not a position, whatever the sine of them gives.
    return within(shape, *here) if abs(here[0]) <= 90 and abs(here[1]) <= 180 else None
