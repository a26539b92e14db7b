"""Resolves the open parts of a query: the time of the evaluation, once for the whole query, and named shapes."""

from collections.abc import Callable, Iterator, Mapping

from attrs import evolve

from fleetcore.query.ast import (
    And,
    Box,
    Circle,
    Clause,
    Compare,
    Geofence,
    Instant,
    Leaf,
    Not,
    Now,
    OneOf,
    Or,
    Path,
    Polygon,
    Within,
)

Fences = Mapping[str, Circle | Box | Polygon]


def resolved(clause: Clause, now_ms: int, fences: Fences | None = None) -> Clause:
    """The same query at a point in time. An unknown geofence stays, and no position is known to lie in it."""
    known = fences or {}

    def fix(leaf: Leaf) -> Leaf:
        match leaf:
            case Compare(_, _, Now(offset_ms)):
                return evolve(leaf, value=Instant(now_ms + offset_ms))
            case OneOf(_, values) if any(isinstance(value, Now) for value in values):
                fixed = (Instant(now_ms + value.offset_ms) if isinstance(value, Now) else value for value in values)
                return evolve(leaf, values=tuple(fixed))
            case Within(_, Geofence(name)) if name in known:
                return evolve(leaf, shape=known[name])
        return leaf

    return _mapped(clause, fix)


def _mapped(clause: Clause, fix: Callable[[Leaf], Leaf]) -> Clause:
    match clause:
        case Not(inner):
            return Not(_mapped(inner, fix))
        case And(inners):
            return And(tuple(_mapped(inner, fix) for inner in inners))
        case Or(inners):
            return Or(tuple(_mapped(inner, fix) for inner in inners))
        case _:
            return fix(clause)


def leaves(clause: Clause) -> Iterator[Leaf]:
    """Every clause about a field, from left to right."""
    match clause:
        case Not(inner):
            yield from leaves(inner)
        case And(inners) | Or(inners):
            for inner in inners:
                yield from leaves(inner)
        case _:
            yield clause


def paths(clause: Clause) -> frozenset[Path]:
    """The fields that a query reads."""
    return frozenset(leaf.path for leaf in leaves(clause))


def is_timed(clause: Clause) -> bool:
    """Whether the passing of time alone can change the result."""
    return any(
        (isinstance(leaf, Compare) and isinstance(leaf.value, Now))
        or (isinstance(leaf, OneOf) and any(isinstance(value, Now) for value in leaf.values))
        or leaf.path == ("connectivity",)
        for leaf in leaves(clause)
    )


def weakened(clause: Clause, known: Callable[[Path], bool]) -> Clause:
    """A query on known fields only that is true wherever ``clause`` is; ``And(())`` where nothing is left.

    Negations are pushed to the leaves first: an unknown leaf may only be widened where it is not negated.
    """
    return _weakened(clause, known, positive=True)


def _weakened(clause: Clause, known: Callable[[Path], bool], *, positive: bool) -> Clause:
    match clause:
        case Not(inner):
            return _weakened(inner, known, positive=not positive)
        case And(inners) | Or(inners):
            parts = [_weakened(inner, known, positive=positive) for inner in inners]
            if isinstance(clause, And) is positive:
                kept = tuple(part for part in parts if part != _ANYTHING)
                return kept[0] if len(kept) == 1 else And(kept)
            return _ANYTHING if _ANYTHING in parts else Or(tuple(parts))
        case _:
            if not known(clause.path):
                return _ANYTHING
            return clause if positive else Not(clause)


_ANYTHING = And(())
