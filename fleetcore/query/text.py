"""A syntax tree as text that parses to the same tree; ``explain`` names clauses by it."""

import re
from datetime import UTC, datetime, timedelta
from typing import assert_never

from fleetcore.query.ast import (
    And,
    Box,
    Circle,
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
    Polygon,
    Shape,
    Version,
    Within,
)

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_text(clause: Clause) -> str:
    """The query; operands of lower precedence are in parentheses."""
    match clause:
        case Compare(path, operator, value):
            return f"{path_text(path)} {operator} {_literal(value)}"
        case Has(path, value):
            return f"{path_text(path)} has {_literal(value)}"
        case OneOf(path, values):
            return f"{path_text(path)} in ({', '.join(map(_literal, values))})"
        case Like(path, pattern):
            return f"{path_text(path)} like {_literal(pattern)}"
        case Within(path, shape):
            return f"{path_text(path)} within {_shape(shape)}"
        case Exists(path):
            return f"exists {path_text(path)}"
        case Not(inner):
            return f"not {_operand(inner)}"
        case And(clauses):
            return " and ".join(map(_operand, clauses))
        case Or(clauses):
            return " or ".join(
                f"({to_text(clause)})" if isinstance(clause, Or) else to_text(clause) for clause in clauses
            )
        case _:
            assert_never(clause)


def path_text(path: Path) -> str:
    """A path as text: names that are not words in double quotes."""
    return ".".join(part if _PLAIN.fullmatch(part) else f'"{part}"' for part in path)


def _operand(clause: Clause) -> str:
    return f"({to_text(clause)})" if isinstance(clause, And | Or) else to_text(clause)


def _literal(value: Literal_) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return "'" + value.replace("'", "''") + "'"
        case Now(offset_ms):
            return "now" if offset_ms == 0 else f"now {'-' if offset_ms < 0 else '+'} {abs(offset_ms)} ms"
        case Instant(ms):
            return f"t'{(_EPOCH + timedelta(milliseconds=ms)).isoformat(timespec='milliseconds')}'"
        case Version(text):
            return f"v'{text}'"
        case _:
            return repr(value)


def _shape(shape: Shape) -> str:
    match shape:
        case Circle(lat, lon, radius_m):
            return f"circle({lat!r}, {lon!r}, {radius_m!r} m)"
        case Box(south, west, north, east):
            return f"box({south!r}, {west!r}, {north!r}, {east!r})"
        case Polygon(rings):
            return f"polygon({', '.join('(' + ', '.join(f'{lat!r} {lon!r}' for lat, lon in r) + ')' for r in rings)})"
        case Geofence(name):
            return f"geofence({_literal(name)})"
        case _:
            assert_never(shape)
