"""The record changes of commits that are written together: checked one after another, then written at once.

Every statement releases the interpreter lock (see plain.py), so its cost is per statement, not per row. A few
statements read what a group of commits touches. Each commit is checked in memory against the result of those before it.
A few more statements write the outcome, whatever the number of commits. Index entries that do not change, as most do
not, are not written again.

A commit's deletes are applied before its puts, and all unique values of the records that it touches are released before
new ones are taken, so values can move between records in one commit. A refused commit changes nothing.
"""

import functools
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

from fleetcore.builtin.sqlite import checksum
from fleetcore.builtin.sqlite.plain import listed, text
from fleetcore.interfaces.commit_plan import unique_conflict, version_conflict
from fleetcore.model.store import Commit, Delete, Put

#: Rows of one INSERT: six values each stay below SQLite's bound of 32,766 parameters.
_MAX_ROWS = 5440
#: Longer statements have a multiple of this many rows, so that few prepared statements exist.
_STEP_ROWS = 64
#: The rows of :func:`_pairs`.
_PAIRS = "json_each(?) AS first CROSS JOIN json_each(first.value) AS second"
#: The stored columns of a record: version, due, body and checksum.
_Row = tuple[int, int | None, str, int]
#: A record: its kind and its key.
Name = tuple[str, str]
#: A unique value: its space and the value.
Value = tuple[str, str]


class RecordChanges:
    """Changes of records; made inside the open transaction that writes them."""

    def __init__(self, db: sqlite3.Connection, commits: Sequence[Commit]) -> None:
        self._db = db
        named = dict.fromkeys(name for commit in commits for name in _touched(commit))
        self._versions: dict[Name, int] = {
            (kind, key): version
            for kind, key, version in listed(
                db,
                "kind, key, version",
                f"SELECT r.kind, r.key, r.version FROM {_PAIRS} CROSS JOIN records AS r"  # noqa: S608 - a constant
                " ON r.kind = first.key AND r.key = second.value",
                (_pairs(named),),
            )
        } if named else {}  # fmt: skip
        self._there = list(self._versions)
        #: The holders of values, and the stored values of records that no commit has touched yet.
        self._holders: dict[Value, Name] = {}
        self._held: dict[Name, set[Value]] = {}
        wanted = {value for commit in commits for put in (*commit.reindexed, *commit.puts) for value in put.unique}
        if wanted:
            for space, value, kind, key in listed(
                db,
                "space, value, kind, key",
                f"SELECT u.space, u.value, u.kind, u.key FROM {_PAIRS} CROSS JOIN uniques AS u"  # noqa: S608 - a constant
                " ON u.space = first.key AND u.value = second.value",
                (_pairs(wanted),),
            ):
                self._holders[space, value] = (kind, key)
                self._held.setdefault((kind, key), set()).add((space, value))
        self._touched: dict[Name, None] = {}
        self._deleted: dict[Name, None] = {}
        self._written: dict[Name, _Row] = {}
        self._dues: dict[Name, int | None] = {}
        self._indexed: dict[Name, Put] = {}

    def take(self, commit: Commit) -> tuple[int, ...]:
        """Adds a commit; returns the versions of its puts.

        Raises:
            VersionConflict: the first record whose version is not the expected one.
            Conflict: a unique value belongs to another record.
            TypeError: a body is not plain data.
        """
        touched = dict.fromkeys(_touched(commit))
        current = {name: self._versions.get(name, 0) for name in touched}
        for delete in commit.deletes:
            name = (delete.kind, delete.key)
            _expect(delete, current[name])
            current[name] = 0
        for entry in commit.reindexed:
            _expect(entry, current[entry.kind, entry.key])
        written: dict[Name, _Row] = {}
        versions = []
        for put in commit.puts:
            name = (put.kind, put.key)
            _expect(put, current[name])
            version = current[name] = current[name] + 1
            versions.append(version)
            body = text(put.body)
            written[name] = (version, put.due, body, checksum.of_record(*name, version, body))
        indexed = {(put.kind, put.key): put for put in (*commit.reindexed, *commit.puts)}
        uniques = self._taken(indexed, touched)
        # Nothing is refused after this point.
        for name in touched:
            if name in self._indexed:
                held: Iterable[Value] = self._indexed[name].unique
            elif name in self._held and name not in self._touched:
                held = self._held[name]
            else:
                continue
            for value in held:
                del self._holders[value]
        self._touched |= touched
        self._versions |= current
        for name in touched.keys() - indexed.keys():
            self._deleted[name] = None
            for kept in (self._written, self._dues, self._indexed):
                kept.pop(name, None)
        self._holders |= uniques
        for entry in commit.reindexed:
            name = (entry.kind, entry.key)
            if name in self._written:
                version, _, body, crc = self._written[name]
                self._written[name] = (version, entry.due, body, crc)
            else:
                self._dues[name] = entry.due
        for anew in (self._deleted, self._dues):
            for name in anew.keys() & written.keys():
                del anew[name]
        self._written |= written
        self._indexed |= indexed
        return tuple(versions)

    def _taken(self, indexed: Mapping[Name, Put], touched: Mapping[Name, None]) -> dict[Value, Name]:
        """The unique values of a commit; raises Conflict where one belongs to another record."""
        uniques: dict[Value, Name] = {}
        for name, put in indexed.items():
            for value in put.unique:
                holder = uniques.setdefault(value, name)
                if holder == name:
                    there = self._holders.get(value, name)
                    holder = name if there in touched else there
                if holder != name:
                    raise unique_conflict(*value, *holder)
        return uniques

    def write(self) -> None:
        """Writes the changes."""
        if not self._touched:
            return
        db = self._db
        if self._deleted:
            named = text(list(self._deleted))
            db.execute(f"DELETE FROM records WHERE (kind, key) IN ({_values(2)})", (named,))  # noqa: S608 - a constant
        if self._written:
            _insert(
                db,
                "records(kind, key, version, due, body, checksum)",
                [(*name, *row) for name, row in self._written.items()],
                " ON CONFLICT(kind, key) DO UPDATE SET version=excluded.version, due=excluded.due, body=excluded.body,"
                " checksum=excluded.checksum",
            )
        if self._dues:
            db.execute(
                "UPDATE records SET due = json_extract(j.value, '$[2]') FROM json_each(?) AS j"
                " WHERE records.kind = json_extract(j.value, '$[0]') AND records.key = json_extract(j.value, '$[1]')",
                (text([(*name, due) for name, due in self._dues.items()]),),
            )
        there = _pairs(name for name in self._there if name in self._touched)
        self._write_uniques(there)
        self._write_refs(there)

    def _write_uniques(self, there: str) -> None:
        old = self._rows("u.space, u.value, u.kind, u.key", "uniques AS u", there)
        new = [(*value, *name) for name, put in self._indexed.items() for value in put.unique]
        if gone := old.difference(new):
            named = f"(space, value) IN ({_values(2)})"
            self._db.execute(f"DELETE FROM uniques WHERE {named}", (text([row[:2] for row in gone]),))  # noqa: S608 - a constant
        if come := sorted(row for row in new if row not in old):
            _insert(self._db, "uniques(space, value, kind, key)", come)

    def _write_refs(self, there: str) -> None:
        old = self._rows("u.kind, u.name, u.value, u.sort, u.key", "refs AS u", there)
        # A list, not a set: most records come in key order, and nearly sorted data sorts quickly.
        new = [(put.kind, name, value, put.sort, put.key) for put in self._indexed.values() for name, value in put.refs]
        if gone := old.difference(new):
            named = f"(kind, name, value, sort, key) IN ({_values(5)})"
            self._db.execute(f"DELETE FROM refs WHERE {named}", (text(list(gone)),))  # noqa: S608 - a constant
        if come := sorted(row for row in new if row not in old):
            # In table order: neighbours go into the same page.
            _insert(self._db, "refs(kind, name, value, sort, key)", come)

    def _rows(self, columns: str, table: str, there: str) -> set[tuple[str, ...]]:
        """The index rows of records that existed before."""
        if not self._there:
            return set()
        query = (
            f"SELECT {columns} FROM {_PAIRS} CROSS JOIN {table}"  # noqa: S608 - constants
            " ON u.kind = first.key AND u.key = second.value"
        )
        names = ", ".join(column.rpartition(".")[2] for column in columns.split(", "))
        return set(map(tuple, listed(self._db, names, query, (there,))))


