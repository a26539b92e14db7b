"""The ``statistical`` detector: readings far from the recent values of their own series.

A slow exponentially weighted mean and deviation per series; after a warm-up, a reading is found if it is more than
``limit`` deviations away. Then the series stays quiet for a while: one disturbance is one finding. Every reading moves
the mean, also a found one, so that a new level becomes normal. Booleans are ignored: a door that opens once a day is
not an anomaly.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import numpy as np
import numpy.typing as npt
from attrs import field, frozen

from fleetcore.builtin.ewma import Moments, advance
from fleetcore.builtin.series_state import Grouped, group, grown, pack, unpack
from fleetcore.errors import ConfigError
from fleetcore.interfaces.detector import Detector
from fleetcore.interfaces.provider import Context
from fleetcore.model.anomaly import Findings, Severity
from fleetcore.model.telemetry import Float64, Int64, Quality, SeriesCatalog, SeriesKind, TelemetryBatch, UInt8

_VERSION = 1
#: Readings seen; mean; variance; the count from which findings are allowed again.
_COLUMNS = (np.int64, np.float64, np.float64, np.int64)
#: Larger magnitudes would overflow when squared and summed; no sensor reads them.
_MAX_SIZE = 1e145
#: Slightly above the limit, so that rounding, which depends on how a stream is cut into batches, decides nothing.
_HAIR = 1.0 + 1e-9
#: A larger score means nothing more, and would be infinite where a series was constant.
_MAX_SCORE = 1e6
_UNKNOWN, _NUMBER, _OTHER = 0, 1, 2


@frozen(kw_only=True)
class StatisticalConfig:
    """``[detectors.NAME]`` with ``kind = "statistical"``. Lengths are readings of one series.

    Attributes:
        window: how many readings the mean remembers (the newest weighs 2 / (window + 1)).
        warm_up: readings before the first finding.
        limit: how many deviations away from the mean a reading is abnormal.
        refractory: readings for which the series stays quiet after a finding.
        min_deviation: smaller deviations count as this one; set it to a sensor's resolution.
        min_relative_deviation: the same as a share of the mean.
        severity: info, warning or critical.
    """

    window: int = 200
    warm_up: int = 30
    limit: float = 5.0
    refractory: int = 20
    min_deviation: float = 0.0
    min_relative_deviation: float = 0.001
    severity: Severity = field(default=Severity.WARNING, converter=Severity)

    def __attrs_post_init__(self) -> None:
        fault = self._fault()
        if fault:
            raise ConfigError(f"A statistical detector {fault}")

    def _fault(self) -> str:
        if self.window < 2 or self.warm_up < 2:
            return "needs a window and a warm_up of at least 2 readings"
        if not 0 < self.limit < np.inf:
            return "needs a limit above 0"
        if self.refractory < 0:
            return "takes no negative refractory"
        ok = 0 <= self.min_deviation < np.inf and 0 <= self.min_relative_deviation < np.inf
        return "" if ok else "takes no negative min_deviation or min_relative_deviation"


class StatisticalDetector(Detector):
    """Compares each series with its own past; the score is 1.0 at the limit and proportional to the distance."""

    def __init__(self, config: StatisticalConfig) -> None:
        self._config = config
        self._weight = 2.0 / (config.window + 1)
        self._count: Int64 = np.zeros(0, np.int64)
        self._mean: Float64 = np.zeros(0)
        self._variance: Float64 = np.zeros(0)
        self._quiet: Int64 = np.zeros(0, np.int64)
        #: Not part of the state: the catalog has it again after a restart.
        self._kind: UInt8 = np.zeros(0, np.uint8)

    def observe(self, batch: TelemetryBatch, catalog: SeriesCatalog) -> Findings:
        if not len(batch):
            return Findings.none()
        self._grow(int(batch.series.max()) + 1)
        self._learn_kinds(batch, catalog)
        numbers = (self._kind[batch.series] == _NUMBER) & ((batch.quality & Quality.BOOLEAN) == 0)
        positions: Int64 | None = None
        if not numbers.all():
            positions = np.flatnonzero(numbers)
            if not len(positions):
                return Findings.none()
            batch = batch.take(positions)
        groups = group(batch)
        values = np.clip(batch.value[groups.order], -_MAX_SIZE, _MAX_SIZE)
        before = advance(Moments(self._count, self._mean, self._variance), groups, values, self._weight)
        config = self._config
        least = np.maximum(config.min_deviation, config.min_relative_deviation * np.abs(before.mean))
        # A series that was always zero allows no distance: the smallest float is used instead.
        allowed = config.limit * np.maximum(np.maximum(np.sqrt(before.variance), least), np.finfo(np.float64).tiny)
        with np.errstate(over="ignore"):
            score = np.minimum(np.abs(values - before.mean) / allowed, _MAX_SCORE)
        far = np.flatnonzero((score > _HAIR) & (before.count >= config.warm_up))
        far = far[self._allowed(groups, before.count, far)]
        index = groups.order[far]
        ascending = np.argsort(index)
        far, index = far[ascending], index[ascending]
        return Findings(
            index=index if positions is None else positions[index],
            score=score[far],
            expected=before.mean[far],
            severity=config.severity,
            explanation="{value} where about {expected} is normal: {score} times the allowed distance",
        )

    def _allowed(self, groups: Grouped, count: Int64, far: Int64) -> npt.NDArray[np.bool_]:
        """The far points that are found: of each series the first outside a quiet period, then the next."""
        allowed = np.full(len(far), self._config.refractory == 0)
        if allowed.all():  # or no point is far
            return allowed
        series = np.repeat(groups.ids, groups.counts)[far]
        ordinal = count[far]
        left = np.flatnonzero(ordinal >= self._quiet[series])
        while len(left):
            # Grouped order: a series' points are adjacent, the earliest first.
            here = series[left]
            first = left[np.concatenate([[True], here[1:] != here[:-1]])]
            allowed[first] = True
            self._quiet[series[first]] = ordinal[first] + 1 + self._config.refractory
            left = left[ordinal[left] >= self._quiet[here]]
        return allowed

    def _learn_kinds(self, batch: TelemetryBatch, catalog: SeriesCatalog) -> None:
        unknown = batch.series[self._kind[batch.series] == _UNKNOWN]
        for index in np.unique(unknown).tolist() if len(unknown) else []:
            self._kind[index] = _OTHER if catalog.series(index).kind is SeriesKind.BOOLEAN else _NUMBER

    def _grow(self, size: int) -> None:
        self._count = cast("Int64", grown(self._count, size))
        self._mean = cast("Float64", grown(self._mean, size))
        self._variance = cast("Float64", grown(self._variance, size))
        self._quiet = cast("Int64", grown(self._quiet, size))
        self._kind = cast("UInt8", grown(self._kind, size))

    def snapshot(self) -> bytes:
        return pack(_VERSION, (self._count, self._mean, self._variance, self._quiet))

    def restore(self, state: bytes) -> None:
        _, (count, mean, variance, quiet) = unpack(state, {_VERSION: _COLUMNS})
        sound = np.isfinite(mean).all() and np.isfinite(variance).all()
        if not sound or (cast("Int64", count) < 0).any() or (cast("Float64", variance) < 0).any():
            raise ValueError("the detector state holds impossible numbers")
        self._count = cast("Int64", count)
        self._mean = cast("Float64", mean)
        self._variance = cast("Float64", variance)
        self._quiet = cast("Int64", quiet)


@asynccontextmanager
async def open_statistical(config: StatisticalConfig, context: Context) -> AsyncIterator[StatisticalDetector]:
    """Opens the detector; it holds only its state."""
    del context
    yield StatisticalDetector(config)
