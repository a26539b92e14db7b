"""The named values (:mod:`fleetcore.model.values`) as this store saves them: a table for each sort."""

import sqlite3
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from msgspec import json

from fleetcore.builtin.sqlite import checksum
from fleetcore.builtin.sqlite.plain import text
from fleetcore.model import values
from fleetcore.model.store import MessageMark


def _intact(name: str, body: bytes, kept: int | None) -> bytes:
    if kept is not None and kept != checksum.of_blob(name, body):
        raise checksum.damaged(f"The blob {name!r}", blob=name)
    return body


#: The prefix of a space → the columns that name a value (of the space, then the value's), the rest, and the table.
_TABLES: dict[str, tuple[str | None, str, str, str]] = {
    values.CURSORS: (None, "name", "position", "cursors"),
    values.BLOBS: (None, "name", "name, body, checksum", "blobs"),
    values.counters_of(""): ("space", "name", "value", "counters"),
    values.floors_of(""): ("space", "name", "value", "floors"),
    values.marks_of(""): ("device", "id", "time, answer", "marks"),
    values.uniques_of(""): ("space", "value", "kind, key", "uniques"),
}
_VALUES: dict[str, Callable[..., bytes]] = {
    values.BLOBS: _intact,
    values.marks_of(""): lambda time, answer: values.from_mark(
        MessageMark(device="", id="", time=time, answer=json.decode(answer))
    ),
    values.uniques_of(""): values.from_holder,
}


def read(db: sqlite3.Connection, space: str, names: Sequence[str] | None) -> dict[str, bytes]:
    """The values of a space: the named ones, or all."""
    sort, slash, of = space.partition("/")
    sort += slash
    if sort not in _TABLES:
        return {}
    parameters = [of] if slash else []
    if names is None:
        condition = ""
    elif len(names) == 1:
        # The most common: a cursor, a blob, a floor.
        condition = "=?"
        parameters += names
    else:
        condition = " IN (SELECT value FROM json_each(?))"
        parameters.append(text(list(names)))
    rows: list[tuple[Any, ...]] = db.execute(_query(sort, condition), parameters).fetchall()
    value_of = _VALUES.get(sort, values.from_number)
    return {row[0]: value_of(*row[1:]) for row in rows}


@cache
def _query(sort: str, condition: str) -> str:
    space, name, rest, table = _TABLES[sort]
    conditions = [*([f"{space}=?"] if space else []), *([name + condition] if condition else [])]
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    return f"SELECT {name}, {rest} FROM {table}{where}"  # noqa: S608 - constants
