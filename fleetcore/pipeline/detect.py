"""Detect: shows every stored reading to the detectors, off the acknowledgement's path, skipping nothing over a crash.

A detector's state is kept together with the feed position it belongs to, every few seconds. After a crash the readings
in between are shown again to the state of before; detectors are deterministic and an anomaly's id follows from what
it is about, so the same anomalies come out and are kept once.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

import numpy as np
from attrs import frozen

from fleetcore.errors import PluginError
from fleetcore.fleet.anomalies import AnomalyDetector, anomalies_of
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.detector import Detector
from fleetcore.interfaces.storage import Storage
from fleetcore.model.anomaly import Anomaly, Findings
from fleetcore.model.events import ANOMALY_FOUND
from fleetcore.model.store import Commit, Event, FeedEntry
from fleetcore.model.telemetry import TelemetryBatch
from fleetcore.pipeline.consumer import Consumer
from fleetcore.pipeline.selection import Selection
from fleetcore.pipeline.worker import Worker

_log = logging.getLogger(__name__)


@frozen(kw_only=True)
class Scope:
    """Which readings a detector instance sees: of some metrics (none means all), of the devices that are selected."""

    metrics: frozenset[str] = frozenset()
    selection: Selection | None = None


class Detection(Consumer):
    """One detector instance as a consumer.

    Args:
        opener: opens a fresh detector; asked again after a failure.
        timeout_s: a call that takes longer is given up, and its thread with it.
    """

    def __init__(
        self,
        name: str,
        opener: Callable[[], AbstractAsyncContextManager[Detector]],
        scope: Scope,
        storage: Storage,
        anomalies: AnomalyDetector,
        clock: Clock,
        *,
        timeout_s: float = 10.0,
    ) -> None:
        super().__init__(f"detector/{name}", storage, clock)
        self.detector_name = name
        self._opener, self._scope, self._anomalies, self._timeout_s = opener, scope, anomalies, timeout_s
        self._entered: AbstractAsyncContextManager[Detector] | None = None
        self._detector: Detector | None = None
        self._worker: Worker | None = None
        self._wanted = np.zeros(0, np.bool_)

    async def _open(self) -> None:
        self._entered = self._opener()
        self._detector = await self._entered.__aenter__()
        self._worker = Worker(self.name)
        state = await self._storage.blob(self.name)
        if state is not None:
            detector = self._detector
            await self._worker.call(lambda: detector.restore(state), self._timeout_s)

    async def _shut(self) -> None:
        if self._worker is not None:
            self._worker.close()
        entered, self._entered, self._worker, self._detector = self._entered, None, None, None
        if entered is not None:
            try:
                await entered.__aexit__(None, None, None)
            except Exception as error:
                _log.warning("%s did not close well: %s: %s", self.name, type(error).__name__, error)

    def _in_scope(self, batch: TelemetryBatch) -> TelemetryBatch:
        if not self._scope.metrics:
            return batch
        most = int(batch.series.max()) + 1
        known = len(self._wanted)
        if most > known:
            catalog, metrics = self._storage.catalog, self._scope.metrics
            more = np.zeros(max(most, 2 * known) - known, np.bool_)
            for index in range(known, most):
                try:
                    more[index - known] = catalog.series(index).metric in metrics
                except KeyError:
                    continue
            self._wanted = np.concatenate([self._wanted[:known], more[: most - known]])
        return batch.take(self._wanted[batch.series])

    async def _handle(self, entries: Sequence[FeedEntry]) -> bool:
        if self._scope.selection is not None:
            self._scope.selection.follow(entries)
        parts = [entry.readings for entry in entries if entry.readings is not None and len(entry.readings)]
        if not parts:
            return False
        batch = self._in_scope(TelemetryBatch.concat(parts))
        if self._scope.selection is not None:
            batch = await self._scope.selection.of(batch)
        if not len(batch):
            return False
        assert self._detector is not None
        assert self._worker is not None
        detector, catalog = self._detector, self._storage.catalog
        findings = await self._worker.call(lambda: detector.observe(batch, catalog), self._timeout_s)
        self._check(findings, len(batch))
        if len(findings):
            found = anomalies_of(self.detector_name, batch, findings, catalog, self._clock.now_ms())
            await self._storage.commit(Commit(puts=self._anomalies.puts(found), events=_events(found)))
        return False

    def _check(self, findings: object, length: int) -> None:
        if not isinstance(findings, Findings):
            raise PluginError(
                f"Detector {self.detector_name!r} returned {type(findings).__name__}, not Findings",
                remedy="See Detector.observe in docs/reference/interfaces.md",
                plugin=self.detector_name,
            )
        wrong = _wrong(findings, length)
        if wrong:
            raise PluginError(
                f"Detector {self.detector_name!r} returned {wrong}",
                remedy="See Findings in docs/reference/interfaces.md",
                plugin=self.detector_name,
            )

    async def _state(self) -> bytes:
        assert self._detector is not None
        assert self._worker is not None
        state: object = await self._worker.call(self._detector.snapshot, self._timeout_s)
        if not isinstance(state, bytes):
            raise PluginError(
                f"Detector {self.detector_name!r} gave {type(state).__name__} as its state, not bytes",
                remedy="See Detector.snapshot in docs/reference/interfaces.md",
                plugin=self.detector_name,
            )
        return state


def _wrong(findings: Findings, length: int) -> str:
    """What is wrong with findings in a batch of so many readings; a plugin's author is told it, so in full."""
    index, score, expected = (np.asarray(column) for column in (findings.index, findings.score, findings.expected))
    if {index.ndim, score.ndim, expected.ndim} != {1} or not len(index) == len(score) == len(expected):
        return f"columns of the shapes {index.shape}, {score.shape} and {expected.shape}, which should be equally long"
    if not len(index):
        return ""
    if not np.issubdtype(index.dtype, np.integer):
        return f"an index of {index.dtype}, which should hold positions"
    if not 0 <= index.min() <= index.max() < length:
        return f"positions from {index.min()} to {index.max()} in a batch of {length} readings"
    if (np.diff(index) <= 0).any():
        return "positions that do not ascend"
    if not np.isfinite(score.astype(np.float64)).all() or score.min() < 0:
        return "a score that is negative or not finite"
    return ""


def _events(found: Sequence[Anomaly]) -> tuple[Event, ...]:
    return tuple(
        Event(
            type=ANOMALY_FOUND,
            subject=one.id,
            time=one.found,
            actor=one.detector,
            reason=one.explanation,
            data={"device": one.device, "metric": one.metric, "severity": one.severity.value},
        )
        for one in found
    )
