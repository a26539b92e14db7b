"""The headers of chunks: they select the chunks of a read, and give the newest readings at opening.

Everything in a header but its owner follows from the chunk's content, and the owner is part of the content's checksum.
So a damaged header can be rebuilt, and a flipped bit in it does not hide a chunk.
"""

import logging
import sqlite3
from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np

from fleetcore.builtin.sqlite import checksum, chunks
from fleetcore.builtin.sqlite.chunks import Header
from fleetcore.errors import StorageError
from fleetcore.model.telemetry import Float64, Int64

_log = logging.getLogger(__name__)

COLUMNS = ("series", "t_min", "id", "t_max", "n", "v_last", "q_last", "seq_last")
_LISTED = ", ".join(COLUMNS)
_VALID = "id <= (SELECT value FROM meta WHERE name='chunks')"
_INSERTED = 128


def _checksums(rows: Sequence[Header]) -> Int64:
    """The checksum of each header."""
    columns = zip(*rows, strict=True) if rows else ((),) * len(COLUMNS)
    typed: list[Int64 | Float64] = [
        np.array(column, np.float64) if name == "v_last" else np.array(column, np.int64)
        for name, column in zip(COLUMNS, columns, strict=True)
    ]
    return checksum.of_headers(typed)


def insert(db: sqlite3.Connection, rows: Sequence[Header]) -> None:
    """Writes headers, with their checksums."""
    sums = _checksums(rows).tolist()
    for at in range(0, len(rows), _INSERTED):
        some = [(*row, kept) for row, kept in zip(rows[at : at + _INSERTED], sums[at : at + _INSERTED], strict=True)]
        db.execute(
            f"INSERT INTO chunks({_LISTED}, checksum) VALUES {', '.join(['(?, ?, ?, ?, ?, ?, ?, ?, ?)'] * len(some))}",  # noqa: S608 - placeholders
            list(chain.from_iterable(some)),
        )


def damaged(db: sqlite3.Connection) -> list[Header]:
    """The headers whose checksum does not match."""
    found = db.execute(f"SELECT {_LISTED}, checksum FROM chunks WHERE {_VALID}").fetchall()  # noqa: S608 - constants
    if not found:
        return []
    kept = np.array([-1 if row[-1] is None else row[-1] for row in found], np.int64)
    unknown = np.array([row[-1] is None for row in found], np.bool_)
    sums = _checksums([row[:-1] for row in found])
    return [found[at][:-1] for at in np.flatnonzero((sums != kept) & ~unknown).tolist()]


def mend(db: sqlite3.Connection) -> None:
    """Rebuilds damaged headers; one whose chunk is damaged too stays as it is, and the check names it."""
    wrong = damaged(db)
    if not wrong:
        return
    ids = {row[2] for row in wrong}
    stay = [
        row
        for row in db.execute(f"SELECT {_LISTED} FROM chunks WHERE {_VALID}").fetchall()  # noqa: S608 - constants
        if row[2] not in ids
    ]
    owned = {row[2] for row in stay}
    bodies = db.execute(f"SELECT id, body, checksum FROM chunk_bodies WHERE {_VALID}")  # noqa: S608 - constants
    hints = {row[2]: row[0] for row in wrong}
    series = [index for (index,) in db.execute("SELECT id FROM series ORDER BY id").fetchall()]
    found = {}
    for index, body, kept in bodies:
        if index not in owned:
            header = _from_body(index, body, kept, [hints.get(index, 0), *series])
            if header is not None:
                found[index] = header
    if len(found) < len(wrong):
        _log.error("%d headers of chunks are damaged, and so are their chunks", len(wrong) - len(found))
        # A flipped id: the body without a header belongs to it.
        stay += [row for row in wrong if row[2] not in found][: len(wrong) - len(found)]
    # The whole table: a changed key is at the wrong place of its tree, where no statement finds it.
    sql = db.execute("SELECT sql FROM sqlite_schema WHERE name='chunks'").fetchone()[0]
    db.execute("BEGIN IMMEDIATE")
    try:
        db.execute("ALTER TABLE chunks RENAME TO damaged_chunks")
        db.execute(sql)
        insert(db, sorted([*stay, *found.values()], key=lambda row: row[:3]))
        db.execute("DROP TABLE damaged_chunks")
        db.execute("COMMIT")
    except BaseException:
        db.execute("ROLLBACK")
        raise
    _log.warning("%d headers of chunks were damaged, and are rebuilt from the chunks", len(found))


def _from_body(index: int, body: bytes, kept: int | None, owners: Iterable[int]) -> Header | None:
    for series in owners:
        if kept is None or kept != checksum.of_chunk(series, index, body):
            continue
        try:
            points = chunks.unpack(series, index, body, kept)
        except StorageError:
            return None
        return (
            series,
            int(points.time[0]),
            index,
            int(points.time[-1]),
            len(points),
            float(points.value[-1]),
            int(points.quality[-1]),
            int(points.seq[-1]),
        )
    return None
