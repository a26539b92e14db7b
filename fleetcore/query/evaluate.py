"""Evaluates a query against plain data: true, false or unknown (None). A thing is selected only on true."""

import operator
from collections.abc import Callable, Mapping
from typing import Any, assert_never

from fleetcore.query.ast import And, Clause, Compare, Exists, Has, Not, OneOf, Or, Scalar

_ABSENT = object()
_OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {  # both sides are of one kind by then
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def matches(clause: Clause | None, body: Mapping[str, object]) -> bool:
    """Whether ``clause`` is true of ``body``; no clause is true of everything."""
    return clause is None or evaluate(clause, body) is True


def evaluate(clause: Clause, body: Mapping[str, object]) -> bool | None:
    """Three-valued truth of ``clause``: comparing an absent field, or values of two kinds, is unknown (None)."""
    match clause:
        case Compare(path, op, value):
            return _compare(_value(body, path), op, value)
        case Has(path, value):
            held = _value(body, path)
            return value in held if isinstance(held, list | tuple) else None
        case OneOf(path, values):
            return _any([_compare(_value(body, path), "=", value) for value in values])
        case Exists(path):
            return _value(body, path) is not _ABSENT
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


def _any(truths: list[bool | None]) -> bool | None:
    return True if True in truths else None if None in truths else False


def _value(body: Mapping[str, object], path: tuple[str, ...]) -> object:
    here: object = body
    for key in path:
        if not isinstance(here, Mapping) or here.get(key) is None:
            return _ABSENT
        here = here[key]
    return here


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "boolean"
    return "number" if isinstance(value, int | float) else "text" if isinstance(value, str) else "other"


def _compare(held: object, op: str, value: Scalar) -> bool | None:
    if held is _ABSENT or _kind(held) != _kind(value):
        return None
    return _OPERATORS[op](held, value)
