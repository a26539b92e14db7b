"""Parses query text to the syntax tree: the grammar, the limits, and errors with a column and a suggestion.

The parser is LALR and builds the tree as it reads, so neither length nor nesting can exhaust the stack.
"""

import difflib
import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, cast

from fleetcore.errors import Refused
from fleetcore.model.days import DAY_MS
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
    Scalar,
    Shape,
    Version,
    Within,
)
from fleetcore.query.versions import version_key

if TYPE_CHECKING:
    from lark import Lark, Token

MAX_BYTES = 4096
MAX_CLAUSES = 64
MAX_DEPTH = 16
#: Each star of a pattern may cost a pass over the text.
_MAX_STARS = 8

#: The first segment of every path; what follows it, if anything may.
FIELDS = {
    "id": False,
    "name": False,
    "type": False,
    "model": False,
    "tags": False,
    "groups": False,
    "lifecycle": False,
    "connectivity": False,
    "last_seen": False,
    "created": False,
    "updated": False,
    "capabilities": False,
    "gateway": False,
    "home": False,
    "firmware": True,
    "desired": True,
    "reported": True,
    "attributes": True,
    "power": True,
    "location": True,
    "latest": True,
}

#: The name in queries for a test of ``groups``.
_GROUP = "group"

_EPOCH, _MILLISECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(milliseconds=1)
#: A thousand years: any offset from now within it is still a valid date.
_MAX_MS = 365_000 * DAY_MS
#: The range of integers in databases; beyond it a number is a float everywhere.
_MAX_INTEGER = 2**63 - 1
_MS = {"ms": 1.0, "s": 1e3, "min": 6e4, "h": 3.6e6, "d": 8.64e7, "w": 6.048e8}
_METRES = {"m": 1.0, "km": 1e3, "mi": 1609.344}

#: Habits from other languages, and what to write here.
_HABITS = {
    "==": "=",
    "<>": "!=",
    "&&": "and",
    "||": "or",
    "!": "not",
    "AND": "and",
    "OR": "or",
    "NOT": "not",
    "IN": "in",
    "LIKE": "like",
    "BETWEEN": "between",
    "contains": "has",
    "is": "exists FIELD, or not exists FIELD",
    "matches": "like",
    "sec": "s",
    "seconds": "s",
    "minutes": "min",
    "hours": "h",
    "days": "d",
    "weeks": "w",
}
_WHOLE_TEXT = re.compile(r"'(?:''|[^'])*'")


class QuerySyntaxError(Refused):
    """The text is not a query; ``ids`` has ``column`` (from 1) and ``line``."""

    default_code = "query_syntax"


@lru_cache(maxsize=256)
def parse(text: str) -> Clause:
    """The syntax tree of a query (docs/reference/query.md).

    Raises:
        QuerySyntaxError: with line, column and a suggestion.
    """
    if len(text.encode(errors="surrogatepass")) > MAX_BYTES:
        raise QuerySyntaxError(f"A query has at most {MAX_BYTES} bytes", code="limit_exceeded", limit=MAX_BYTES)
    if not text.strip():
        raise QuerySyntaxError("The query is empty", remedy="Write one, for example: type = 'sensor'", line=1, column=1)
    from lark.exceptions import UnexpectedInput, VisitError

    try:
        clause = cast("Clause", _parser().parse(text))
    except UnexpectedInput as error:
        raise _unexpected(error, text) from None
    except VisitError as error:  # lark wraps the builder's errors
        raise error.orig_exc from None
    _check_limits(clause)
    return clause


@cache
def _parser() -> "Lark":
    # Reading the grammar takes some 70 ms, and most runs of the command line have no query.
    from lark import Lark

    grammar = files("fleetcore.query").joinpath("grammar.lark").read_text(encoding="utf-8")
    return Lark(grammar, parser="lalr", lexer="contextual", propagate_positions=True, transformer=_builder())


def _check_limits(clause: Clause) -> None:
    clauses, waiting = 0, [(clause, 1)]
    while waiting:
        here, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise QuerySyntaxError(
                f"The query is nested deeper than {MAX_DEPTH}", code="limit_exceeded", limit=MAX_DEPTH
            )
        match here:
            case Not(inner):
                waiting.append((inner, depth + 1))
            case And(inners) | Or(inners):
                waiting.extend((inner, depth + 1) for inner in inners)
            case _:
                clauses += 1
    if clauses > MAX_CLAUSES:
        raise QuerySyntaxError(f"A query has at most {MAX_CLAUSES} clauses", code="limit_exceeded", limit=MAX_CLAUSES)


