"""Reading records: by key, by unique value, by due time, and page by page through an index.

Writing is in changes.py. Lists are returned as one JSON text (see plain.py).
"""

import sqlite3
from collections.abc import Sequence
from typing import Any, cast

from msgspec import json

from fleetcore.builtin.sqlite import checksum, damage
from fleetcore.builtin.sqlite.dialect import SqliteDialect
from fleetcore.builtin.sqlite.plain import lenient, listed, text
from fleetcore.model.store import DUE, FoundRecords, Index, Record, due_of, due_sort, place, split_place
from fleetcore.query.ast import Clause
from fleetcore.query.evaluate import matches
from fleetcore.query.sql import Compiled, Sql, compiled

#: Rows fetched at a time while a residual clause is evaluated.
_PAGE_ROWS = 500

_COLUMNS = "kind, key, version, body, checksum"
_OF_R = "r.kind, r.key, r.version, r.body, r.checksum"
Row = tuple[str, str, int, str, int | None]

_DIALECT = SqliteDialect("r.body")
_ALL = Compiled(Sql("1=1"), exact=True)


def get(db: sqlite3.Connection, kind: str, key: str) -> Record | None:
    """One record."""
    with lenient(db):
        row = db.execute(f"SELECT {_COLUMNS} FROM records WHERE kind=? AND key=?", (kind, key)).fetchone()  # noqa: S608 - constants
    return _record(row) if row is not None else None


def get_many(db: sqlite3.Connection, kind: str, keys: Sequence[str]) -> dict[str, Record]:
    """The records of some keys, by key."""
    rows = listed(
        db,
        _COLUMNS,
        f"SELECT {_OF_R} FROM json_each(?) AS j CROSS JOIN records AS r ON r.kind=? AND r.key=j.value",  # noqa: S608 - constants
        (text(list(dict.fromkeys(keys))), kind),
    )
    return {record.key: record for record in map(_record, rows)}


def find_unique(db: sqlite3.Connection, space: str, value: str) -> Record | None:
    """The holder of a unique value."""
    with lenient(db):
        row = db.execute(
            f"SELECT {_OF_R} FROM uniques AS u JOIN records AS r USING (kind, key)"  # noqa: S608 - constants
            " WHERE u.space=? AND u.value=?",
            (space, value),
        ).fetchone()
    return _record(row) if row is not None else None


def holders(db: sqlite3.Connection, space: str, values: Sequence[str]) -> dict[str, Record]:
    """The holders of unique values, by value."""
    rows = listed(
        db,
        f"value, {_COLUMNS}",
        f"SELECT u.value, {_OF_R} FROM json_each(?) AS j"  # noqa: S608 - constants
        " CROSS JOIN uniques AS u ON u.space=? AND u.value=j.value"
        " CROSS JOIN records AS r ON r.kind=u.kind AND r.key=u.key",
        (text(list(dict.fromkeys(values))), space),
    )
    return {value: _record(row) for value, *row in rows}


def due(db: sqlite3.Connection, kind: str, until: int, limit: int) -> Sequence[Record]:
    """Due records, the earliest first."""
    query = f"SELECT {_COLUMNS} FROM records WHERE kind=? AND due<=? ORDER BY due, key LIMIT ?"  # noqa: S608 - constants
    rows = listed(db, _COLUMNS, query, (kind, until, limit))
    return [_record(row) for row in rows]


def page(
    db: sqlite3.Connection, kind: str, index: Index | None, *, after: str | None, limit: int, newest: bool
) -> list[tuple[str, Record]]:
    """Records in the order of their keys, or of an index, each with its position."""
    if index == DUE:
        return _due_page(db, kind, after=after, limit=limit, newest=newest)
    rows = _Walk(db, kind, index, newest=newest).rows(_ALL.sql, after, None, limit)
    return [(place(sort, record.key), record) for sort, *row in rows for record in (_record(row),)]


def find(
    db: sqlite3.Connection,
    kind: str,
    *,
    ref: tuple[str, str] | None,
    where: Clause | None,
    after: str | None,
    limit: int,
    newest: bool,
    scan: int | None,
) -> FoundRecords:
    """A page; fetches one record more, to know whether there is a next page."""
    condition = compiled(where, _DIALECT) if where is not None else _ALL
    residual = None if condition.exact else where
    walk = _Walk(db, kind, ref, newest=newest)
    end = walk.place_of(scan, after) if scan is not None and where is not None else None
    items: list[Record] = []
    size = min(limit + 1, _PAGE_ROWS)
    last = ""
    while True:
        rows = walk.rows(condition.sql, after, end, size)
        for sort, *row in rows:
            record = _record(cast("Row", row))
            if matches(residual, record.body):
                if len(items) == limit:
                    return FoundRecords(items=tuple(items), after=last)
                items.append(record)
                last = place(sort, record.key)
        if len(rows) < size:
            return FoundRecords(items=tuple(items), after=end)
        after, size = place(rows[-1][0], rows[-1][2]), _PAGE_ROWS


