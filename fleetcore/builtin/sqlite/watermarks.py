"""The newest reading of every series, as columns by series index.

Two copies: ``newest`` belongs to the writer and may include an open transaction; ``latest`` is for readers and moves
after the commit.
"""

import threading

import numpy as np

from fleetcore.builtin.sqlite.order import Points, by_point
from fleetcore.model.telemetry import Float64, Int64, UInt8

#: Before every time that can be stored.
NEVER = np.iinfo(np.int64).min


class Watermarks:
    """Columns that grow with the series; index 0 is never used."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.newest: Int64 = np.full(1024, NEVER, np.int64)
        self.alive = np.zeros(1024, np.bool_)
        self._time: Int64 = np.full(1024, NEVER, np.int64)
        self._value: Float64 = np.zeros(1024)
        self._quality: UInt8 = np.zeros(1024, np.uint8)
        self._seen: Int64 = np.zeros(1024, np.int64)

    def grow(self, size: int) -> None:
        """Makes room for series below ``size``. The writer calls it before such a series can be committed to."""
        if size <= len(self.newest):
            return
        more = max(size, 2 * len(self.newest)) - len(self.newest)
        with self._lock:
            self.newest = np.concatenate((self.newest, np.full(more, NEVER, np.int64)))
            self.alive = np.concatenate((self.alive, np.zeros(more, np.bool_)))
            self._time = np.concatenate((self._time, np.full(more, NEVER, np.int64)))
            self._value = np.concatenate((self._value, np.zeros(more)))
            self._quality = np.concatenate((self._quality, np.zeros(more, np.uint8)))
            self._seen = np.zeros(len(self.newest), np.int64)

    def are_distinct(self, series: Int64) -> bool:
        """Whether no series occurs twice: each writes its position, and the last one written is read back."""
        places = np.arange(len(series))
        self._seen[series] = places
        return bool((self._seen[series] == places).all())

    def known(self, series: Int64) -> bool:
        """Whether every index names a series that exists."""
        if len(series) == 0:
            return True
        return bool(series.min() >= 0 and series.max() < len(self.alive) and self.alive[series].all())

    def advance(self, series: Int64, time: Int64, *, distinct: bool) -> tuple[Int64, Int64]:
        """Moves the writer's copy; returns what :meth:`retreat` needs to undo it."""
        before = self.newest[series]
        if distinct:
            self.newest[series] = np.maximum(before, time)
        else:
            np.maximum.at(self.newest, series, time)
        return series, before

    def retreat(self, moved: tuple[Int64, Int64]) -> None:
        """Undoes an :meth:`advance`; the newest is undone first."""
        series, before = moved
        self.newest[series] = before

    def publish(self, points: Points, *, distinct: bool) -> None:
        """Publishes committed readings: for each series the newest, for equal times the one committed later."""
        if not distinct:
            points = _newest_of_each(points)
        with self._lock:
            fresh = points.time >= self._time[points.series]
            if fresh.all():
                self._time[points.series] = points.time
                self._value[points.series] = points.value
                self._quality[points.series] = points.quality
            else:
                self._time[points.series[fresh]] = points.time[fresh]
                self._value[points.series[fresh]] = points.value[fresh]
                self._quality[points.series[fresh]] = points.quality[fresh]

    def latest(self, series: Int64) -> tuple[Int64, Float64, UInt8]:
        """Time, value and quality of the newest reading of each, :data:`NEVER` for a series without readings."""
        with self._lock:
            known = np.where((series >= 0) & (series < len(self._time)), series, 0)
            return self._time[known], self._value[known], self._quality[known]

    def load(self, points: Points) -> None:
        """Takes stored readings, at opening or when a read-only store catches up."""
        if len(points):
            top = _newest_of_each(points)
            self.advance(top.series, top.time, distinct=True)
            self.publish(top, distinct=True)

    def forget(self, series: Int64) -> None:
        """Clears the given series."""
        with self._lock:
            self.alive[series] = False
            self.newest[series] = NEVER
            self._time[series] = NEVER


def _newest_of_each(points: Points) -> Points:
    merged = points.take(by_point(points.series, points.time)[0])
    last = np.concatenate((merged.series[1:] != merged.series[:-1], [True])) if len(merged) else np.empty(0, np.bool_)
    return merged.take(last)