# -- errors -------------------------------------------------------------------------------------------------------


def _at(token: "Token", message: str, remedy: str = "") -> QuerySyntaxError:
    return QuerySyntaxError(
        f"Line {token.line}, column {token.column}: {message}", remedy=remedy, line=token.line, column=token.column
    )


def _unexpected(error: Any, text: str) -> QuerySyntaxError:
    """A syntax error of lark, in the words of the query language."""
    from lark.exceptions import UnexpectedEOF

    token = getattr(error, "token", None)
    if isinstance(error, UnexpectedEOF) or (token is not None and token.type == "$END"):
        lines = text.splitlines() or [""]
        line, column, found = len(lines), len(lines[-1]) + 1, ""
    else:
        line, column = error.line, error.column
        rest = text.splitlines()[line - 1][column - 1 :]
        found = (_WHOLE_TEXT.match(rest) or [""])[0][:40] or _word(rest)
    known = (getattr(error, name, None) for name in ("accepts", "expected", "allowed"))
    wanted = next((item for item in known if item), ())
    remedy = _HABITS.get(found) or _HABITS.get(found[:2]) or _HABITS.get(found[:1])
    if found[:1] == '"':
        remedy = "'…'. Double quotes are names, single quotes are text"
    if found[:1] == "=":
        remedy = "="
    if remedy:
        remedy = f"Write {remedy} here"
    elif found == "'":
        remedy = "A text ends with ', and a ' within it is written ''"
    elif found == "null":
        remedy = "Ask `not exists FIELD`"
    else:
        near = difflib.get_close_matches(found.lower(), [word.lower() for word in wanted], 1) if found else []
        remedy = f"Did you mean {near[0]!r}?" if near else _expectation(wanted)
    what = f"{found!r} does not fit here" if found else "the query ends too early"
    return QuerySyntaxError(f"Line {line}, column {column}: {what}", remedy=remedy, line=line, column=column)


def _word(rest: str) -> str:
    end = 0
    if rest[:1].isalnum() or rest[:1] == "_":
        while end < len(rest) and (rest[end].isalnum() or rest[end] in "_."):
            end += 1
    else:
        while end < len(rest) and end < 3 and not rest[end].isalnum() and not rest[end].isspace():
            end += 1
    return rest[: max(end, 1)][:40]


_NAMES = {
    "PATH": "a field",
    "OPERATOR": "= != < <= > >=",
    "TEXT": "'text'",
    "NUMBER": "a number",
    "INSTANT": "t'2026-01-01T00:00:00Z'",
    "VERSION": "v'1.2.3'",
    "UNIT": "a unit (ms s min h d w, m km mi)",
    "SIGN": "+ or -",
    "LPAR": "(",
    "RPAR": ")",
    "COMMA": ",",
    "$END": "the end",
}


def _expectation(wanted: Sequence[str]) -> str:
    words = sorted({_NAMES.get(word, word.lower()) for word in wanted})
    return f"Possible here: {', '.join(words)}" if words else ""


# -- building ------------------------------------------------------------------------------------------------------


def _text(token: str) -> str:
    return token[1:-1].replace("''", "'")


def _path(token: "Token") -> Path:
    parts: list[str] = []
    at = 0
    while at < len(token):
        if token[at] == '"':
            end = token.index('"', at + 1)
            parts.append(token[at + 1 : end])
            at = end + 2
        else:
            end = token.find(".", at)
            end = len(token) if end < 0 else end
            parts.append(str(token[at:end]))
            at = end + 1
    root = parts[0]
    if root == _GROUP and len(parts) == 1:
        return ("groups",)
    if root not in FIELDS:
        near = difflib.get_close_matches(root.lower(), FIELDS, 1)
        remedy = f"Did you mean {near[0]!r}?" if near else f"Fields: {', '.join(FIELDS)}"
        raise _at(token, f"field {root!r} does not exist", remedy)
    if len(parts) > 1 and not FIELDS[root]:
        raise _at(token, f"{root} does not have members", f"Write {root} without a member")
    return tuple(parts)


