"""The winner's rule: which readings of a batch change the store, and how each is counted.

At one (series, time) the greatest ``(seq, value, -quality)`` stays, whatever the order of arrival. A reading whose
value is already stored is a duplicate, also if it raises the stored ``seq``; a different value is a conflict. A time
that the server assigned is not exact: if it is taken, the reading moves to a free one.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from attrs import frozen

from fleetcore.builtin.sqlite.order import Points, by_point, group_starts, locate
from fleetcore.model.telemetry import Float64, Int64, Quality, Tally, TelemetryBatch, UInt8

Mask = npt.NDArray[np.bool_]

#: This many taken milliseconds in a row are tried; then the reading goes right after the newest of its series.
_BUMPS = 32


@frozen(eq=False)
class Held:
    """The stored readings at some (series, time) places; the columns are valid where ``found``."""

    found: Mask
    value: Float64
    seq: Int64
    quality: UInt8

    @classmethod
    def nothing(cls, n: int) -> "Held":
        """Nothing found anywhere, to be filled in."""
        return cls(np.zeros(n, np.bool_), np.zeros(n), np.zeros(n, np.int64), np.zeros(n, np.uint8))


#: Looks up places sorted by (series, time), each once.
Lookup = Callable[[Int64, Int64], Held]


@frozen(eq=False)
class Resolved:
    """What a batch does to the store.

    Attributes:
        batch: the readings to store, each (series, time) once, in arrival order.
        shown: which of them the feed shows, None for all; the others only raise the ``seq`` of an unchanged value.
        distinct: whether no series is known to occur twice.
    """

    batch: TelemetryBatch
    shown: Mask | None
    tally: Tally
    distinct: bool = False

    def visible(self) -> TelemetryBatch:
        """The readings that the feed shows."""
        return self.batch if self.shown is None else self.batch.take(self.shown)


def all_new(batch: TelemetryBatch, *, distinct: bool = False) -> Resolved:
    """The most common outcome: every reading is the newest of its series."""
    return Resolved(batch, None, Tally(stored=len(batch)), distinct)


def resolve(batch: TelemetryBatch, newest: Int64, held: Lookup) -> Resolved:
    """Applies the rule.

    Args:
        batch: the readings, ``-0.0`` already replaced by ``0.0``.
        newest: the newest stored time by series index.
        held: the stored readings at places that are not newer than that.
    """
    server = (batch.quality & Quality.SERVER_TIME) != 0
    if not server.any():
        return _ordinary(batch, newest, held)[0]
    ours, theirs = np.flatnonzero(server), np.flatnonzero(~server)
    resolved, origin = _ordinary(batch.take(theirs), newest, held)
    placed = _placed(batch.take(ours), resolved.batch, newest, held)
    joined = TelemetryBatch.concat([resolved.batch, placed])
    arrival = np.argsort(np.concatenate((theirs[origin], ours)), kind="stable")
    shown = None
    if resolved.shown is not None:
        shown = np.concatenate((resolved.shown, np.ones(len(placed), np.bool_)))[arrival]
    return Resolved(joined.take(arrival), shown, resolved.tally + Tally(stored=len(placed)))


def _ordinary(batch: TelemetryBatch, newest: Int64, held: Lookup) -> tuple[Resolved, Int64]:
    """The rule for times from devices; also the position in the batch of each stored reading."""
    n = len(batch)
    late = batch.time <= newest[batch.series]
    order, unique = by_point(batch.series, batch.time)
    if unique and not late.any():
        return all_new(batch), np.arange(n)
    series, time = batch.series[order], batch.time[order]
    first = np.concatenate(([True], (series[1:] != series[:-1]) | (time[1:] != time[:-1])))
    starts = np.flatnonzero(first)
    counts = np.diff(starts, append=n)
    there = Held.nothing(len(starts))
    old = np.flatnonzero(late[order][starts])
    if len(old):
        looked = held(series[starts[old]], time[starts[old]])
        there.found[old], there.value[old] = looked.found, looked.value
        there.seq[old], there.quality[old] = looked.seq, looked.quality
    contended = there.found | (counts > 1)
    alone = order[starts[~contended]]
    if not contended.any():
        return all_new(batch), np.arange(n)
    keep, shown, tally = _contest(batch, order[np.repeat(contended, counts)], counts[contended], there, contended)
    kept = np.concatenate((alone, keep))
    arrival = np.argsort(kept, kind="stable")
    visible = np.concatenate((np.ones(len(alone), np.bool_), shown))[arrival]
    kept = kept[arrival]
    tally += Tally(stored=len(alone))
    return Resolved(batch.take(kept), None if visible.all() else visible, tally), kept


def _contest(
    batch: TelemetryBatch, members: Int64, counts: Int64, there: Held, contended: Mask
) -> tuple[Int64, Mask, Tally]:
    """Several values for each of some places: ``counts`` candidates for each, and the stored reading."""
    has = there.found[contended]
    place = np.repeat(np.arange(len(counts)), counts)
    holders = np.flatnonzero(has)
    # One list of all candidates: per place the stored reading, if any, and then the others in arrival order.
    at = np.argsort(np.concatenate((holders * 2, place * 2 + 1)), kind="stable")
    group = np.concatenate((holders, place))[at]
    value = np.concatenate((there.value[contended][holders], batch.value[members]))[at]
    seq = np.concatenate((there.seq[contended][holders], batch.seq[members]))[at]
    quality = np.concatenate((there.quality[contended][holders], batch.quality[members]))[at]
    source = np.concatenate((np.full(len(holders), -1), members))[at]
    n = len(group)
    ranked = np.lexsort((-quality.astype(np.int16), value, seq))
    differs = np.zeros(n, np.int64)
    a, b = ranked[1:], ranked[:-1]
    differs[1:] = (seq[a] != seq[b]) | (value[a] != value[b]) | (quality[a] != quality[b])
    rank = np.empty(n, np.int64)
    rank[ranked] = np.cumsum(differs)
    value_of = np.empty(int(rank.max()) + 1)
    value_of[rank] = value
    # The running winner of each place: a cumulative maximum that a greater place always exceeds.
    base = group * n
    running = np.maximum.accumulate(base + rank) - base
    starts = group_starts(group)
    first = np.zeros(n, np.bool_)
    first[starts] = True
    arrived = source >= 0
    stored = int((first & arrived).sum())
    again = np.flatnonzero(~first)
    duplicates = int((value[again] == value_of[running[again - 1]]).sum())
    final = running[np.append(starts[1:], n) - 1]
    winner = np.minimum.reduceat(np.where(rank == np.repeat(final, np.diff(starts, append=n)), np.arange(n), n), starts)
    changed = source[winner] >= 0
    shown = ~has | (value[winner] != value[starts])
    return (
        source[winner[changed]],
        shown[changed],
        Tally(stored=stored, duplicates=duplicates, conflicts=len(again) - duplicates),
    )


def _placed(batch: TelemetryBatch, others: TelemetryBatch, newest: Int64, held: Lookup) -> TelemetryBatch:
    """Readings with server times, moved so that each has a free time of its series."""
    order, _ = by_point(batch.series, batch.time)
    series, time = batch.series[order], batch.time[order].copy()
    beside = Points.merged([Points.of(others)])
    starts = group_starts(series)
    counts = np.diff(starts, append=len(series))
    group = np.repeat(np.arange(len(starts)), counts)
    nth = np.arange(len(series)) - np.repeat(starts, counts)
    top = newest[series]
    if len(beside):
        last = np.searchsorted(beside.series, series, "right") - 1
        same = (last >= 0) & (beside.series[last] == series)
        top = np.where(same, np.maximum(top, beside.time[last]), top)
    for bump in range(_BUMPS + 1):
        time = _rising(time, group, nth)
        old = np.flatnonzero(time <= top)
        if not len(old):
            break
        taken = held(series[old], time[old]).found
        if len(beside):
            taken |= locate(beside, series[old], time[old])[1]
        if not taken.any():
            break
        if bump < _BUMPS:
            time[old[taken]] += 1
        else:
            time[old] = top[old] + 1
            time = _rising(time, group, nth)
    moved = np.empty(len(time), np.int64)
    moved[order] = time
    return TelemetryBatch(batch.series, moved, batch.received, batch.value, batch.quality, batch.seq)


def _rising(time: Int64, group: Int64, nth: Int64) -> Int64:
    """The smallest times, none earlier than given, that rise within each group: a running maximum of time - n."""
    lowest = int(time.min())
    # The values of each group exceed those of all groups before it, so that one running maximum serves all.
    apart = group * (int(time.max()) - lowest + len(time) + 1)
    return np.maximum.accumulate((time - lowest - nth) + apart) - apart + lowest + nth
