"""The ``silence`` detector: series that have sent nothing for a while.

A series is silent once the server has received no reading of it for ``after_s``. The time in a reading does not matter:
a device that sends yesterday's readings is not silent. Silence is reported once, until the next reading. The detector
does not know series that never sent anything.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import numpy as np
import numpy.typing as npt
from attrs import field, frozen, validators

from fleetcore.builtin.series_state import grown, pack, unpack
from fleetcore.interfaces.detector import Detector
from fleetcore.interfaces.provider import Context
from fleetcore.model.anomaly import Findings, Severity, Silences
from fleetcore.model.telemetry import Int64, SeriesCatalog, TelemetryBatch

_VERSION = 1
#: When the last reading was received, -1 before the first; whether the silence was reported.
_COLUMNS = (np.int64, np.bool_)
_NEVER = -1


@frozen(kw_only=True)
class SilenceConfig:
    """``[detectors.NAME]`` with ``kind = "silence"``.

    Attributes:
        after_s: how long a series may send nothing, 1 s to a year.
        severity: info, warning or critical.
    """

    after_s: float = field(default=600.0, validator=(validators.ge(1.0), validators.le(366 * 86_400.0)))
    severity: Severity = field(default=Severity.WARNING, converter=Severity)


class SilenceDetector(Detector):
    """Records when each series last sent a reading; the score is 1."""

    def __init__(self, config: SilenceConfig) -> None:
        self._config = config
        self._after_ms = round(config.after_s * 1000)
        self._heard: Int64 = np.zeros(0, np.int64)
        self._told: npt.NDArray[np.bool_] = np.zeros(0, np.bool_)

    def observe(self, batch: TelemetryBatch, catalog: SeriesCatalog) -> Findings:
        del catalog
        if len(batch):
            size = int(batch.series.max()) + 1
            self._heard = cast("Int64", grown(self._heard, size, _NEVER))
            self._told = cast("npt.NDArray[np.bool_]", grown(self._told, size))
            np.maximum.at(self._heard, batch.series, batch.received)
            self._told[batch.series] = False
        return Findings.none()

    def advance(self, now_ms: int) -> Silences:
        overdue = (self._heard >= 0) & ~self._told & (self._heard + self._after_ms <= now_ms)
        series = np.flatnonzero(overdue)
        if not len(series):
            return Silences.none()
        self._told[series] = True
        since = self._heard[series]
        return Silences(
            series=series,
            deadline=since + self._after_ms,
            since=since,
            score=np.ones(len(series)),
            severity=self._config.severity,
            explanation=f"no reading for {self._config.after_s:g} s: none since {{since}}",
        )

    def snapshot(self) -> bytes:
        return pack(_VERSION, (self._heard, self._told))

    def restore(self, state: bytes) -> None:
        _, (heard, told) = unpack(state, {_VERSION: _COLUMNS})
        self._heard, self._told = cast("Int64", heard), cast("npt.NDArray[np.bool_]", told)


@asynccontextmanager
async def open_silence(config: SilenceConfig, context: Context) -> AsyncIterator[SilenceDetector]:
    """Opens the detector; it holds only its state."""
    del context
    yield SilenceDetector(config)
