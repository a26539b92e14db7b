"""The ``threshold`` detector: readings beyond fixed limits, with hysteresis, repeats and duration.

An alarm begins with ``for_points`` readings in a row beyond a limit, over at least ``duration_s`` of event time, and
ends with a reading inside the limits by ``hysteresis``. Whole batches are computed at once: the last reading of each
kind before every point is a running maximum of positions, so nothing here loops over points.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import numpy as np
import numpy.typing as npt
from attrs import field, frozen

from fleetcore.builtin.series_state import group, grown, pack, unpack
from fleetcore.errors import ConfigError
from fleetcore.interfaces.detector import Detector
from fleetcore.interfaces.provider import Context
from fleetcore.model.anomaly import Findings, Severity
from fleetcore.model.telemetry import Float64, Int64, SeriesCatalog, TelemetryBatch

_VERSION = 1
#: Readings in a row beyond a limit; event time of the first of them; whether in an alarm.
_COLUMNS = (np.int64, np.int64, np.bool_)


@frozen(kw_only=True)
class ThresholdConfig:
    """``[detectors.NAME]`` with ``kind = "threshold"``. Limits are in the unit of the series.

    Attributes:
        above: readings greater than this are beyond the limit.
        below: readings less than this are beyond the limit.
        hysteresis: how far inside the limits a reading must lie to end the alarm.
        for_points: how many readings in a row must be beyond a limit.
        duration_s: how long, in event time, they must be beyond it.
        once: report only the reading that begins an alarm; false: each one beyond a limit during it.
        severity: info, warning or critical.
    """

    above: float | None = None
    below: float | None = None
    hysteresis: float = 0.0
    for_points: int = 1
    duration_s: float = 0.0
    once: bool = True
    severity: Severity = field(default=Severity.WARNING, converter=Severity)

    def __attrs_post_init__(self) -> None:
        fault = self._fault()
        if fault:
            raise ConfigError(f"A threshold {fault}")

    def _fault(self) -> str:
        limits = [limit for limit in (self.above, self.below) if limit is not None]
        if not limits:
            return "needs a limit: above, below or both"
        if not np.isfinite([*limits, self.hysteresis, self.duration_s]).all():
            return "takes finite numbers only"
        if self.above is not None and self.below is not None and self.above - self.below < 2 * self.hysteresis:
            return "needs room for its hysteresis between below and above"
        if self.hysteresis < 0 or self.duration_s < 0:
            return "takes no negative hysteresis or duration_s"
        return "" if self.for_points >= 1 else "needs for_points of at least 1"


class ThresholdDetector(Detector):
    """Finds readings beyond limits; the score is 1.0 at the limit and grows by 1 per width of it."""

    def __init__(self, config: ThresholdConfig) -> None:
        self._config = config
        self._above = np.inf if config.above is None else config.above
        self._below = -np.inf if config.below is None else config.below
        between = self._above - self._below
        self._width = between if 0 < between < np.inf else max(1.0, abs(self._limits()[0]))
        self._duration_ms = round(config.duration_s * 1000)
        self._run: Int64 = np.zeros(0, np.int64)
        self._since: Int64 = np.zeros(0, np.int64)
        self._alarm: npt.NDArray[np.bool_] = np.zeros(0, np.bool_)

    def observe(self, batch: TelemetryBatch, catalog: SeriesCatalog) -> Findings:
        del catalog
        if not len(batch):
            return Findings.none()
        self._grow(int(batch.series.max()) + 1)
        beyond = (batch.value > self._above) | (batch.value < self._below)
        touched = (self._run[batch.series] > 0) | self._alarm[batch.series]
        if not (beyond.any() or touched.any()):
            return Findings.none()
        # Quiet series that stay quiet need no computation.
        busy = np.zeros(len(self._run), np.bool_)
        busy[batch.series[beyond | touched]] = True
        positions = np.flatnonzero(busy[batch.series])
        found = positions[self._walk(batch.take(positions), beyond[positions])]
        found.sort()
        return self._findings(batch, found)

    def _walk(self, batch: TelemetryBatch, beyond: npt.NDArray[np.bool_]) -> Int64:
        """Positions of the findings in a batch of busy series, and the state after it."""
        config = self._config
        groups = group(batch)
        order, ids, starts = groups.order, groups.ids, groups.starts
        place = np.arange(len(order))
        start = np.repeat(starts, groups.counts)
        out, time, value = beyond[order], batch.time[order], batch.value[order]
        inside = (value <= self._above - config.hysteresis) & (value >= self._below + config.hysteresis)

        # The run of readings beyond a limit that ends at each point, and when it began.
        broken = _latest(~out, place)
        carried = broken < start
        run = place - np.maximum(broken, start - 1)
        run += np.where(carried, np.repeat(self._run[ids], groups.counts), 0)
        began = time[np.minimum(np.maximum(broken, start - 1) + 1, place)]
        since = np.where(
            carried & (np.repeat(self._run[ids], groups.counts) > 0), np.repeat(self._since[ids], groups.counts), began
        )

        proven = out & (run >= config.for_points) & (time - since >= self._duration_ms)
        raised, cleared = _latest(proven, place), _latest(inside, place)
        decided = np.maximum(raised, cleared) >= start
        alarm = np.where(decided, raised > cleared, np.repeat(self._alarm[ids], groups.counts))
        before = np.empty_like(alarm)
        before[1:] = alarm[:-1]
        before[starts] = self._alarm[ids]

        last = starts + groups.counts - 1
        self._run[ids] = np.where(out[last], run[last], 0)
        self._since[ids] = np.where(out[last], since[last], 0)
        self._alarm[ids] = alarm[last]
        return order[proven & ~before] if config.once else order[alarm & out]

    def _findings(self, batch: TelemetryBatch, found: Int64) -> Findings:
        value: Float64 = batch.value[found]
        high = value > self._above
        limit = np.where(high, self._above, self._below)
        return Findings(
            index=found,
            score=1.0 + np.abs(value - limit) / self._width,
            expected=limit,
            severity=self._config.severity,
            explanation=self._explanation(),
        )

    def _explanation(self) -> str:
        config = self._config
        lasting = [f"{config.for_points} readings in a row"] if config.for_points > 1 else []
        lasting += [f"{config.duration_s:g} s long"] if config.duration_s else []
        return "{value} is beyond the limit of {expected}" + (", " + " and ".join(lasting) if lasting else "")

    def _limits(self) -> list[float]:
        return [limit for limit in (self._config.above, self._config.below) if limit is not None]

    def _grow(self, size: int) -> None:
        self._run = cast("Int64", grown(self._run, size))
        self._since = cast("Int64", grown(self._since, size))
        self._alarm = cast("npt.NDArray[np.bool_]", grown(self._alarm, size))

    def snapshot(self) -> bytes:
        return pack(_VERSION, (self._run, self._since, self._alarm))

    def restore(self, state: bytes) -> None:
        _, (run, since, alarm) = unpack(state, {_VERSION: _COLUMNS})
        self._run = cast("Int64", run)
        self._since = cast("Int64", since)
        self._alarm = cast("npt.NDArray[np.bool_]", alarm)


def _latest(mask: npt.NDArray[np.bool_], place: Int64) -> Int64:
    """For each point the position of the last one up to it where ``mask`` holds, or -1."""
    return np.maximum.accumulate(np.where(mask, place, -1))


@asynccontextmanager
async def open_threshold(config: ThresholdConfig, context: Context) -> AsyncIterator[ThresholdDetector]:
    """Opens the detector; it holds only its state."""
    del context
    yield ThresholdDetector(config)
