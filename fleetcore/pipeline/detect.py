"""Detect: shows every stored reading to the detectors, off the acknowledgement's path, skipping nothing over a crash.

A detector's state is kept together with the feed position it belongs to, every few seconds. After a crash the readings
in between are shown again to the state of before; detectors are deterministic and an anomaly's id follows from what
it is about, so the same anomalies come out and are kept once.
"""

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
from fleetcore.model.store import Commit, Event, FeedEntry
from fleetcore.model.telemetry import TelemetryBatch
from fleetcore.pipeline.consumer import Consumer
from fleetcore.pipeline.worker import Worker

FOUND = "anomaly.found"


@frozen(kw_only=True)
class Scope:
    """Which readings a detector instance sees; no metrics means all."""

    metrics: frozenset[str] = frozenset()


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
            await entered.__aexit__(None, None, None)

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
        parts = [entry.readings for entry in entries if entry.readings is not None and len(entry.readings)]
        if not parts:
            return False
        batch = self._in_scope(TelemetryBatch.concat(parts))
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
        lengths = {len(findings.index), len(findings.score), len(findings.expected)}
        if len(lengths) != 1 or (len(findings) and not 0 <= findings.index.min() <= findings.index.max() < length):
            raise PluginError(
                f"Detector {self.detector_name!r} returned columns of lengths {sorted(lengths)} for {length} readings",
                remedy="index holds positions in the batch; all columns are equally long",
                plugin=self.detector_name,
            )

    async def _state(self) -> bytes:
        assert self._detector is not None
        assert self._worker is not None
        return await self._worker.call(self._detector.snapshot, self._timeout_s)


def _events(found: Sequence[Anomaly]) -> tuple[Event, ...]:
    return tuple(
        Event(
            type=FOUND,
            subject=one.id,
            time=one.found,
            actor=one.detector,
            reason=one.explanation,
            data={"device": one.device, "metric": one.metric, "severity": one.severity.value},
        )
        for one in found
    )
