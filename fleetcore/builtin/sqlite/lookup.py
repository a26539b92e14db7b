"""Looks up stored readings for late ones: the tail first, then the chunks that could hold them."""

import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np

from fleetcore.builtin.sqlite.order import Points, locate
from fleetcore.builtin.sqlite.plain import listed, text
from fleetcore.builtin.sqlite.resolve import Held
from fleetcore.builtin.sqlite.tail import find
from fleetcore.model.telemetry import Int64

#: Decoded chunks cached for the next late readings, in points of 41 bytes.
_CACHE_POINTS = 500_000


class Lookup:
    """Belongs to the writer thread.

    The content of a damaged chunk is unknown: a late reading is stored as if the chunk were empty.

    Args:
        intact: unpacks a chunk (series, id, body, checksum); None for a damaged one.
    """

    def __init__(self, intact: Callable[[int, int, bytes, int | None], Points | None]) -> None:
        self._intact = intact
        self._decoded: OrderedDict[int, Points] = OrderedDict()
        self._points = 0

    def clear(self) -> None:
        """Forgets what was decoded."""
        self._decoded.clear()
        self._points = 0

    def held(self, db: sqlite3.Connection, runs: Sequence[Points], series: Int64, time: Int64) -> Held:
        """The stored readings at places sorted by (series, time); ``runs`` are the unsealed ones, the latest last."""
        result = Held.nothing(len(series))
        for run, which, at in find(runs, series, time):
            self._fill(result, which, run, at)
        # The tail replaces what the chunks hold.
        missing = np.flatnonzero(~result.found)
        if len(missing):
            self._from_chunks(db, result, missing, series[missing], time[missing])
        return result

    @staticmethod
    def _fill(result: Held, which: Int64, source: Points, at: Int64) -> None:
        value, seq, quality = source.value[at], source.seq[at], source.quality[at]
        wins = ~result.found[which] | (seq > result.seq[which])
        same = seq == result.seq[which]
        wins |= same & (value > result.value[which])
        wins |= same & (value == result.value[which]) & (quality < result.quality[which])
        which, value, seq, quality = which[wins], value[wins], seq[wins], quality[wins]
        result.found[which], result.value[which], result.seq[which], result.quality[which] = True, value, seq, quality

    def _from_chunks(self, db: sqlite3.Connection, result: Held, missing: Int64, series: Int64, time: Int64) -> None:
        candidates = listed(
            db,
            "series, id, t_min, t_max",
            "SELECT c.series, c.id, c.t_min, c.t_max"
            " FROM json_each(?) AS j CROSS JOIN chunks AS c ON c.series = j.value"
            " WHERE c.t_min <= ? AND c.t_max >= ? AND c.id <= (SELECT value FROM meta WHERE name = 'chunks')",
            (text(np.unique(series).tolist()), int(time.max()), int(time.min())),
        )
        if not candidates:
            return
        owner, ids, low, high = np.array(candidates, np.int64).T
        empty = np.zeros(len(series))
        wanted = Points(series, time, empty, empty.astype(np.uint8), time)
        first = locate(wanted, owner, low)[0]
        last, exact = locate(wanted, owner, high)
        last = last + exact
        for i in np.flatnonzero(last > first).tolist():
            chunk = self._chunk(db, int(owner[i]), int(ids[i]))
            if chunk is None:
                continue
            which = np.arange(first[i], last[i])
            at = np.searchsorted(chunk.time, time[which])
            there = chunk.time[at] == time[which]
            self._fill(result, missing[which[there]], chunk, at[there])

    def _chunk(self, db: sqlite3.Connection, series: int, index: int) -> Points | None:
        known = self._decoded.get(index)
        if known is not None:
            self._decoded.move_to_end(index)
            return known
        row = db.execute("SELECT body, checksum FROM chunk_bodies WHERE id=?", (index,)).fetchone()
        points = None if row is None else self._intact(series, index, *row)
        if points is None:
            return None
        self._decoded[index] = points
        self._points += len(points)
        while self._points > _CACHE_POINTS and len(self._decoded) > 1:
            self._points -= len(self._decoded.popitem(last=False)[1])
        return points
