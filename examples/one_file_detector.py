"""A detector in one file: readings below a limit. Name the file in fleet.toml and it is loaded at the next start.

[fleet]
plugins = ["./one_file_detector.py"]

[detectors.freezing]
below = 0.0
metrics = ["temperature"]
"""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import numpy as np
from attrs import frozen

from fleetcore import hookimpl, offer_detector
from fleetcore.interfaces import Context, Detector, Provider
from fleetcore.model.anomaly import Findings
from fleetcore.model.telemetry import SeriesCatalog, TelemetryBatch


@frozen(kw_only=True)
class FreezingConfig:
    """``[detectors.freezing]``. Attributes: below: readings less than this are found, in the unit of the series."""

    below: float = 0.0


class FreezingDetector(Detector):
    """Has no state, so it needs neither ``snapshot`` nor ``restore``."""

    def __init__(self, below: float) -> None:
        self._below = below

    def observe(self, batch: TelemetryBatch, catalog: SeriesCatalog) -> Findings:
        """Every reading below the limit; its score is how far below."""
        del catalog
        index = np.flatnonzero(batch.value < self._below)
        return Findings(
            index=index,
            score=self._below - batch.value[index],
            expected=np.full(len(index), self._below),
            explanation="{value} is below {expected}",
        )


@asynccontextmanager
async def open_freezing(config: FreezingConfig, context: Context) -> AsyncIterator[FreezingDetector]:
    """Opens one instance."""
    context.logger.info("%s finds readings below %s", context.name, config.below)
    yield FreezingDetector(config.below)


@hookimpl
def fleetcore_detectors() -> Iterable[Provider[Detector]]:
    """One detector kind, ``freezing``."""
    return [offer_detector("freezing", FreezingConfig, open_freezing, summary="finds readings below a limit")]
