"""Detect: gives every stored reading to the detectors, after the acknowledgement, and without gaps after a crash.

A detector's state is saved with its feed position every few seconds. After a crash the readings since then go to the
saved state again. Detectors are deterministic and an anomaly's id follows from its subject, so the same anomalies are
found and stored once. A detector of silence also gets the time, which follows from the readings
(:mod:`fleetcore.model.ticks`) and is saved with the state.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

import numpy as np
import numpy.typing as npt
from attrs import frozen

from fleetcore.errors import ConfigError, PluginError
from fleetcore.fleet.anomalies import AnomalyDetector, anomalies_of, silences_of
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.detector import Detector
from fleetcore.interfaces.storage import Storage
from fleetcore.interfaces.waits import first_of
from fleetcore.model.anomaly import Anomaly, Findings, Silences
from fleetcore.model.store import Commit, FeedEntry
from fleetcore.model.telemetry import TelemetryBatch
from fleetcore.model.ticks import LAG_MS, TICK_MS, parts, tick
from fleetcore.pipeline.component import ComponentConsumer
from fleetcore.pipeline.component_state import ComponentState, time_blob
from fleetcore.pipeline.consumer import KEEP_EVERY_S
from fleetcore.pipeline.selection import Selection
from fleetcore.pipeline.worker import Worker

#: How often the time that a detector was given is saved while no readings arrive.
_KEEP_TIME_MS = 60_000

#: Threads that may hang in one detector; beyond that it is not called any more.
_MAX_HANGING = 3


@frozen(kw_only=True)
class Scope:
    """The readings that a detector instance gets: of some metrics (none means all), of the selected devices."""

    metrics: frozenset[str] = frozenset()
    selection: Selection | None = None


@frozen(eq=False)
class _Step:
    """One step of a detector: the time before it, if it takes the time, and readings."""

    now: int | None
    batch: TelemetryBatch


class Detection(ComponentConsumer[Detector]):
    """One detector instance as a consumer.

    Args:
        opener: opens a new detector; called again after a failure.
        kept: the state that it saves beside its snapshot.
        timeout_s: a longer call is abandoned, and its thread with it.
        settled: whether every message that has arrived is in the store, or on its way there. Until then no time passes
            for the detector, which would find series silent whose readings are still to come.
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
        kept: ComponentState | None = None,
        timeout_s: float = 10.0,
        settled: Callable[[], bool] = lambda: True,
    ) -> None:
        super().__init__(f"detector/{name}", opener, storage, clock, kept)
        self.detector_name = name
        self._scope, self._anomalies, self._timeout_s, self._settled = scope, anomalies, timeout_s, settled
        self._worker: Worker | None = None
        self._given_up: list[Worker] = []
        self._wanted = np.zeros(0, np.bool_)
        #: Whether the detector takes the time; the time it was given last, and the saved one, ms.
        self._timed = False
        self._time = self._kept_time = 0

    async def _open(self) -> None:
        self._given_up = [worker for worker in self._given_up if worker.alive]
        if len(self._given_up) >= _MAX_HANGING:
            raise ConfigError(
                f"{len(self._given_up)} calls of detector {self.detector_name!r} hang, and a thread cannot be ended",
                remedy="Correct its plugin, and restart the server",
                plugin=self.detector_name,
            )
        await super()._open()
        self._worker = Worker(self.name)
        self._timed = type(self.component).advance is not Detector.advance
        state = await self._storage.blob(self.name)
        if state is not None:
            detector = self.component
            await self._worker.call(lambda: detector.restore(state), self._timeout_s)
        told = await self._storage.blob(self._time_name)
        self._time = self._kept_time = 0 if told is None else int(told)

    async def _shut(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()
            self._given_up.append(worker)
        await super()._shut()

    @property
    def _time_name(self) -> str:
        return time_blob(self.name)

    async def _mask(self, batch: TelemetryBatch) -> npt.NDArray[np.bool_] | None:
        """Which readings are in scope; None for all."""
        mask = self._of_metrics(batch) if self._scope.metrics else None
        if self._scope.selection is None:
            return mask
        if mask is None:
            return await self._scope.selection.mask(batch)
        mask[mask] = await self._scope.selection.mask(batch.take(mask))
        return mask

    def _of_metrics(self, batch: TelemetryBatch) -> npt.NDArray[np.bool_]:
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
        return self._wanted[batch.series]

    async def _handle(self, entries: Sequence[FeedEntry]) -> bool:
        if self._scope.selection is not None:
            self._scope.selection.follow(entries)
        found = [entry.readings for entry in entries if entry.readings is not None and len(entry.readings)]
        if found:
            batch = TelemetryBatch.concat(found)
            await self._show(self._steps(batch, await self._mask(batch)))
        return False

    def _steps(self, batch: TelemetryBatch, mask: npt.NDArray[np.bool_] | None) -> list[_Step]:
        """The readings in scope, second by second for a detector that takes the time."""
        if not self._timed or not self._settled():
            return [_Step(None, batch if mask is None else batch.take(mask))]
        every = np.arange(len(batch))
        steps = []
        for now, part in parts(batch, self._time):
            which = every[part]
            steps.append(_Step(now, batch.take(which if mask is None else which[mask[part]])))
        return steps

    async def _show(self, steps: Sequence[_Step]) -> None:
        """Gives the detector some readings, and the time between them, and stores its findings."""
        steps = [step for step in steps if len(step.batch) or step.now is not None]
        if not steps:
            return
        assert self._worker is not None
        detector, catalog, told = self.component, self._storage.catalog, self._time

        def work() -> list[tuple[Silences, Findings]]:
            last, answers = told, []
            for step in steps:
                silences, findings = Silences.none(), Findings.none()
                if step.now is not None and step.now > last:
                    last = step.now
                    silences = detector.advance(last)
                if len(step.batch):
                    findings = detector.observe(step.batch, catalog)
                answers.append((silences, findings))
            return answers

        answers = await self._worker.call(work, self._timeout_s)
        found: list[Anomaly] = []
        for step, (silences, findings) in zip(steps, answers, strict=True):
            self._check(findings, len(step.batch))
            self._check_silences(silences, step.now or 0)
            found += await self._in_scope(silences)
            if len(findings):
                found += anomalies_of(self.detector_name, step.batch, findings, catalog, self._clock.now_ms())
        await self._anomalies.add(found)
        self._time = max(self._time, steps[-1].now or 0)

    async def _in_scope(self, silences: Silences) -> Sequence[Anomaly]:
        """The silences of devices in scope."""
        selection = self._scope.selection
        if not len(silences):
            return []
        found = silences_of(self.detector_name, silences, self._storage.catalog, self._clock.now_ms())
        if selection is not None:
            found = [anomaly for anomaly in found if await selection.selects(anomaly.device)]
        return found

    async def _rest(self, after: int, seconds: float) -> bool:
        if not self._timed:
            return await super()._rest(after, seconds)
        # Every commit was handled: only the clock says how late it is.
        now = tick(self._clock.now_ms() - LAG_MS)
        if now > self._time and self._settled():
            async with self._at_work:
                await self._show([_Step(now, TelemetryBatch.empty())])
        if self._to_keep() and self._clock.monotonic_s() - self._kept_at >= KEEP_EVERY_S:
            return False
        await first_of(super()._rest(after, seconds), self._clock.sleep(TICK_MS / 1000))
        return True

    def _to_keep(self) -> bool:
        return super()._to_keep() or self._time - self._kept_time >= _KEEP_TIME_MS

    def _beside(self) -> Commit:
        return super()._beside() + Commit(blobs={self._time_name: b"%d" % self._time} if self._timed else {})

    def _wrote(self) -> None:
        super()._wrote()
        self._kept_time = self._time

    def _check_silences(self, silences: object, now: int) -> None:
        wrong = (
            _wrong_silences(silences, now)
            if isinstance(silences, Silences)
            else f"{type(silences).__name__}, not Silences"
        )
        if wrong:
            raise PluginError(
                f"Detector {self.detector_name!r} returned {wrong} from advance",
                remedy="See Detector.advance in docs/reference/interfaces.md",
                plugin=self.detector_name,
            )

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
        assert self._worker is not None
        state: object = await self._worker.call(self.component.snapshot, self._timeout_s)
        if not isinstance(state, bytes):
            raise PluginError(
                f"Detector {self.detector_name!r} gave {type(state).__name__} as its state, not bytes",
                remedy="See Detector.snapshot in docs/reference/interfaces.md",
                plugin=self.detector_name,
            )
        return state


def _wrong(findings: Findings, length: int) -> str:
    """What is wrong with findings in a batch of this length; in full, for the plugin's author."""
    index, score, expected = (np.asarray(column) for column in (findings.index, findings.score, findings.expected))
    if {index.ndim, score.ndim, expected.ndim} != {1} or not len(index) == len(score) == len(expected):
        return f"columns of the shapes {index.shape}, {score.shape} and {expected.shape}, which must be equally long"
    if not len(index):
        return ""
    if not np.issubdtype(index.dtype, np.integer):
        return f"an index of {index.dtype}, which must hold positions"
    if not 0 <= index.min() <= index.max() < length:
        return f"positions from {index.min()} to {index.max()} in a batch of {length} readings"
    if (np.diff(index) <= 0).any():
        return "positions that do not ascend"
    if not np.isfinite(score.astype(np.float64)).all() or score.min() < 0:
        return "a score that is negative or not finite"
    return ""


def _wrong_silences(silences: Silences, now: int) -> str:
    """What is wrong with silences at a time."""
    columns = [np.asarray(series_) for series_ in (silences.series, silences.deadline, silences.since, silences.score)]
    series, deadline, since, score = columns
    if {column.ndim for column in columns} != {1} or len({len(column) for column in columns}) != 1:
        return f"columns of the shapes {', '.join(str(column.shape) for column in columns)}, which must be equally long"
    if not len(series):
        return ""
    if not all(np.issubdtype(series_.dtype, np.integer) for series_ in (series, deadline, since)):
        return "a series or a time that is not an integer"
    if series.min() < 0 or len(np.unique(series)) != len(series):
        return "a series twice, or a negative series"
    if deadline.max() > now:
        return "a deadline that has not passed"
    if not np.isfinite(score.astype(np.float64)).all() or score.min() < 0:
        return "a score that is negative or not finite"
    return ""
