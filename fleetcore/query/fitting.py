"""Constants that a field cannot have: a query that compares with one never selects anything, so it is refused.

Stored queries, of groups, grants and commands, are not checked: they open as they were written.
"""

import difflib
import re

from fleetcore.model.device import Connectivity, Lifecycle
from fleetcore.query.ast import (
    And,
    Clause,
    Compare,
    Has,
    Instant,
    Like,
    Literal_,
    Not,
    Now,
    OneOf,
    Or,
    Path,
    Version,
    Within,
)
from fleetcore.query.parse import QuerySyntaxError, parse

_TEXTS = frozenset({"id", "name", "type", "model", "gateway", "home", "lifecycle", "connectivity"})
_LISTS = frozenset({"tags", "groups", "capabilities"})
_TIMES = frozenset({"last_seen", "created", "updated"})
_CHOICES = {"lifecycle": [item.value for item in Lifecycle], "connectivity": [item.value for item in Connectivity]}


def parse_new(text: str) -> Clause:
    """The syntax tree of a query that a caller gives now.

    Raises:
        QuerySyntaxError: as :func:`~fleetcore.query.parse.parse`, and for a constant that its field cannot have.
    """
    clause = parse(text)
    waiting = [clause]
    while waiting:
        match waiting.pop():
            case Not(inner):
                waiting.append(inner)
            case And(inners) | Or(inners):
                waiting.extend(reversed(inners))
            case Compare(path, operator, value):
                _compared(text, path, operator, value)
            case OneOf(path, values):
                for value in values:
                    _compared(text, path, "=", value)
            case Has(path, value):
                _held(text, path, value)
            case Like(path, pattern):
                _liked(text, path, pattern)
            case Within(path, _) if path[0] in _TEXTS | _LISTS | _TIMES:
                raise _unfit(text, path, "is not a position", "Write it as in location within circle(52.5, 13.4, 5 km)")
    return clause


def _compared(text: str, path: Path, operator: str, value: Literal_) -> None:
    root = path[0]
    if len(path) > 1:
        return
    if root in _LISTS:
        word = f"'{value}'" if isinstance(value, str) else "'lab'"
        raise _unfit(text, path, "is a list", f"Write {root} has {word}")
    if root in _TIMES and not isinstance(value, Instant | Now):
        hint = f"Write {root} {operator} {_as_time(value)}"
        raise _unfit(text, path, f"is a time, and {_as_text(value)} is not", hint)
    if root == "location":
        raise _unfit(text, path, "is a position", "Write it as in location within circle(52.5, 13.4, 5 km)")
    if root in _TEXTS:
        if not isinstance(value, str):
            plain = value.text if isinstance(value, Version) else _as_text(value)
            raise _unfit(text, path, f"is text, and {_as_text(value)} is not", f"Write {root} {operator} '{plain}'")
        choices = _CHOICES.get(root)
        if choices and value not in choices:
            near = difflib.get_close_matches(value.lower(), choices, 1)
            remedy = f"Did you mean {near[0]!r}?" if near else f"It is one of: {', '.join(choices)}"
            raise _unfit(text, path, f"is never {value!r}", remedy)


def _held(text: str, path: Path, value: object) -> None:
    if len(path) > 1:
        return
    if path[0] in _LISTS and not isinstance(value, str):
        raise _unfit(
            text, path, f"holds texts, and {_as_text(value)} is not", f"Write {path[0]} has '{_as_text(value)}'"
        )
    if path[0] in _TEXTS | _TIMES | {"location"}:
        example = f"Write {path[0]} = '…'" if path[0] in _TEXTS else f"Compare {path[0]} with < or >"
        raise _unfit(text, path, "is not a list", example)


def _liked(text: str, path: Path, pattern: str) -> None:
    if len(path) > 1:
        return
    if path[0] in _LISTS:
        raise _unfit(text, path, "is a list", f"Write {path[0]} has '{pattern}'")
    if path[0] in _TIMES | {"location"}:
        raise _unfit(text, path, "is not text", f"Compare {path[0]} with < or >")


def _as_text(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case Version(text):
            return f"v'{text}'"
        case Instant() | Now():
            return "a time"
        case str():
            return repr(value)
        case float() if value.is_integer():
            return f"{value:.0f}"
    return str(value)


def _as_time(value: object) -> str:
    """The text of the time that was probably meant."""
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\d", value):
        return f"t'{value}T00:00:00Z'"
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\dT[0-9:.]+(Z|[+-]\d\d:\d\d)", value):
        return f"t'{value}'"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "now - 5 min"
    return "t'2026-01-01T00:00:00Z', or now - 5 min"


def _unfit(text: str, path: Path, why: str, remedy: str) -> QuerySyntaxError:
    # The tree has no positions: outside of texts the name stands where the comparison begins.
    blank = re.sub(r"'(?:''|[^'])*'", lambda found: " " * len(found[0]), text)
    name = re.search(rf"\b{path[0].removesuffix('s') if path[0] == 'groups' else path[0]}", blank)
    at = name.start() if name else 0
    line, column = text.count("\n", 0, at) + 1, at - (text.rfind("\n", 0, at) + 1) + 1
    message = f"Line {line}, column {column}: {'.'.join(path)} {why}"
    return QuerySyntaxError(message, remedy=remedy, line=line, column=column)
