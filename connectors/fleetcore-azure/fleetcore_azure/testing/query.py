"""The part of IoT Hub's query language that mirrors use: ``SELECT * FROM devices WHERE …`` with ``AND``, and counts."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from fleetcore_azure.testing.rules import invalid

_SELECT = re.compile(r"SELECT \* FROM devices(?: WHERE (.+))?", re.DOTALL)
_COUNT = re.compile(r"SELECT COUNT\(\) AS (\w+) (FROM .+)", re.DOTALL)
_IS = re.compile(r"([A-Za-z0-9_.:-]+) = (?:'((?:[^'\\]|\\.)*)'|(true|false|-?\d+))")
_DEFINED = re.compile(r"(NOT )?is_defined\(([A-Za-z0-9_.:-]+)\)")

Condition = Callable[[Mapping[str, Any]], bool]


def counting(text: str) -> tuple[str, str] | None:
    """For a counting query, the name of the number, and the query to be counted."""
    found = _COUNT.fullmatch(text.strip())
    return None if found is None else (found[1], f"SELECT * {found[2]}")


def condition(text: str) -> Condition:
    """Whether a query matches a twin. Raises :class:`RefusedByAzure` for an unsupported query."""
    found = _SELECT.fullmatch(text.strip())
    if found is None:
        raise invalid(f"the query {text!r}")
    conditions = [_one(part) for part in found[1].split(" AND ")] if found[1] else []
    return lambda twin: all(each(twin) for each in conditions)


def _one(text: str) -> Condition:
    if defined := _DEFINED.fullmatch(text.strip()):
        wanted, path = defined[1] is None, defined[2]
        return lambda twin: (_at(twin, path) is not None) is wanted
    if equal := _IS.fullmatch(text.strip()):
        path = equal[1]
        value: object = re.sub(r"\\(.)", r"\1", equal[2]) if equal[2] is not None else _constant(equal[3])
        return lambda twin: _at(twin, path) == value and type(_at(twin, path)) is type(value)
    raise invalid(f"the condition {text!r}")


def _constant(text: str) -> object:
    return text == "true" if text in {"true", "false"} else int(text)


def _at(twin: Mapping[str, Any], path: str) -> Any:
    value: Any = twin
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