def _any_of(clauses: Sequence[Clause]) -> Clause:
    return clauses[0] if len(clauses) == 1 else Or(tuple(clauses))


def _builder() -> Any:
    """The transformer that lark calls while it parses."""
    from lark import Transformer, v_args

    @v_args(inline=True)
    class Builder(Transformer[Any, Clause]):
        def path(self, token: "Token") -> tuple[Path, "Token"]:
            return _path(token), token

        # literals

        def text(self, token: "Token") -> str:
            return _text(token)

        def number(self, token: "Token") -> float:
            return _number(token)

        def true(self) -> bool:
            return True

        def false(self) -> bool:
            return False

        def null(self) -> None:
            return None

        def quantity(self, number: "Token", unit: "Token") -> tuple[float, "Token"]:
            return float(_number(number)), unit

        def amount(self, quantity: tuple[float, "Token"]) -> float:
            # In comparisons with a field: seconds or metres, the units of the International System.
            number, unit = quantity
            return _finite(number * (_METRES[unit] if unit in _METRES else _MS[unit] / 1000), unit)

        def now(self) -> Now:
            return Now()

        def now_offset(self, sign: "Token", quantity: tuple[float, "Token"]) -> Now:
            number, unit = quantity
            if unit not in _MS:
                remedy = "Minutes are written min" if unit == "m" else f"Durations: {' '.join(_MS)}"
                raise _at(unit, f"{unit} is a length, not a duration", remedy)
            offset_ms = (-1 if sign == "-" else 1) * number * _MS[unit]
            if not abs(offset_ms) <= _MAX_MS:
                raise _at(unit, "that is more than a thousand years from now")
            return Now(round(offset_ms))

        def instant(self, token: "Token") -> Instant:
            when: datetime | None
            try:
                when = datetime.fromisoformat(token[2:-1])
                # A zone may move the first and the last day out of the range of dates.
                when = when.astimezone(UTC) if when.tzinfo is not None else None
            except (ValueError, OverflowError):
                when = None
            if when is None:
                raise _at(token, "this is not a time with a zone", "Write it as in t'2026-01-01T00:00:00Z'")
            return Instant((when - _EPOCH) // _MILLISECOND)

        def version(self, token: "Token") -> Version:
            if version_key(token[2:-1]) is None:
                raise _at(token, "this is not a version", "Write it as in v'1.2.3' (Semantic Versioning)")
            return Version(str(token[2:-1]))

        def list(self, *values: Literal_) -> tuple[Literal_, ...]:
            return values

        # shapes

        def point(self, lat: "Token", lon: "Token") -> tuple[float, float]:
            return _degrees(lat, 90, "latitude"), _degrees(lon, 180, "longitude")

        def ring(self, *points: tuple[float, float]) -> tuple[tuple[float, float], ...]:
            return points

        def circle(self, lat: "Token", lon: "Token", quantity: tuple[float, "Token"]) -> Circle:
            number, unit = quantity
            if unit not in _METRES or number < 0:
                raise _at(unit, "a radius is a length", "Write it as in circle(52.5, 13.4, 5 km)")
            radius_m = _finite(number * _METRES[unit], unit)
            return Circle(_degrees(lat, 90, "latitude"), _degrees(lon, 180, "longitude"), radius_m)

        def box(self, south: "Token", west: "Token", north: "Token", east: "Token") -> Box:
            low, high = _degrees(south, 90, "latitude"), _degrees(north, 90, "latitude")
            if low > high:
                raise _at(south, "the southern edge is north of the other", "Write box(south, west, north, east)")
            return Box(low, _degrees(west, 180, "longitude"), high, _degrees(east, 180, "longitude"))

        def polygon(self, *rings: tuple[tuple[float, float], ...]) -> Polygon:
            return _polygon(rings)

        def plain_polygon(self, *points: tuple[float, float]) -> Polygon:
            return _polygon((points,))

        def geofence(self, token: "Token") -> Geofence:
            return Geofence(_text(token))

        # clauses

        def compare(self, field: tuple[Path, "Token"], operator: "Token", value: Literal_ | None) -> Clause:
            path, token = field
            if value is None:
                remedy = f"Ask `{'not ' if operator == '=' else ''}exists {token}`"
                raise _at(operator, "nothing equals null", remedy)
            if path == ("groups",) and operator in ("=", "!=") and str(token) == _GROUP:
                inside = Has(path, _scalar(value, operator))
                return inside if operator == "=" else Not(inside)
            if isinstance(value, bool) and operator not in ("=", "!="):
                raise _at(operator, "truth values have no order", "Compare them with = or !=")
            return Compare(path, cast("Any", str(operator)), value)

        def one_of(self, field: tuple[Path, "Token"], values: tuple[Literal_ | None, ...]) -> Clause:
            path, token = field
            if any(value is None for value in values):
                raise _at(token, "nothing equals null", f"Ask `exists {token}`")
            if path == ("groups",) and str(token) == _GROUP:
                return _any_of([Has(path, _scalar(value, token)) for value in values])
            return OneOf(path, cast("tuple[Literal_, ...]", values))

        def none_of(self, field: tuple[Path, "Token"], values: tuple[Literal_ | None, ...]) -> Clause:
            return Not(self.one_of(field, values))

        def between(self, field: tuple[Path, "Token"], low: Literal_ | None, high: Literal_ | None) -> Clause:
            path, token = field
            if low is None or high is None or isinstance(low, bool) or isinstance(high, bool):
                raise _at(token, "between needs two values with an order")
            return And((Compare(path, ">=", low), Compare(path, "<=", high)))

        def not_between(self, field: tuple[Path, "Token"], low: Literal_ | None, high: Literal_ | None) -> Clause:
            return Not(self.between(field, low, high))

        def like(self, field: tuple[Path, "Token"], token: "Token") -> Clause:
            pattern = _text(token)
            while "**" in pattern:
                pattern = pattern.replace("**", "*")
            if pattern.count("*") > _MAX_STARS:
                raise _at(token, f"a pattern has at most {_MAX_STARS} stars")
            return Like(field[0], pattern)

        def not_like(self, field: tuple[Path, "Token"], token: "Token") -> Clause:
            return Not(self.like(field, token))

        def has(self, field: tuple[Path, "Token"], value: Scalar | None) -> Clause:
            return Has(field[0], _scalar(value, field[1]))

        def has_any(self, field: tuple[Path, "Token"], values: tuple[Literal_ | None, ...]) -> Clause:
            return _any_of([Has(field[0], _scalar(value, field[1])) for value in values])

        def has_all(self, field: tuple[Path, "Token"], values: tuple[Literal_ | None, ...]) -> Clause:
            found = [Has(field[0], _scalar(value, field[1])) for value in values]
            return found[0] if len(found) == 1 else And(tuple(found))

        def within(self, field: tuple[Path, "Token"], shape: Shape) -> Clause:
            return Within(field[0], shape)

        def not_within(self, field: tuple[Path, "Token"], shape: Shape) -> Clause:
            return Not(Within(field[0], shape))

        def exists(self, field: tuple[Path, "Token"]) -> Clause:
            return Exists(field[0])

        def negation(self, clause: Clause) -> Clause:
            return Not(clause)

        def group(self, clause: Clause) -> Clause:
            return clause

        def both(self, *clauses: Clause) -> Clause:
            return And(clauses)

        def either(self, *clauses: Clause) -> Clause:
            return Or(clauses)

    return Builder()


def _number(token: "Token") -> int | float:
    value = float(token)
    if value in (float("inf"), float("-inf")):
        raise _at(token, "this number is too large")
    whole = int(token) if token.lstrip("-").isdigit() else None
    return value if whole is None or abs(whole) > _MAX_INTEGER else whole


def _finite(value: float, token: "Token") -> float:
    if not math.isfinite(value):
        raise _at(token, "this number is too large")
    return value


def _degrees(token: "Token", most: float, what: str) -> float:
    value = float(token)
    if not -most <= value <= most:
        remedy = "Latitude comes first" if what == "latitude" and abs(value) <= 180 else ""
        raise _at(token, f"a {what} lies within ±{most}", remedy)
    return value


def _polygon(rings: tuple[tuple[tuple[float, float], ...], ...]) -> Polygon:
    for ring in rings:
        if len(set(ring)) < 3:
            raise QuerySyntaxError(
                "A polygon has at least three corners", remedy="Write polygon((lat lon, lat lon, …))"
            )
    return Polygon(rings)


def _scalar(value: object, token: "Token") -> Scalar:
    if not isinstance(value, str | int | float | bool):
        raise _at(token, "a list holds text, numbers and truth values")
    return value
