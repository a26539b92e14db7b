"""The query's syntax tree: what a store is asked, and what the core evaluates where a store cannot.

The text that people write is parsed into these nodes (:mod:`fleetcore.query.parse`); code builds them directly. Sugar
is gone by then: ``between`` is two comparisons, ``has any`` an :class:`Or`, ``group`` a look into ``groups``.
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
    """The time of the evaluation and an offset; :func:`~fleetcore.query.resolve.resolved` makes it an Instant."""

    offset_ms: int = 0


@frozen
class Version:
    """A version by Semantic Versioning 2.0.0; compared by its precedence (§11)."""

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
    """Between two parallels and two meridians; ``west`` > ``east`` crosses the antimeridian."""

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
    """A shape by its name; :func:`~fleetcore.query.resolve.resolved` puts the shape in its place."""

    name: str


Shape = Circle | Box | Polygon | Geofence


@frozen
class Compare:
    """A field, named by its path of keys, against a literal."""

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
    """A text field matches a pattern: ``*`` any characters, ``?`` one; case counts."""

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
    """``not`` of unknown is unknown."""

    clause: "Clause"


@frozen
class And:
    """All of the clauses; true of none."""

    clauses: tuple["Clause", ...]


@frozen
class Or:
    """Any of the clauses; false of none."""

    clauses: tuple["Clause", ...]


Leaf = Compare | Has | OneOf | Like | Within | Exists
Clause = Leaf | Not | And | Or
