"""The tail: committed readings that are not sealed yet, in memory, readable by series.

The writer appends what it committed; sorting happens on reading, and only for new readings. Runs of similar size are
merged, so a read looks at few of them. During a seal its points are frozen until their chunks are valid; a reader that
reads the tail first and the chunks afterwards misses nothing.
"""

import threading
from collections.abc import Sequence

import numpy as np

from fleetcore.builtin.sqlite.order import Points, locate
from fleetcore.model.telemetry import Int64

#: A run is merged with the one before it unless that is at least this many times as long.
_TIER = 4


class Tail:
    """Thread-safe; the result of :meth:`view` never changes afterwards.

    Attributes:
        oldest_received: when the oldest unfrozen reading was received, or None.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sorting = threading.Lock()
        self._frozen: tuple[Points, ...] = ()
        self._runs: tuple[Points, ...] = ()
        self._raw: list[Points] = []
        self._frozen_points = 0
        self._live_points = 0
        self.oldest_received: int | None = None

    @property
    def points(self) -> int:
        """The number of unsealed readings."""
        return self._frozen_points + self._live_points

    def append(self, points: Points, received: int) -> None:
        """Adds the readings of one commit, in arrival order, each (series, time) once."""
        with self._lock:
            self._raw.append(points)
            self._live_points += len(points)
            if self.oldest_received is None:
                self.oldest_received = received

    def view(self) -> tuple[Points, ...]:
        """All unsealed readings as a few sorted runs; a later run holds the later commits."""
        with self._sorting:
            with self._lock:
                raw = list(self._raw)
                runs = list(self._runs)
            if raw:
                runs.append(Points.merged(raw))
                while len(runs) > 1 and len(runs[-2]) < _TIER * len(runs[-1]):
                    last = runs.pop()
                    runs[-1] = Points.merged([runs[-1], last])
                with self._lock:
                    self._runs = tuple(runs)
                    del self._raw[: len(raw)]
            with self._lock:
                return self._frozen + self._runs

    def freeze(self) -> Points:
        """Freezes all readings for a seal and returns them sorted; :meth:`drop_frozen` ends it."""
        with self._sorting, self._lock:
            if self._raw:
                self._runs = (*self._runs, Points.merged(self._raw))
            self._frozen, self._runs, self._raw = self._frozen + self._runs, (), []
            self._frozen_points += self._live_points
            self._live_points = 0
            self.oldest_received = None
            taken = list(self._frozen)
        # The long sort is outside the locks: readers use the runs meanwhile.
        whole = Points.merged(taken)
        with self._lock:
            self._frozen = (whole,) if len(whole) else ()
        return whole

    def drop_frozen(self) -> None:
        """Drops the frozen readings, which are in valid chunks now."""
        with self._lock:
            self._frozen, self._frozen_points = (), 0

    def forget(self, series: Int64) -> None:
        """Removes all readings of some series."""
        runs = self.view()
        with self._sorting, self._lock:
            assert not self._frozen
            kept = [run.take(~np.isin(run.series, series)) for run in runs]
            self._runs = tuple(run for run in kept if len(run))
            self._live_points = sum(len(run) for run in self._runs)


def series_slice(run: Points, series: int, start: int, end: int) -> slice:
    """The slice of a sorted run with the points of a series with ``start <= time < end``."""
    low, high = np.searchsorted(run.series, [series, series + 1])
    first, last = np.searchsorted(run.time[low:high], [start, end])
    return slice(int(low + first), int(low + last))


def find(runs: Sequence[Points], series: Int64, time: Int64) -> list[tuple[Points, Int64, Int64]]:
    """For each run with some of the wanted points: the run, which of the wanted points, and their places in the run."""
    found = []
    for run in runs:
        at, there = locate(run, series, time)
        which = np.flatnonzero(there)
        if len(which):
            found.append((run, which, at[which]))
    return found