def _touched(commit: Commit) -> Iterable[Name]:
    changes: tuple[Put | Delete, ...] = (*commit.deletes, *commit.reindexed, *commit.puts)
    return ((change.kind, change.key) for change in changes)


def _pairs(pairs: Iterable[tuple[str, str]]) -> str:
    """Pairs in the form that :data:`_PAIRS` reads: second parts by their first, so that SQLite splits nothing."""
    grouped: dict[str, list[str]] = {}
    for first, second in pairs:
        grouped.setdefault(first, []).append(second)
    return text(grouped)


def _values(width: int) -> str:
    columns = ", ".join(f"json_extract(value, '$[{i}]')" for i in range(width))
    # WHERE true: without it a following ON CONFLICT would be read as part of a join.
    return f"SELECT {columns} FROM json_each(?) WHERE true"  # noqa: S608 - constants


def _insert(db: sqlite3.Connection, into: str, rows: Sequence[tuple[object, ...]], conflict: str = "") -> None:
    """Inserts rows of one width by multi-row statements: a third less time than by one JSON text."""
    at = 0
    while at < len(rows):
        left = len(rows) - at
        size = left if left < _STEP_ROWS else min(left // _STEP_ROWS * _STEP_ROWS, _MAX_ROWS)
        values = tuple(chain.from_iterable(rows[at : at + size]))
        db.execute(f"INSERT INTO {into} VALUES {_places(len(rows[at]), size)}{conflict}", values)  # noqa: S608 - constants
        at += size


@functools.lru_cache(maxsize=256)
def _places(width: int, size: int) -> str:
    row = f"({', '.join('?' * width)})"
    return ", ".join([row] * size)


def _expect(change: Put | Delete, found: int) -> None:
    if change.expect is not None and change.expect != found:
        raise version_conflict(change, found)
