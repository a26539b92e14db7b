"""Checks of a data folder: whether the tables are consistent, and whether each row is what was written.

The second reads everything in parts of bounded size, each from its own snapshot: commits go on, and a caller can show
progress. The text that names the next part is private to the store: the stage, the bytes read so far, and the row's
key.
"""

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from attrs import frozen
from msgspec import json

from fleetcore.builtin.sqlite import checksum, chunks, damage, headers, log, schema, texts
from fleetcore.builtin.sqlite.artifacts import Artifacts
from fleetcore.builtin.sqlite.plain import lenient
from fleetcore.builtin.sqlite.state import State
from fleetcore.errors import Refused, StorageError
from fleetcore.model.catalog import Catalog
from fleetcore.model.store import Verified

#: Each query finds offending rows; the sentence states their number.
_PROMISES = (
    (
        "SELECT count(*) FROM uniques WHERE (kind, key) NOT IN (SELECT kind, key FROM records)",
        "unique values without record",
    ),
    (
        "SELECT count(*) FROM refs WHERE (kind, key) NOT IN (SELECT kind, key FROM records)",
        "references without record",
    ),
    ("SELECT count(*) FROM chunks WHERE series NOT IN (SELECT id FROM series)", "chunks without series"),
    ("SELECT count(*) FROM texts WHERE series NOT IN (SELECT id FROM series)", "text readings without series"),
    ("SELECT count(*) FROM chunks WHERE id NOT IN (SELECT id FROM chunk_bodies)", "chunks without content"),
    ("SELECT count(*) FROM chunk_bodies WHERE id NOT IN (SELECT id FROM chunks)", "chunk contents without a chunk"),
)
#: About how much one part reads; each row counts for this in addition to its content.
_PART_BYTES, _ROW_BYTES = 16 * 1024**2, 100
#: Damage beyond this in one part is counted, not named.
_NAMED = 100
#: SQLite compares their indexes with their rows; rows of the other tables are compared with their checksums.
_TABLES = ("meta", "series", "chunks", "records", "uniques", "refs", "marks", "texts", "cursors", "counters", "floors")
_ARTIFACTS = "artifacts"

Row = tuple[Any, ...]


def promises(db: sqlite3.Connection, state: State) -> list[str]:
    """One sentence for each broken consistency rule, and for damage met so far; does not read readings."""
    found: list[str] = []
    db.execute("BEGIN")
    try:
        for query, what in _PROMISES:
            count = db.execute(query).fetchone()[0]
            if count:
                found.append(f"There are {count} {what}.")
        if wrong := headers.damaged(db):
            found.append(f"The headers of {len(wrong)} chunks are damaged; opening the store rebuilds them.")
        found += _gaps(db)
    finally:
        db.execute("ROLLBACK")
    found += [f"Chunk {index} is damaged." for index in sorted(state.damaged_chunks)[:_NAMED]]
    found += [_sentence(_series_damaged(index)) for index in sorted(state.damaged_series)[:_NAMED]]
    return found


def _gaps(db: sqlite3.Connection) -> list[str]:
    """The log's positions are consecutive, from the trimmed one at least to the sealed one."""
    meta = schema.meta(db)
    first, last, count = db.execute("SELECT min(position), max(position), count(*) FROM log").fetchone()
    found = []
    end = meta["trimmed"] if last is None else last
    if first is not None and (first != meta["trimmed"] + 1 or last - first + 1 != count):
        found.append(f"The log has {count} commits between {meta['trimmed'] + 1} and {last}.")
    if meta["sealed"] > end:
        found.append(f"Readings are sealed up to {meta['sealed']}, but the log ends at {end}.")
    return found


def verify(db: sqlite3.Connection, catalog: Catalog, artifacts: Artifacts, after: str | None) -> Verified:
    """Reads and checks one part; see :meth:`~fleetcore.interfaces.Storage.verify`."""
    stages = [*(f"table {name}" for name in _TABLES), *_WALKS, _ARTIFACTS]
    stage, done, key = _place(after) if after is not None else (stages[0], 0, None)
    if stage not in stages:
        raise _no_part(after)
    tables = _bytes(db)
    if stage == _ARTIFACTS:
        problems, read, key = artifacts.verify(key)
    else:
        problems, read, key = _part(db, catalog, stage, key)
    # Free pages are never read, and pages of indexes are not counted: after the last row the check is complete.
    done = done + read if stage == _ARTIFACTS else min(done + read, tables)
    if key is None:
        at = stages.index(stage) + 1
        stage = stages[at] if at < len(stages) else ""
        done = tables if stage == _ARTIFACTS else done
    whole = tables + artifacts.size()
    return Verified(
        problems=tuple(problems[:_NAMED] + ([f"{more} more."] if (more := len(problems) - _NAMED) > 0 else [])),
        done=min(done, whole) if stage else whole,
        total=whole,
        after=json.encode([stage, done, key]).decode() if stage else None,
    )


def _place(after: str) -> tuple[str, int, Any]:
    try:
        stage, done, key = json.decode(after)
    except ValueError as error:
        raise _no_part(after) from error
    return stage, done, key


def _no_part(after: str | None) -> Refused:
    return Refused(f"The check has no part named {after!r}", code="schema_invalid", remedy="Begin it anew")


