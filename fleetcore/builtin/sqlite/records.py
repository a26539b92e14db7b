"""Records: versions, unique values, references and due times, in plain tables.

A commit's deletes are applied before its puts, and all unique values of the records it touches are given free before
new ones are taken, so values can move between records in one commit. Everything that can be refused is checked before
the first row is written. What is looked up goes in and comes out as one JSON text (see plain.py); what is inserted goes
in by statements of many rows, which a commit of a thousand devices takes a third less time for.
"""

import functools
import sqlite3
from collections.abc import Sequence
from itertools import chain
from typing import cast

from attrs import frozen
from msgspec import json

from fleetcore.builtin.sqlite.dialect import SqliteDialect
from fleetcore.builtin.sqlite.plain import listed, text
from fleetcore.errors import Conflict, VersionConflict
from fleetcore.model.store import Commit, Delete, FoundRecords, Put, Record, place, split_place
from fleetcore.query.ast import Clause
from fleetcore.query.evaluate import matches
from fleetcore.query.sql import Compiled, Sql, compiled

#: Rows fetched at a time while a residual clause is evaluated.
_PAGE_ROWS = 500

_COLUMNS = "kind, key, version, body"
Row = tuple[str, str, int, str]

_DIALECT = SqliteDialect("r.body")
_ALL = Compiled(Sql("1=1"), exact=True)

#: Rows of one INSERT: five values each stay below SQLite's bound of 32,766 parameters.
_MOST_ROWS = 6016
#: Longer statements have a multiple of so many rows, which keeps the prepared statements few.
_STEP_ROWS = 64


@frozen
class RecordPlan:
    """A commit's record changes, checked and ready to be written.

    Attributes:
        shown: whether a body changes; index entries alone are no news for the feed.
        known: the records that exist already, whose index entries are written anew.
    """

    shown: bool
    known: Sequence[tuple[str, str]]
    deletes: Sequence[tuple[str, str]]
    puts: Sequence[tuple[str, str, int, int | None, str]]
    dues: Sequence[tuple[str, str, int | None]]
    uniques: Sequence[tuple[str, str, str, str]]
    refs: Sequence[tuple[str, str, str, str, str]]
    versions: tuple[int, ...]


def plan(db: sqlite3.Connection, change: Commit) -> RecordPlan | None:
    """Checks versions and unique values inside the open transaction; writes nothing.

    Raises:
        VersionConflict: the first record whose version is not the expected one.
        Conflict: a unique value belongs to another record.
        TypeError: a body is no plain data.
    """
    if not change.puts and not change.deletes and not change.reindexed:
        return None
    changes: tuple[Put | Delete, ...] = (*change.deletes, *change.reindexed, *change.puts)
    touched = list({(one.kind, one.key): None for one in changes})
    current = {
        (kind, key): version
        for kind, key, version in listed(
            db,
            "kind, key, version",
            "SELECT r.kind, r.key, r.version FROM json_each(?) AS j CROSS JOIN records AS r"
            " ON r.kind = json_extract(j.value, '$[0]') AND r.key = json_extract(j.value, '$[1]')",
            (text(touched),),
        )
    }
    known = list(current)
    for delete in change.deletes:
        _expect(delete, current.pop((delete.kind, delete.key), 0))
    for entry in change.reindexed:
        _expect(entry, current.get((entry.kind, entry.key), 0))
    indexed = {(put.kind, put.key): put for put in (*change.reindexed, *change.puts)}
    written: dict[tuple[str, str], tuple[Put, int]] = {}
    versions = []
    for put in change.puts:
        name = (put.kind, put.key)
        found = current.get(name, 0)
        _expect(put, found)
        current[name] = found + 1
        versions.append(found + 1)
        written[name] = (put, found + 1)
    uniques: dict[tuple[str, str], tuple[str, str]] = {}
    for put in indexed.values():
        for value in put.unique:
            if uniques.setdefault(value, (put.kind, put.key)) != (put.kind, put.key):
                raise _taken(value, *uniques[value])
    if uniques:
        own = set(touched)
        for space, value, kind, key in listed(
            db,
            "space, value, kind, key",
            "SELECT u.space, u.value, u.kind, u.key FROM json_each(?) AS j CROSS JOIN uniques AS u"
            " ON u.space = json_extract(j.value, '$[0]') AND u.value = json_extract(j.value, '$[1]')",
            (text(list(uniques)),),
        ):
            if (kind, key) not in own:
                raise _taken((space, value), kind, key)
    return RecordPlan(
        bool(change.puts or change.deletes),
        known,
        [name for name in known if name not in indexed],
        [(put.kind, put.key, version, put.due, text(put.body)) for put, version in written.values()],
        [(put.kind, put.key, put.due) for put in change.reindexed if (put.kind, put.key) not in written],
        [(*value, *holder) for value, holder in uniques.items()],
        # In their order in the table: neighbours go into the same page.
        sorted((put.kind, name, value, put.sort, put.key) for put in indexed.values() for name, value in put.refs),
        tuple(versions),
    )


