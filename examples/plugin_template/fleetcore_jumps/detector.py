"""The detector: each reading against the one before it in its series."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
from fleetcore.interfaces import Context, Detector
from fleetcore.model.anomaly import Findings
from fleetcore.model.telemetry import SeriesCatalog, TelemetryBatch

from fleetcore_jumps.plugin import JumpsConfig

# The first bytes of a state, so that foreign bytes and those of later versions are refused.
_FORM = b"jumps1"


class JumpDetector(Detector):
    """Keeps the last value of each series; NaN where there was none."""

    def __init__(self, config: JumpsConfig) -> None:
        self._limit = config.limit
        self._last = np.empty(0)

    def observe(self, batch: TelemetryBatch, catalog: SeriesCatalog) -> Findings:
        if not len(batch):
            return Findings.none()
        self._grow(int(batch.series.max()) + 1)
        # Sorting by series, stably, puts each reading right behind the one before it.
        order = np.argsort(batch.series, kind="stable")
        series, value = batch.series[order], batch.value[order]
        first = np.r_[True, series[1:] != series[:-1]]
        before = np.where(first, self._last[series], np.r_[np.nan, value[:-1]])
        last = np.r_[first[1:], True]
        self._last[series[last]] = value[last]
        change = np.abs(value - before)
        found = np.flatnonzero(change > self._limit)
        place = np.argsort(order[found])
        found = found[place]
        return Findings(
            index=order[found],
            score=change[found] / self._limit,
            expected=before[found],
            explanation="jumped to {value} from {expected}",
        )

    def _grow(self, size: int) -> None:
        if size > len(self._last):
            self._last = np.r_[self._last, np.full(size - len(self._last), np.nan)]

    def snapshot(self) -> bytes:
        return _FORM + self._last.astype("<f8").tobytes()

    def restore(self, state: bytes) -> None:
        if not state.startswith(_FORM):
            raise ValueError("this is not a state of a jumps detector")
        self._last = np.frombuffer(state[len(_FORM) :], "<f8").astype(np.float64)


@asynccontextmanager
async def open_detector(config: JumpsConfig, context: Context) -> AsyncIterator[JumpDetector]:
    """Opens one instance."""
    del context
    yield JumpDetector(config)
