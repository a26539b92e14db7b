"""Buckets of a time zone's days and hours, combined from a store's buckets in UTC.

A bucket begins where the local time, counted from 1970-01-01 00:00, is a multiple of its length: one of 24 hours is a
calendar day, with 23 or 25 hours at a change of the clock. A bucket longer than the change continues over it; an hour
that the clock runs through twice is two buckets of one hour.
"""

import math
from collections.abc import Sequence
from datetime import tzinfo

import numpy as np

from fleetcore.interfaces.storage import Storage
from fleetcore.model.telemetry import Aggregates, Float64, Int64
from fleetcore.wire.zones import Span, spans

#: start, count, min, max, sum, first and last of each bucket.
_Columns = tuple[Int64, Int64, Float64, Float64, Float64, Float64, Float64]
Bucket = tuple[int, int, float, float, float, float, float, float]


async def local_buckets(
    storage: Storage, series: int, start: int, end: int, bucket_ms: int, zone: tzinfo, limit: int
) -> list[Bucket]:
    """The first buckets, at most ``limit``, of the points with ``start <= time < end`` (ms).

    Each is start (ms, UTC), count, min, max, mean, sum, first and last. Empty buckets are left out.
    """
    newest = (await storage.latest([series]))[0]
    last = end if newest is None else min(end, newest.time + 1)
    first = await _first_time(storage, series, start, last)
    if first is None:
        return []
    found: list[_Columns] = []
    count, past = 0, list[Span]()
    # From before the first point, for its bucket may have begun under another offset.
    for span in spans(zone, first - 2 * bucket_ms, last):
        past.append(span)
        begin = max(span.begin, first)
        if begin < span.end:
            parts = await storage.aggregate(series, begin, span.end, math.gcd(bucket_ms, span.offset))
            if len(parts.start):
                found.append(_together(_starts(parts.start, past, bucket_ms), parts))
                count += len(found[-1][0])
        if count > limit:
            break
    return _rows(_merged(found), limit) if found else []


async def _first_time(storage: Storage, series: int, start: int, end: int) -> int | None:
    async for piece in storage.read(series, start, end):
        if len(piece.time):
            return int(piece.time[0])
    return None


def _starts(time: Int64, past: Sequence[Span], bucket_ms: int) -> Int64:
    """The start of the bucket of each time in the last span, in UTC."""
    span, before = past[-1], past[-2] if len(past) > 1 else None
    keys: Int64 = (time + span.offset) // bucket_ms
    starts = np.maximum(keys * bucket_ms - span.offset, span.begin)
    if before is not None:
        # The clock was put back: the repeated hour belongs to buckets that have begun.
        for key in np.unique(keys[keys <= _last_key(before, bucket_ms)]).tolist():
            starts[keys == key] = _start(key, past, bucket_ms)
    return starts


def _start(key: int, past: Sequence[Span], bucket_ms: int) -> int:
    """The start of a bucket of the last span, which may be in a span before it."""
    span, earlier = past[-1], past[:-1]
    if earlier and abs(span.offset - earlier[-1].offset) < bucket_ms and key <= _last_key(earlier[-1], bucket_ms):
        return _start(key, earlier, bucket_ms)
    return max(key * bucket_ms - span.offset, span.begin)


def _last_key(span: Span, bucket_ms: int) -> int:
    """The bucket in which a span ends."""
    return (span.end - 1 + span.offset) // bucket_ms


def _together(starts: Int64, parts: Aggregates) -> _Columns:
    return _joined(starts, parts.count, parts.min, parts.max, parts.sum, parts.first, parts.last)


def _merged(found: Sequence[_Columns]) -> _Columns:
    """Spans in order; a bucket that continues over a change of offset is in two of them."""
    if len(found) == 1:
        return found[0]
    start, count, *values = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.argsort(start, kind="stable")  # by time within a bucket, for its first and last
    low, high, total, first, last = (column[order] for column in values)
    return _joined(start[order], count[order], low, high, total, first, last)


def _joined(
    starts: Int64, count: Int64, low: Float64, high: Float64, total: Float64, first: Float64, last: Float64
) -> _Columns:
    cuts = np.flatnonzero(np.concatenate(([True], starts[1:] != starts[:-1])))
    ends = np.append(cuts[1:], len(starts)) - 1
    with np.errstate(over="ignore"):
        totals = np.add.reduceat(total, cuts)
    return (
        starts[cuts], np.add.reduceat(count, cuts), np.minimum.reduceat(low, cuts), np.maximum.reduceat(high, cuts),
        totals, first[cuts], last[ends],
    )  # fmt: skip


def _rows(columns: _Columns, limit: int) -> list[Bucket]:
    start, count, low, high, total, first, last = (column[:limit] for column in columns)
    with np.errstate(over="ignore"):
        mean = total / count
    shown = (start, count, low, high, mean, total, first, last)
    return list(zip(*(column.tolist() for column in shown), strict=True))
