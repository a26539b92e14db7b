"""Sealing: readings move from the tail to compressed chunks, and small chunks are merged.

New chunks are written in many short transactions above ``meta.chunks``, which readers ignore; one last short
transaction raises ``meta.chunks`` and ``meta.sealed`` together. So commits go on in between, and after a crash either
the log or the chunks count: nothing is lost or doubled. Chunks above ``meta.chunks`` are removed at opening. A merge
replaces all its chunks of some series in one transaction.
"""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from typing import Protocol, TypeVar

import numpy as np

from fleetcore.builtin.sqlite import checksum, chunks, headers, schema
from fleetcore.builtin.sqlite.chunks import Packed
from fleetcore.builtin.sqlite.order import Points
from fleetcore.builtin.sqlite.plain import listed, text
from fleetcore.builtin.sqlite.state import State
from fleetcore.builtin.sqlite.writer import Change, Statements
from fleetcore.model.telemetry import Int64

T = TypeVar("T")

#: Chunks written in one transaction: about 1 ms a hundred, which is what a commit waits for at most.
_SLICE = 256

#: Rows of one INSERT; see plain.py for why not one row each.
_ROWS = 128

#: A chunk with fewer readings is small; this many small chunks of one series and size class (powers of 4) are merged.
_SMALL, _FEW = chunks.CHUNK_POINTS // 2, 4

#: Readings unpacked at a time by a merge.
_MERGE_POINTS = 500_000


class Maintenance(Protocol):
    """The maintaining thread's access to the database."""

    def write(self, change: Change[T]) -> T:
        """Commits a change and waits for it."""
        ...

    def look(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Reads and waits for it."""
        ...


def seal(state: State, database: Maintenance) -> None:
    """Seals everything that is committed by now."""
    # Position first: readings committed between the two lines are sealed, and after a crash also read from the log.
    # They are the same, and reads merge them.
    position = state.feed.position
    points = state.tail.freeze()
    last = database.write(Statements(clear_staged))
    packed = chunks.pack(points)
    while some := list(islice(packed, _SLICE)):
        database.write(Statements(partial(insert, packed=some, first=last + 1), weight=weight(some)))
        last += len(some)
    database.write(_Validate(state, last, position))


def merge(state: State, database: Maintenance) -> int:
    """Merges small chunks of one size class of a series; returns how many. Damaged ones stay as they are."""
    rows = database.look(
        lambda db: listed(
            db,
            "series, t_min, id, n",
            "SELECT series, t_min, id, n FROM chunks"
            " WHERE n < ? AND id <= (SELECT value FROM meta WHERE name='chunks')",
            (_SMALL,),
        )
    )
    rows = [row for row in rows if row[2] not in state.damaged_chunks]
    if not rows:
        return 0
    merged = 0
    for some in _crowds(np.array(rows, np.int64)):
        read = database.look(partial(_read, some=some, state=state))
        if len(read) < len(some):
            continue  # the intact ones are merged the next time
        points = Points.merged(read)
        packed = list(chunks.pack(points))
        database.write(Statements(partial(replace, packed=packed, old=some), weight=2 * weight(packed)))
        merged += len(some)
    return merged


def clear_staged(db: sqlite3.Connection) -> int:
    """Removes chunks that never became valid; returns the id of the last valid one."""
    valid = schema.meta(db)["chunks"]
    if db.execute("SELECT 1 FROM chunk_bodies WHERE id > ? LIMIT 1", (valid,)).fetchone():
        db.execute("DELETE FROM chunk_bodies WHERE id > ?", (valid,))
        db.execute("DELETE FROM chunks WHERE id > ?", (valid,))
    return valid


def insert(db: sqlite3.Connection, packed: Sequence[Packed], first: int) -> None:
    """Writes chunks with ids from ``first``."""
    rest = iter(enumerate(packed, first))
    while some := list(islice(rest, _ROWS)):
        db.execute(
            f"INSERT INTO chunk_bodies(id, body, checksum) VALUES {', '.join(['(?, ?, ?)'] * len(some))}",  # noqa: S608 - placeholders
            list(
                chain.from_iterable(
                    (index, chunk.body, checksum.of_chunk(chunk.series, index, chunk.body)) for index, chunk in some
                )
            ),
        )
        headers.insert(db, [chunk.header(index) for index, chunk in some])


def weight(packed: Sequence[Packed]) -> int:
    """Bytes that writing chunks takes, roughly."""
    return sum(len(chunk.body) + 128 for chunk in packed)


class _Validate(Change[None]):
    """Makes the chunks up to ``last`` valid; they hold all readings up to ``position``."""

    def __init__(self, state: State, last: int, position: int) -> None:
        self._state, self._last, self._position = state, last, position

    def apply(self, db: sqlite3.Connection) -> None:
        """See the class."""
        schema.set_meta(db, "chunks", self._last)
        schema.set_meta(db, "sealed", self._position)
        self.result = None

    def publish(self) -> None:
        """See the class."""
        self._state.sealed = self._position
        self._state.tail.drop_frozen()


def _crowds(rows: Int64) -> Iterator[Int64]:
    """Groups of rows to merge, each complete, up to a bounded number of readings together."""
    size_class = np.log2(rows[:, 3]).astype(np.int64) // 2
    rows = rows[np.lexsort((rows[:, 1], size_class, rows[:, 0]))]
    size_class = np.log2(rows[:, 3]).astype(np.int64) // 2
    starts = np.flatnonzero(
        np.concatenate(([True], (rows[1:, 0] != rows[:-1, 0]) | (size_class[1:] != size_class[:-1])))
    )
    ends = np.append(starts[1:], len(rows))
    taken: list[Int64] = []
    points = 0
    for start, end in zip(starts[ends - starts >= _FEW].tolist(), ends[ends - starts >= _FEW].tolist(), strict=True):
        taken.append(rows[start:end])
        points += int(rows[start:end, 3].sum())
        if points >= _MERGE_POINTS or sum(len(some) for some in taken) >= _SLICE:
            yield np.concatenate(taken)
            taken, points = [], 0
    if taken:
        yield np.concatenate(taken)


def _read(db: sqlite3.Connection, some: Int64, state: State) -> list[Points]:
    """The chunks that are intact."""
    ids = some[:, 2].tolist()
    owner = dict(zip(ids, some[:, 0].tolist(), strict=True))
    rows = db.execute(
        "SELECT id, body, checksum FROM chunk_bodies WHERE id IN (SELECT value FROM json_each(?))", (text(ids),)
    )
    found = (state.intact(owner[index], index, body, kept) for index, body, kept in rows)
    return [points for points in found if points is not None]


def replace(db: sqlite3.Connection, packed: Sequence[Packed], old: Int64) -> None:
    """Replaces chunks, given as rows of ``series, t_min, id``. On a full database the deleted ones make room."""
    remove(db, old)
    first = schema.meta(db)["chunks"] + 1
    insert(db, packed, first)
    schema.set_meta(db, "chunks", first + len(packed) - 1)


def remove(db: sqlite3.Connection, old: Int64) -> None:
    """Deletes chunks, given as rows of ``series, t_min, id``."""
    db.execute(
        "DELETE FROM chunks WHERE (series, t_min, id) IN (SELECT json_extract(value, '$[0]'),"
        " json_extract(value, '$[1]'), json_extract(value, '$[2]') FROM json_each(?))",
        (text(old[:, :3].tolist()),),
    )
    db.execute("DELETE FROM chunk_bodies WHERE id IN (SELECT value FROM json_each(?))", (text(old[:, 2].tolist()),))
