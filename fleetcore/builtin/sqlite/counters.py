"""Counters and floors: numbers that a commit changes without reading them first.

A counter changes by a difference, so commits that count the same thing do not wait for each other; a floor only rises.
"""

import sqlite3
from collections.abc import Iterable, Mapping

from fleetcore.builtin.sqlite.plain import text
from fleetcore.model.store import Commit, Counter

_ROWS = (
    "SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]')"
    " FROM json_each(?) WHERE true ON CONFLICT(space, name) DO UPDATE SET value ="
)


def apply(db: sqlite3.Connection, changes: Iterable[Commit]) -> None:
    """Writes the counters and floors of commits inside their transaction."""
    added: dict[Counter, int] = {}
    floors: dict[Counter, int] = {}
    for change in changes:
        for counter, delta in change.add.items():
            added[counter] = added.get(counter, 0) + delta
        for name, level in change.floors.items():
            floors[name] = max(level, floors.get(name, level))
    if add := _rows({counter: delta for counter, delta in added.items() if delta}):
        db.execute(f"INSERT INTO counters(space, name, value) {_ROWS} value + excluded.value", (add,))
        named = "SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?)"
        db.execute(f"DELETE FROM counters WHERE value = 0 AND (space, name) IN ({named})", (add,))  # noqa: S608 - a constant
    if rows := _rows(floors):
        db.execute(f"INSERT INTO floors(space, name, value) {_ROWS} max(value, excluded.value)", (rows,))


def _rows(numbers: Mapping[Counter, int]) -> str:
    return text([[space, name, number] for (space, name), number in numbers.items()]) if numbers else ""
