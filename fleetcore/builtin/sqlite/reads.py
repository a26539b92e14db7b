"""Reading a series: chunks and tail merged by time, in pieces of bounded size, and aggregates over them.

Aggregates are computed from the readings: decoding runs at 15-30 M readings/s, so 30 days of one a minute in hours take
2-3 ms (benchmarks/bench_store.py), and rollups, which late readings would invalidate, are not needed.
"""

import sqlite3
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from attrs import frozen

from fleetcore.builtin.sqlite import checksum, chunks
from fleetcore.builtin.sqlite.order import Points
from fleetcore.builtin.sqlite.plain import listed, text
from fleetcore.builtin.sqlite.tail import series_slice
from fleetcore.model.telemetry import Float64, Int64

#: Readings in one piece, give or take a chunk.
PIECE_POINTS = 65_536

#: Gives the unsealed readings. Called before the database is read: see tail.py.
View = Callable[[], Sequence[Points]]


def piece(db: sqlite3.Connection, view: View, series: int, start: int, end: int) -> tuple[Points, int | None]:
    """The first readings of ``start <= time < end``, and where to continue, None at the end."""
    runs = view()
    # One read transaction: a merge must not take chunks away between the two statements.
    own = not db.in_transaction
    if own:
        db.execute("BEGIN")
    try:
        found = listed(
            db,
            "id, t_min, n",
            "SELECT id, t_min, n FROM chunks WHERE series=? AND t_min<? AND t_max>=?"
            " AND id <= (SELECT value FROM meta WHERE name='chunks') ORDER BY t_min",
            (series, end, start),
        )
        cut, points = end, 0
        wanted: list[int] = []
        for index, t_min, n in found:
            if points + n > PIECE_POINTS and wanted and t_min > start:
                cut = t_min
                break
            wanted.append(index)
            points += n
        tail = []
        for run in runs:
            place = series_slice(run, series, start, cut)
            if place.stop - place.start > PIECE_POINTS:
                cut = int(run.time[place.start + PIECE_POINTS])
            tail.append(run.take(place))
        bodies = db.execute(
            "SELECT id, body, checksum FROM chunk_bodies WHERE id IN (SELECT value FROM json_each(?))",
            (text(wanted),),
        ).fetchall()
        if len(bodies) < len(wanted):
            gone = sorted(set(wanted) - {index for index, _, _ in bodies})
            raise checksum.damaged(f"Chunk {gone[0]} of series {series}", series=series, chunk=gone[0])
    finally:
        if own:
            db.execute("COMMIT")
    parts = [chunks.unpack(series, *row) for row in bodies] + tail
    parts = [clipped for part in parts if len(clipped := _clip(part, start, cut))]
    return _joined(parts), cut if cut < end else None


def _clip(part: Points, start: int, end: int) -> Points:
    if not len(part) or (part.time[0] >= start and part.time[-1] < end):
        return part
    first, last = np.searchsorted(part.time, [start, end])
    return part.take(slice(int(first), int(last)))


def _joined(parts: list[Points]) -> Points:
    if len(parts) == 1:
        return parts[0]
    parts.sort(key=lambda part: int(part.time[0]))
    if all(a.time[-1] < b.time[0] for a, b in pairwise(parts)):
        return Points.concat(parts) if parts else Points.merged([])
    return Points.merged(parts)


@frozen(eq=False)
class Buckets:
    """Aggregates per non-empty bucket."""

    start: Int64
    count: Int64
    min: Float64
    max: Float64
    sum: Float64
    first: Float64
    last: Float64


def aggregate(db: sqlite3.Connection, view: View, series: int, start: int, end: int, bucket_ms: int) -> Buckets:
    """Aggregates of a series in buckets aligned to the epoch."""
    partial: list[Buckets] = []
    at: int | None = start
    while at is not None and at < end:
        points, at = piece(db, view, series, at, end)
        if len(points):
            ones = np.ones(len(points), np.int64)
            value = points.value
            partial.append(_by_start(points.time // bucket_ms * bucket_ms, ones, value, value, value, value, value))
    if not partial:
        empty = np.empty(0)
        none = np.empty(0, np.int64)
        return Buckets(none, none, empty, empty, empty, empty, empty)
    if len(partial) == 1:
        return partial[0]
    # A bucket that two pieces share appears at the end of one and the start of the next.
    return _by_start(
        np.concatenate([b.start for b in partial]),
        np.concatenate([b.count for b in partial]),
        np.concatenate([b.min for b in partial]),
        np.concatenate([b.max for b in partial]),
        np.concatenate([b.sum for b in partial]),
        np.concatenate([b.first for b in partial]),
        np.concatenate([b.last for b in partial]),
    )


def _by_start(
    start: Int64, count: Int64, low: Float64, high: Float64, total: Float64, first: Float64, last: Float64
) -> Buckets:
    cuts = np.flatnonzero(np.concatenate(([True], start[1:] != start[:-1])))
    ends = np.append(cuts[1:], len(start)) - 1
    with np.errstate(over="ignore"):
        # Values near the largest float may have an infinite sum.
        totals = np.add.reduceat(total, cuts)
    return Buckets(
        start[cuts],
        np.add.reduceat(count, cuts),
        np.minimum.reduceat(low, cuts),
        np.maximum.reduceat(high, cuts),
        totals,
        first[cuts],
        last[ends],
    )
