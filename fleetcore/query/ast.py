"""The query's syntax tree: what a store is asked, and what the core evaluates where a store cannot.

The text grammar that people write is parsed into these nodes; code builds them directly.
"""

from typing import Literal

from attrs import frozen

Scalar = str | float | int | bool
Operator = Literal["=", "!=", "<", "<=", ">", ">="]


@frozen
class Compare:
    """A field, named by its path of keys, against a literal."""

    path: tuple[str, ...]
    operator: Operator
    value: Scalar


@frozen
class Has:
    """A list field holds the value."""

    path: tuple[str, ...]
    value: Scalar


@frozen
class OneOf:
    """A field equals one of the values."""

    path: tuple[str, ...]
    values: tuple[Scalar, ...]


@frozen
class Exists:
    """A field is present."""

    path: tuple[str, ...]


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


Clause = Compare | Has | OneOf | Exists | Not | And | Or
