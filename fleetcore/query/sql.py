"""Compiles a query to SQL over JSON documents: one compiler, with a dialect for each database.

Only bound parameters reach the database. Negations are pushed to the leaves first (De Morgan holds in three-valued
logic), so a leaf that a database cannot answer may be widened to "perhaps": the whole then selects a superset, and
:attr:`Compiled.exact` tells the core to check again.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from attrs import frozen

from fleetcore.query.ast import (
    And,
    Box,
    Circle,
    Clause,
    Compare,
    Exists,
    Has,
    Instant,
    Leaf,
    Like,
    Literal_,
    Not,
    OneOf,
    Or,
    Path,
    Scalar,
    Shape,
    Version,
    Within,
)
from fleetcore.query.geo import EARTH_M


@frozen
class Sql:
    """An expression and its parameters, in order."""

    text: str
    parameters: tuple[Any, ...] = ()


@frozen
class Compiled:
    """The condition of a ``WHERE``; where it is not ``exact`` it may select more than the query."""

    sql: Sql
    exact: bool


class Dialect(ABC):
    """The SQL of a database. Each method gives an expression that is true, false or NULL, as the leaf is."""

    @abstractmethod
    def exists(self, path: Path) -> Sql:
        """A value other than null exists at the path; never NULL itself."""

    @abstractmethod
    def compare(self, path: Path, operator: str, value: Scalar) -> Sql:
        """As :class:`~fleetcore.query.ast.Compare`, with a plain literal; NULL where the kinds differ."""

    @abstractmethod
    def has(self, path: Path, value: Scalar) -> Sql:
        """As :class:`~fleetcore.query.ast.Has`."""

    def like(self, path: Path, pattern: str) -> Sql | None:
        """As :class:`~fleetcore.query.ast.Like`, or None where the database does not support it."""
        del path, pattern
        return None

    def version(self, path: Path, operator: str, version: str) -> Sql | None:
        """A comparison of versions, or None."""
        del path, operator, version
        return None

    def can_name(self, path: Path) -> bool:
        """Whether a path can be written for this database."""
        del path
        return True


_PERHAPS = Sql("1=1")
_NEVER = Sql("1=0")


def compiled(clause: Clause, dialect: Dialect) -> Compiled:
    """The condition of a clause that is resolved (see resolve.py)."""
    return _Compiler(dialect).condition(clause, positive=True)


class _Compiler:
    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect

    def condition(self, clause: Clause, *, positive: bool) -> Compiled:
        match clause:
            case Not(inner):
                return self.condition(inner, positive=not positive)
            case And(inners):
                return self._joined(inners, "AND" if positive else "OR", positive=positive)
            case Or(inners):
                return self._joined(inners, "OR" if positive else "AND", positive=positive)
            case _:
                return self._leaf(clause, positive=positive)

    def _joined(self, clauses: Sequence[Clause], word: str, *, positive: bool) -> Compiled:
        parts = [self.condition(clause, positive=positive) for clause in clauses]
        if not parts:
            return Compiled(_PERHAPS if word == "AND" else _NEVER, exact=True)
        text = f" {word} ".join(f"({part.sql.text})" for part in parts)
        parameters = tuple(parameter for part in parts for parameter in part.sql.parameters)
        return Compiled(Sql(text, parameters), all(part.exact for part in parts))

    def _leaf(self, leaf: Leaf, *, positive: bool) -> Compiled:
        sql = self._sql(leaf) if self._dialect.can_name(leaf.path) else None
        if sql is None:
            return Compiled(self._wider(leaf, positive=positive), exact=False)
        return Compiled(sql if positive else Sql(f"NOT ({sql.text})", sql.parameters), exact=True)

    def _sql(self, leaf: Leaf) -> Sql | None:
        dialect = self._dialect
        match leaf:
            case Exists(path):
                return dialect.exists(path)
            case Compare(path, operator, value):
                return self._compare(path, operator, value)
            case OneOf(path, values):
                parts = [self._compare(path, "=", value) for value in values]
                if any(part is None for part in parts):
                    return None
                known = [part for part in parts if part is not None]
                text = " OR ".join(f"({part.text})" for part in known) or _NEVER.text
                return Sql(text, tuple(parameter for part in known for parameter in part.parameters))
            case Has(path, value):
                return dialect.has(path, value)
            case Like(path, pattern):
                return dialect.like(path, pattern)
            case Within():
                return None

    def _compare(self, path: Path, operator: str, value: Literal_) -> Sql | None:
        match value:
            case Version(text):
                return self._dialect.version(path, operator, text)
            case Instant(ms):
                return self._dialect.compare(path, operator, ms)
            case str() | float() | int():
                if isinstance(value, bool) and operator not in ("=", "!="):
                    return _NEVER
                return self._dialect.compare(path, operator, value)
        return None

    def _wider(self, leaf: Leaf, *, positive: bool) -> Sql:
        """A condition that is true wherever the leaf is; for a shape the box around it."""
        if positive and isinstance(leaf, Within) and self._dialect.can_name(leaf.path):
            around = _box(leaf.shape)
            if around is not None:
                lat, lon = (*leaf.path, "lat"), (*leaf.path, "lon")
                bounds = [(lat, ">=", around.south), (lat, "<=", around.north)]
                if around.west <= around.east:
                    bounds += [(lon, ">=", around.west), (lon, "<=", around.east)]
                parts = [self._dialect.compare(path, operator, value) for path, operator, value in bounds]
                text = " AND ".join(f"({part.text})" for part in parts)
                return Sql(text, tuple(parameter for part in parts for parameter in part.parameters))
        return _PERHAPS


def _box(shape: Shape) -> Box | None:
    """Parallels and meridians around a shape, with a margin; every longitude near a pole or the antimeridian."""
    import math

    match shape:
        case Box():
            return shape
        case Circle(lat, lon, radius_m):
            reach = math.degrees(radius_m / EARTH_M) * 1.001 + 1e-9
            south, north = lat - reach, lat + reach
            if south <= -90 or north >= 90:
                return Box(max(south, -90.0), -180.0, min(north, 90.0), 180.0)
            wide = reach / math.cos(math.radians(max(abs(south), abs(north)))) * 1.001
            if lon - wide < -180 or lon + wide > 180:
                return Box(south, -180.0, north, 180.0)
            return Box(south, lon - wide, north, lon + wide)
        case _:
            return None
