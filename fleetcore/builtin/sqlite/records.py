"""Records: versions, unique values, references and due times, in plain tables.

A commit's deletes are applied before its puts, and all unique values of the records it touches are given free before
new ones are taken, so values can move between records in one commit. Everything that can be refused is checked before
the first row is written. Lists go in and come out as one JSON text (see plain.py).
"""

import sqlite3
from collections.abc import Sequence
from typing import cast

from attrs import frozen
from msgspec import json

from fleetcore.builtin.sqlite.dialect import SqliteDialect
from fleetcore.builtin.sqlite.plain import listed, text
from fleetcore.errors import Conflict, VersionConflict
from fleetcore.model.store import Commit, Delete, FoundRecords, Put, Record
from fleetcore.query.ast import Clause
from fleetcore.query.evaluate import matches
from fleetcore.query.sql import Compiled, Sql, compiled

#: Rows fetched at a time while a residual clause is evaluated.
_PAGE_ROWS = 500

_COLUMNS = "kind, key, version, body"
Row = tuple[str, str, int, str]

_DIALECT = SqliteDialect("r.body")
_ALL = Compiled(Sql("1=1"), exact=True)

#: An empty list as JSON.
_NONE = "[]"


@frozen
class RecordPlan:
    """A commit's record changes, checked and ready to be written."""

    touched: str
    deletes: str
    puts: str
    uniques: str
    refs: str
    versions: tuple[int, ...]


def plan(db: sqlite3.Connection, change: Commit) -> RecordPlan | None:
    """Checks versions and unique values inside the open transaction; writes nothing.

    Raises:
        VersionConflict: the first record whose version is not the expected one.
        Conflict: a unique value belongs to another record.
        TypeError: a body is no plain data.
    """
    if not change.puts and not change.deletes:
        return None
    changes: tuple[Put | Delete, ...] = (*change.deletes, *change.puts)
    touched = list({(one.kind, one.key): None for one in changes})
    names = text(touched)
    current = {
        (kind, key): version
        for kind, key, version in listed(
            db,
            "kind, key, version",
            "SELECT r.kind, r.key, r.version FROM json_each(?) AS j CROSS JOIN records AS r"
            " ON r.kind = json_extract(j.value, '$[0]') AND r.key = json_extract(j.value, '$[1]')",
            (names,),
        )
    }
    for delete in change.deletes:
        _expect(delete, current.pop((delete.kind, delete.key), 0))
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
    for put, _ in written.values():
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
        names,
        text([name for name in touched if name not in written]),
        text([[put.kind, put.key, version, put.due, text(put.body)] for put, version in written.values()]),
        text([[*value, *holder] for value, holder in uniques.items()]),
        text([[put.kind, name, value, put.key] for put, _ in written.values() for name, value in put.refs]),
        tuple(versions),
    )


def apply(db: sqlite3.Connection, planned: RecordPlan) -> None:
    """Writes what was planned, in the same transaction."""
    named = "(kind, key) IN (SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?))"
    db.execute(f"DELETE FROM uniques WHERE {named}", (planned.touched,))  # noqa: S608 - a constant
    db.execute(f"DELETE FROM refs WHERE {named}", (planned.touched,))  # noqa: S608 - a constant
    if planned.deletes != _NONE:
        db.execute(f"DELETE FROM records WHERE {named}", (planned.deletes,))  # noqa: S608 - a constant
    if planned.puts != _NONE:
        db.execute(
            f"INSERT INTO records(kind, key, version, due, body) {_rows(5)} ON CONFLICT(kind, key)"
            " DO UPDATE SET version=excluded.version, due=excluded.due, body=excluded.body",
            (planned.puts,),
        )
    if planned.uniques != _NONE:
        db.execute(f"INSERT INTO uniques(space, value, kind, key) {_rows(4)}", (planned.uniques,))
    if planned.refs != _NONE:
        db.execute(f"INSERT INTO refs(kind, name, value, key) {_rows(4)}", (planned.refs,))


def _rows(width: int) -> str:
    columns = ", ".join(f"json_extract(value, '$[{i}]')" for i in range(width))
    # WHERE true: without it a following ON CONFLICT would be read as part of a join.
    return f"SELECT {columns} FROM json_each(?) WHERE true"  # noqa: S608 - constants


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
    db: sqlite3.Connection, kind: str, ref: tuple[str, str] | None, where: Clause | None, after: str | None, limit: int
) -> FoundRecords:
    """A page in key order; fetches one more than asked for to know whether there is a next page."""
    condition = compiled(where, _DIALECT) if where is not None else _ALL
    residual = None if condition.exact else where
    items: list[Record] = []
    size = min(limit + 1, _PAGE_ROWS)
    while True:
        rows = _page(db, kind, ref, condition.sql, after, size)
        for row in rows:
            record = _record(row)
            if matches(residual, record.body):
                if len(items) == limit:
                    return FoundRecords(items=tuple(items), after=items[-1].key)
                items.append(record)
        if len(rows) < size:
            return FoundRecords(items=tuple(items))
        after, size = rows[-1][1], _PAGE_ROWS


def _page(
    db: sqlite3.Connection, kind: str, ref: tuple[str, str] | None, condition: Sql, after: str | None, size: int
) -> list[Row]:
    beyond = ">=" if after is None else ">"
    where = (*condition.parameters, size)
    if ref is None:
        query = (
            "SELECT kind, key, version, body FROM records AS r"  # noqa: S608 - values are parameters, the rest is ours
            f" WHERE kind=? AND key{beyond}? AND ({condition.text}) ORDER BY key LIMIT ?"
        )
        return cast("list[Row]", listed(db, _COLUMNS, query, (kind, after or "", *where)))
    query = (
        "SELECT r.kind, r.key, r.version, r.body FROM refs AS f JOIN records AS r USING (kind, key)"  # noqa: S608 - as above
        f" WHERE f.kind=? AND f.name=? AND f.value=? AND f.key{beyond}? AND ({condition.text}) ORDER BY f.key LIMIT ?"
    )
    return cast("list[Row]", listed(db, _COLUMNS, query, (kind, *ref, after or "", *where)))


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