def _due_page(
    db: sqlite3.Connection, kind: str, *, after: str | None, limit: int, newest: bool
) -> list[tuple[str, Record]]:
    beyond, direction = ("<", " DESC") if newest else (">", "")
    bound, values = "", list[int | str]()
    if after is not None:
        sort, key = split_place(after)
        bound, values = f" AND (due, key) {beyond} (?, ?)", [due_of(sort), key]
    query = (
        f"SELECT due, {_COLUMNS} FROM records WHERE kind=? AND due IS NOT NULL{bound}"  # noqa: S608 - as above
        f" ORDER BY due{direction}, key{direction} LIMIT ?"
    )
    rows = listed(db, f"due, {_COLUMNS}", query, (kind, *values, limit))
    return [(place(due_sort(due), row[1]), _record(row)) for due, *row in rows]


class _Walk:
    """One pass through the records of a kind: by key, or by the entries of a ref; forwards, or the newest first."""

    def __init__(self, db: sqlite3.Connection, kind: str, ref: tuple[str, str] | None, *, newest: bool) -> None:
        self._db, self._kind, self._sorted = db, kind, ref is not None
        self._parameters: tuple[str, ...]
        self._beyond, self._until, direction = ("<", ">=", " DESC") if newest else (">", "<=", "")
        if ref is None:
            self._index, self._sort, self._key = "records AS r", "''", "r.key"
            self._from, self._where, self._parameters = self._index, "r.kind=?", (kind,)
            self._order = f"r.key{direction}"
        else:
            self._index, self._sort, self._key = "refs AS f", "f.sort", "f.key"
            self._from = "refs AS f CROSS JOIN records AS r ON r.kind = f.kind AND r.key = f.key"
            self._where, self._parameters = "f.kind=? AND f.name=? AND f.value=?", (kind, *ref)
            self._order = f"f.sort{direction}, f.key{direction}"

    def rows(
        self, condition: Sql, after: str | None, end: str | None, size: int
    ) -> list[tuple[str, str, str, int, str, int | None]]:
        """The next rows after ``after``, up to ``end``, that the condition selects: the sort key and the record."""
        bounds, parameters = self._bounds(after, end)
        query = (
            f"SELECT {self._sort} AS sort, {_OF_R} FROM {self._from}"  # noqa: S608 - values are parameters, the rest is ours
            f" WHERE {self._where}{bounds} AND ({condition.text}) ORDER BY {self._order} LIMIT ?"
        )
        values = (*self._parameters, *parameters, *condition.parameters, size)
        with damage.of_records(self._db, self._kind):
            found = listed(self._db, f"sort, {_COLUMNS}", query, values)
        return cast("list[tuple[str, str, str, int, str, int | None]]", found)

    def place_of(self, number: int, after: str | None) -> str | None:
        """The position of the ``number``-th record after ``after``, from the index alone; None if there are fewer."""
        bounds, parameters = self._bounds(after, None)
        query = (
            f"SELECT {self._sort}, {self._key} FROM {self._index} WHERE {self._where}{bounds}"  # noqa: S608 - as above
            f" ORDER BY {self._order} LIMIT 1 OFFSET ?"
        )
        row = self._db.execute(query, (*self._parameters, *parameters, max(0, number - 1))).fetchone()
        return None if row is None else place(*row)

    def _bounds(self, after: str | None, end: str | None) -> tuple[str, tuple[str, ...]]:
        text, values = "", list[str]()
        for operator, bound in ((self._beyond, after), (self._until, end)):
            if bound is None:
                continue
            sort, key = split_place(bound)
            text += f" AND (f.sort, f.key) {operator} (?, ?)" if self._sorted else f" AND r.key {operator} ?"
            values += (sort, key) if self._sorted else (key,)
        return text, tuple(values)


def _record(row: Sequence[Any]) -> Record:
    """The record; raises StorageError (``data_damaged``) if its checksum does not match."""
    kind, key, version, body, kept = row
    if kept is not None and kept != checksum.of_record(kind, key, version, body):
        raise damage.record_damaged(kind, key)
    return Record(kind=kind, key=key, version=version, body=json.decode(body))