def _bytes(db: sqlite3.Connection) -> int:
    size, pages, free = (
        int(db.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("page_size", "page_count", "freelist_count")
    )
    return size * (pages - free)


def _part(db: sqlite3.Connection, catalog: Catalog, stage: str, key: Any) -> tuple[list[str], int, Any]:
    """The faults, the bytes read, and the key to continue after; None at the stage's end."""
    db.execute("BEGIN")
    try:
        with lenient(db):
            if stage in _WALKS:
                return _WALKS[stage].part(db, catalog, key)
            name = stage.partition(" ")[2]
            rows = db.execute(f"PRAGMA integrity_check({name})").fetchall()
            return [f"SQLite: {row}." for (row,) in rows if row != "ok"], 0, None
    except sqlite3.DatabaseError as error:
        # An unreadable page ends its table, not the check.
        return [f"SQLite cannot read {stage} to its end: {error}."], 0, None
    finally:
        db.execute("ROLLBACK")


@frozen
class _Walk:
    """One pass through the rows of a table.

    Attributes:
        rows: the query; its last column is the checksum.
        key: the columns that order the rows, the first of those selected.
        wrong: the damage of a row, None if it is intact.
    """

    rows: str
    key: tuple[str, ...]
    wrong: Callable[[sqlite3.Connection, Catalog, Row], StorageError | None]

    def part(self, db: sqlite3.Connection, catalog: Catalog, key: Sequence[Any] | None) -> tuple[list[str], int, Any]:
        """As :func:`_part`."""
        order = ", ".join(self.key)
        bound = "" if key is None else f" WHERE ({order}) > ({', '.join('?' * len(self.key))})"
        found, read = [], 0
        for row in db.execute(f"{self.rows}{bound} ORDER BY {order}", [] if key is None else key):
            try:
                error = self.wrong(db, catalog, row)
            except StorageError as damaged:
                error = damaged
            if error is not None:
                found.append(_sentence(error))
            read += _ROW_BYTES + sum(len(value) for value in row if isinstance(value, str | bytes))
            if read >= _PART_BYTES:
                return found, read, list(row[: len(self.key)])
        return found, read, None


def _chunk(db: sqlite3.Connection, catalog: Catalog, row: Row) -> StorageError | None:
    series, t_min, index, t_max, n, body, kept = row
    if body is None:
        return damage.named(db, catalog, checksum.damaged(f"Chunk {index}", series=series, chunk=index))
    try:
        points = chunks.unpack(series, index, body, kept)
    except StorageError as error:
        return damage.named(db, catalog, error)
    if len(points) != n or int(points.time[0]) != t_min or int(points.time[-1]) != t_max:
        return checksum.damaged(f"The header of chunk {index} of series {series}")
    return None


def _commit(_db: sqlite3.Connection, _catalog: Catalog, row: Row) -> StorageError | None:
    log.entry(row)
    return None


def _record(_db: sqlite3.Connection, _catalog: Catalog, row: Row) -> StorageError | None:
    return damage.of_record(*row[1:])


def _blob(_db: sqlite3.Connection, _catalog: Catalog, row: Row) -> StorageError | None:
    _, name, body, kept = row
    return checksum.damaged(f"The blob {name!r}") if kept not in (None, checksum.of_blob(name, body)) else None


def _text(_db: sqlite3.Connection, catalog: Catalog, row: Row) -> StorageError | None:
    if row[-1] in (None, checksum.of_row(*row[:-1])):
        return None
    whose = catalog.series(row[0]) if catalog.has(row[0]) else None
    name = f"series {row[0]}" if whose is None else f"{whose.metric} of {whose.device}"
    return checksum.damaged(f"A text reading of {name} at {row[1]} ms")


def _mark(_db: sqlite3.Connection, _catalog: Catalog, row: Row) -> StorageError | None:
    wrong = row[-1] not in (None, checksum.of_row(*row[:-1]))
    return checksum.damaged(f"The mark of message {row[1]!r} of {row[0]}") if wrong else None


def _series(_db: sqlite3.Connection, _catalog: Catalog, row: Row) -> StorageError | None:
    return None if row[-1] in (None, checksum.of_row(*row[:-1])) else _series_damaged(row[0])


def _series_damaged(index: int) -> StorageError:
    return checksum.damaged(f"The row of series {index}")


_WALKS = {
    "series": _Walk("SELECT id, device, metric, unit, kind, checksum FROM series", ("id",), _series),
    "records": _Walk(
        "SELECT rowid, CAST(kind AS BLOB), CAST(key AS BLOB), version, CAST(body AS BLOB), checksum FROM records",
        ("rowid",),
        _record,
    ),
    "blobs": _Walk("SELECT rowid, name, body, checksum FROM blobs", ("rowid",), _blob),
    "marks": _Walk("SELECT device, id, time, answer, checksum FROM marks", ("device", "id"), _mark),
    "texts": _Walk(f"SELECT {texts.COLUMNS} FROM texts", ("series", "time"), _text),  # noqa: S608 - a constant
    "log": _Walk(f"SELECT {log.COLUMNS} FROM log", ("position",), _commit),  # noqa: S608 - a constant
    "chunks": _Walk(
        "SELECT c.series, c.t_min, c.id, c.t_max, c.n, b.body, b.checksum"
        " FROM chunks AS c LEFT JOIN chunk_bodies AS b ON b.id = c.id",
        ("c.series", "c.t_min", "c.id"),
        _chunk,
    ),
}


def _sentence(error: StorageError) -> str:
    return f"{error.message}."