def apply(db: sqlite3.Connection, planned: RecordPlan) -> None:
    """Writes what was planned, in the same transaction."""
    named = "(kind, key) IN (SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?))"
    if planned.known:
        known = text(planned.known)
        db.execute(f"DELETE FROM uniques WHERE {named}", (known,))  # noqa: S608 - a constant
        db.execute(f"DELETE FROM refs WHERE {named}", (known,))  # noqa: S608 - a constant
    if planned.deletes:
        db.execute(f"DELETE FROM records WHERE {named}", (text(planned.deletes),))  # noqa: S608 - a constant
    _insert(
        db,
        "records(kind, key, version, due, body)",
        planned.puts,
        " ON CONFLICT(kind, key) DO UPDATE SET version=excluded.version, due=excluded.due, body=excluded.body",
    )
    if planned.dues:
        db.execute(
            "UPDATE records SET due = json_extract(j.value, '$[2]') FROM json_each(?) AS j"
            " WHERE records.kind = json_extract(j.value, '$[0]') AND records.key = json_extract(j.value, '$[1]')",
            (text(planned.dues),),
        )
    _insert(db, "uniques(space, value, kind, key)", planned.uniques)
    _insert(db, "refs(kind, name, value, sort, key)", planned.refs)


def _insert(db: sqlite3.Connection, into: str, rows: Sequence[tuple[object, ...]], conflict: str = "") -> None:
    """Inserts rows of one width, as many a step as can be (see plain.py for why)."""
    at = 0
    while at < len(rows):
        left = len(rows) - at
        size = left if left < _STEP_ROWS else min(left // _STEP_ROWS * _STEP_ROWS, _MOST_ROWS)
        values = tuple(chain.from_iterable(rows[at : at + size]))
        db.execute(f"INSERT INTO {into} VALUES {_places(len(rows[at]), size)}{conflict}", values)  # noqa: S608 - constants
        at += size


@functools.lru_cache(maxsize=256)
def _places(width: int, size: int) -> str:
    row = f"({', '.join('?' * width)})"
    return ", ".join([row] * size)


def get(db: sqlite3.Connection, kind: str, key: str) -> Record | None:
    """One record."""
    row = db.execute("SELECT kind, key, version, body FROM records WHERE kind=? AND key=?", (kind, key)).fetchone()
    return _record(row) if row is not None else None


def find_unique(db: sqlite3.Connection, space: str, value: str) -> Record | None:
    """The holder of a unique value."""
    row = db.execute(
        "SELECT r.kind, r.key, r.version, r.body FROM uniques AS u JOIN records AS r USING (kind, key)"
        " WHERE u.space=? AND u.value=?",
        (space, value),
    ).fetchone()
    return _record(row) if row is not None else None


def holders(db: sqlite3.Connection, space: str, values: Sequence[str]) -> dict[str, Record]:
    """The holders of unique values, by value."""
    rows = listed(
        db,
        f"value, {_COLUMNS}",
        "SELECT u.value, r.kind, r.key, r.version, r.body FROM json_each(?) AS j"
        " CROSS JOIN uniques AS u ON u.space=? AND u.value=j.value"
        " CROSS JOIN records AS r ON r.kind=u.kind AND r.key=u.key",
        (text(list(dict.fromkeys(values))), space),
    )
    return {value: _record(row) for value, *row in rows}


def due(db: sqlite3.Connection, kind: str, until: int, limit: int) -> Sequence[Record]:
    """Records that are due, the earliest first."""
    rows = listed(
        db,
        _COLUMNS,
        "SELECT kind, key, version, body FROM records WHERE kind=? AND due<=? ORDER BY due, key LIMIT ?",
        (kind, until, limit),
    )
    return [_record(row) for row in rows]


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
    """A page; fetches one more than asked for to know whether there is a next page."""
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


class _Walk:
    """One way through the records of a kind: by key, or by the entries of a ref; forwards, or the newest first."""

    def __init__(self, db: sqlite3.Connection, kind: str, ref: tuple[str, str] | None, *, newest: bool) -> None:
        self._db, self._sorted = db, ref is not None
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
    ) -> list[tuple[str, str, str, int, str]]:
        """The next rows behind ``after``, up to ``end``, that the condition selects: the sort and the record."""
        bounds, parameters = self._bounds(after, end)
        query = (
            f"SELECT {self._sort} AS sort, r.kind, r.key, r.version, r.body FROM {self._from}"  # noqa: S608 - values are parameters, the rest is ours
            f" WHERE {self._where}{bounds} AND ({condition.text}) ORDER BY {self._order} LIMIT ?"
        )
        values = (*self._parameters, *parameters, *condition.parameters, size)
        return cast("list[tuple[str, str, str, int, str]]", listed(self._db, f"sort, {_COLUMNS}", query, values))

    def place_of(self, number: int, after: str | None) -> str | None:
        """The place of the ``number``-th record behind ``after``, from the index alone; None where there are fewer."""
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


def _record(row: Row) -> Record:
    return Record(kind=row[0], key=row[1], version=row[2], body=json.decode(row[3]))


def _expect(change: Put | Delete, found: int) -> None:
    if change.expect is not None and change.expect != found:
        raise VersionConflict(
            f"{change.kind} {change.key} has version {found}, not {change.expect}",
            remedy="Read it again and repeat the change",
            kind=change.kind,
            key=change.key,
            version=found,
        )


def _taken(value: tuple[str, str], kind: str, key: str) -> Conflict:
    return Conflict(f"The {value[0]} {value[1]!r} belongs to {kind} {key}", space=value[0], kind=kind, key=key)
