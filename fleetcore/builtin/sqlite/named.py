"""The named values (:mod:`fleetcore.model.values`) as this store keeps them: a table for each sort of them."""

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import json

from fleetcore.builtin.sqlite.plain import text
from fleetcore.model import values
from fleetcore.model.store import MessageMark

#: What a space begins with → the columns that name a value (of the space, then its own), the rest, and the table.
_TABLES: dict[str, tuple[str | None, str, str, str]] = {
    values.CURSORS: (None, "name", "position", "cursors"),
    values.BLOBS: (None, "name", "body", "blobs"),
    values.counters_of(""): ("space", "name", "value", "counters"),
    values.floors_of(""): ("space", "name", "value", "floors"),
    values.marks_of(""): ("device", "id", "time, answer", "marks"),
    values.uniques_of(""): ("space", "value", "kind, key", "uniques"),
}
_VALUES: dict[str, Callable[..., bytes]] = {
    values.BLOBS: bytes,
    values.marks_of(""): lambda time, answer: values.from_mark(
        MessageMark(device="", id="", time=time, answer=json.decode(answer))
    ),
    values.uniques_of(""): values.from_holder,
}


def read(db: sqlite3.Connection, space: str, names: Sequence[str] | None) -> dict[str, bytes]:
    """The values of a space, those of ``names`` or all."""
    sort, slash, of = space.partition("/")
    table = _TABLES.get(sort + slash)
    if table is None:
        return {}
    space_column, name, rest, source = table
    conditions: list[str] = []
    parameters: list[str] = []
    if space_column is not None:
        conditions.append(f"{space_column}=?")
        parameters.append(of)
    if names is not None and len(names) == 1:
        # The commonest: a cursor, a blob, a floor.
        conditions.append(f"{name}=?")
        parameters += names
    elif names is not None:
        conditions.append(f"{name} IN (SELECT value FROM json_each(?))")  # noqa: S608 - a constant
        parameters.append(text(list(names)))
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    rows: list[tuple[Any, ...]] = db.execute(
        f"SELECT {name}, {rest} FROM {source}{where}",  # noqa: S608 - constants
        parameters,
    ).fetchall()
    value_of = _VALUES.get(sort + slash, values.from_number)
    return {row[0]: value_of(*row[1:]) for row in rows}
