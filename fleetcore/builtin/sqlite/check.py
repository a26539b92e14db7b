"""What can be wrong with a data folder: SQLite's own check, and what these tables promise each other."""

import sqlite3

from fleetcore.builtin.sqlite import chunks, log, schema
from fleetcore.errors import StorageError

#: Each query finds offenders; the sentence is said with their number.
_PROMISES = (
    (
        "SELECT count(*) FROM uniques WHERE (kind, key) NOT IN (SELECT kind, key FROM records)",
        "unique values of no record",
    ),
    ("SELECT count(*) FROM refs WHERE (kind, key) NOT IN (SELECT kind, key FROM records)", "references of no record"),
    ("SELECT count(*) FROM chunks WHERE series NOT IN (SELECT id FROM series)", "chunks of no series"),
    ("SELECT count(*) FROM texts WHERE series NOT IN (SELECT id FROM series)", "text readings of no series"),
    ("SELECT count(*) FROM chunks WHERE id NOT IN (SELECT id FROM chunk_bodies)", "chunks without content"),
    ("SELECT count(*) FROM chunk_bodies WHERE id NOT IN (SELECT id FROM chunks)", "chunk contents without a chunk"),
)


def check(db: sqlite3.Connection) -> list[str]:
    """One sentence for each thing that is wrong, as of one moment."""
    found: list[str] = []
    db.execute("BEGIN")
    try:
        found += [f"SQLite: {row}." for (row,) in db.execute("PRAGMA quick_check") if row != "ok"]
        if found:
            return found
        for query, what in _PROMISES:
            count = db.execute(query).fetchone()[0]
            if count:
                found.append(f"There are {count} {what}.")
        found += _wrong_chunks(db)
        found += _wrong_log(db)
    finally:
        db.execute("ROLLBACK")
    return found


def _wrong_chunks(db: sqlite3.Connection) -> list[str]:
    found = []
    for index, series, t_min, t_max, n, body in db.execute(
        "SELECT c.id, c.series, c.t_min, c.t_max, c.n, b.body FROM chunks AS c JOIN chunk_bodies AS b USING (id)"
    ):
        try:
            points = chunks.unpack(series, body)
        except StorageError:
            found.append(f"Chunk {index} of series {series} cannot be read.")
            continue
        if len(points) != n or int(points.time[0]) != t_min or int(points.time[-1]) != t_max:
            found.append(f"Chunk {index} of series {series} is not what its header says.")
    return found


def _wrong_log(db: sqlite3.Connection) -> list[str]:
    found = []
    meta = schema.meta(db)
    expected = meta["trimmed"] + 1
    for position, readings, extras in db.execute("SELECT position, readings, extras FROM log ORDER BY position"):
        if position != expected:
            found.append(f"The log goes from {expected - 1} to {position}.")
        expected = position + 1
        try:
            log.entry(position, readings, extras)
        except (StorageError, ValueError, TypeError):
            found.append(f"Commit {position} of the log cannot be read.")
    if meta["sealed"] > expected - 1:
        found.append(f"Readings are sealed up to {meta['sealed']}, but the log ends at {expected - 1}.")
    return found
