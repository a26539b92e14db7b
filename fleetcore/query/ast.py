"""The query's syntax tree: stores translate it, and the core evaluates what a store cannot.

Query text is parsed into these nodes (:mod:`fleetcore.query.parse`); code builds them directly. They contain no
shorthand: ``between`` is two comparisons, ``has any`` an :class:`Or`, ``group`` a test of ``groups``.
"""

from typing import Literal

from attrs import frozen

Scalar = str | float | int | bool
Operator = Literal["=", "!=", "<", "<=", ">", ">="]
Path = tuple[str, ...]


@frozen
class Instant:
    """A point in time, ms since the epoch."""

    ms: int


@frozen
class Now:
    """The time of the evaluation plus an offset; :func:`~fleetcore.query.resolve.resolved` makes it an Instant."""

    offset_ms: int = 0


@frozen
class Version:
    """A version by Semantic Versioning 2.0.0; compared by precedence (§11)."""

    text: str


Literal_ = Scalar | Instant | Now | Version


@frozen
class Circle:
    """Everything within ``radius_m`` of a point, on a sphere; degrees."""

    lat: float
    lon: float
    radius_m: float


@frozen
class Box:
    """The area between two parallels and two meridians; ``west`` > ``east`` crosses the antimeridian."""

    south: float
    west: float
    north: float
    east: float


@frozen
class Polygon:
    """Rings of (lat, lon): the first is the outside, the others are holes; edges are straight in degrees."""

    rings: tuple[tuple[tuple[float, float], ...], ...]


@frozen
class Geofence:
    """A shape by its name; :func:`~fleetcore.query.resolve.resolved` replaces it by the shape."""

    name: str


Shape = Circle | Box | Polygon | Geofence


@frozen
class Compare:
    """A comparison of a field, given as a path of keys, with a literal."""

    path: Path
    operator: Operator
    value: Literal_


@frozen
class Has:
    """A list field holds the value."""

    path: Path
    value: Scalar


@frozen
class OneOf:
    """A field equals one of the values."""

    path: Path
    values: tuple[Literal_, ...]


@frozen
class Like:
    """A text field matches a pattern: ``*`` any characters, ``?`` one; case-sensitive."""

    path: Path
    pattern: str


@frozen
class Within:
    """A position ``{"lat": …, "lon": …}`` lies within a shape, its edge included."""

    path: Path
    shape: Shape


@frozen
class Exists:
    """A field is present."""

    path: Path


@frozen
class Not:
    """Negation; ``not`` of unknown is unknown."""

    clause: "Clause"


@frozen
class And:
    """All of the clauses; true for an empty list."""

    clauses: tuple["Clause", ...]


@frozen
class Or:
    """Any of the clauses; false for an empty list."""

    clauses: tuple["Clause", ...]


Leaf = Compare | Has | OneOf | Like | Within | Exists
Clause = Leaf | Not | And | Or
