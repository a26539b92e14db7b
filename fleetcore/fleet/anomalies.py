"""Anomalies: storing and listing the findings of detectors, and running a detector over stored readings."""

import hashlib
import math
from collections.abc import AsyncIterator, Sequence

from fleetcore.errors import Refused
from fleetcore.fleet.repository import Pairs, Repository, in_time
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.detector import Detector
from fleetcore.interfaces.storage import Storage
from fleetcore.model.anomaly import Anomaly, Findings, Silences
from fleetcore.model.days import DAY_MS
from fleetcore.model.store import Put
from fleetcore.model.telemetry import SeriesCatalog, TelemetryBatch
from fleetcore.wire.times import format_time

KIND = "anomaly"


def _refs(anomaly: Anomaly) -> Pairs:
    day = anomaly.found // DAY_MS
    return [
        ("device", anomaly.device),
        ("detector", anomaly.detector),
        ("found", f"{day}"),
        ("found-of", f"{anomaly.device}/{day}"),
    ]


def anomalies_of(
    detector: str, batch: TelemetryBatch, findings: Findings, catalog: SeriesCatalog, now_ms: int
) -> Sequence[Anomaly]:
    """Findings as records. The id follows from detector, series and time, so a repeated finding is stored once."""
    found: list[Anomaly] = []
    for i, score, expected in zip(
        findings.index.tolist(), findings.score.tolist(), findings.expected.tolist(), strict=True
    ):
        series = catalog.series(int(batch.series[i]))
        time, value = int(batch.time[i]), float(batch.value[i])
        known = not math.isnan(expected)
        text = findings.explanation.format(
            value=f"{value:g}", expected=f"{expected:g}" if known else "?", score=f"{score:.3g}"
        )
        found.append(
            Anomaly(
                id=_id(detector, series.device, series.metric, f"{time}"),
                detector=detector,
                device=series.device,
                metric=series.metric,
                time=time,
                observed=value,
                expected=expected if known else None,
                score=score,
                severity=findings.severity,
                explanation=text,
                found=now_ms,
            )
        )
    return found


def silences_of(detector: str, silences: Silences, catalog: SeriesCatalog, now_ms: int) -> Sequence[Anomaly]:
    """Silences as records, each of an existing series; the id follows from detector, series and deadline."""
    found: list[Anomaly] = []
    for index, deadline, since, score in zip(
        silences.series.tolist(),
        silences.deadline.tolist(),
        silences.since.tolist(),
        silences.score.tolist(),
        strict=True,
    ):
        try:
            series = catalog.series(index)
        except KeyError:  # its device was erased
            continue
        text = silences.explanation.format(
            since=format_time(since), deadline=format_time(deadline), score=f"{score:.3g}"
        )
        found.append(
            Anomaly(
                id=_id(detector, series.device, series.metric, f"silence\0{deadline}"),
                detector=detector,
                device=series.device,
                metric=series.metric,
                time=deadline,
                observed=None,
                expected=None,
                score=score,
                severity=silences.severity,
                explanation=text,
                found=now_ms,
            )
        )
    return found


def _id(detector: str, device: str, metric: str, what: str) -> str:
    return hashlib.sha256(f"{detector}\0{device}\0{metric}\0{what}".encode()).hexdigest()[:24]


class AnomalyDetector:
    """Runs detectors over stored telemetry and lists anomalies."""

    def __init__(self, storage: Storage, clock: Clock) -> None:
        self._storage, self._clock = storage, clock
        self.records = Repository(
            storage, KIND, Anomaly, refs=_refs, sort=lambda anomaly: in_time(anomaly.time)
        )  # fmt: skip

    def puts(self, anomalies: Sequence[Anomaly]) -> tuple[Put, ...]:
        """The puts that store anomalies; an existing id is overwritten with the same content."""
        return tuple(self.records.put(anomaly) for anomaly in {anomaly.id: anomaly for anomaly in anomalies}.values())

    async def list(self, device: str | None = None, *, limit: int | None = None) -> Sequence[Anomaly]:
        """The anomalies of a device (or of all), oldest reading first; only the newest ``limit``."""
        ref = None if device is None else ("device", device)
        if limit is None:
            return await self.records.find(ref=ref)
        return (await self.records.page(ref=ref, limit=limit, newest=True)).items[::-1]

    async def found_since(self, time: int, device: str | None = None) -> AsyncIterator[Anomaly]:
        """The anomalies found at or after a time (ms since the epoch), of a device or of all, day by day."""
        for day in range(time // DAY_MS, self._clock.now_ms() // DAY_MS + 1):
            ref = ("found", f"{day}") if device is None else ("found-of", f"{device}/{day}")
            async for anomaly in self.records.iterate(ref=ref):
                if anomaly.found >= time:
                    yield anomaly

    async def get(self, anomaly: str) -> Anomaly | None:
        """One anomaly by id, or None."""
        return await self.records.get(anomaly)

    async def run(
        self, detector: Detector, device: str, metric: str | None = None, *, start: int = 0, end: int = 4 * 10**12
    ) -> Sequence[Anomaly]:
        """Runs a detector over the stored points of a device in time order and returns its findings; stores nothing.

        The detector is used with its present state.
        """
        if end <= start:
            raise Refused("The range is empty", remedy="Let end be after start")
        found: list[Anomaly] = []
        name = type(detector).__name__
        async for batch in self._stored(device, metric, start, end):
            findings = detector.observe(batch, self._storage.catalog)
            found += anomalies_of(name, batch, findings, self._storage.catalog, self._clock.now_ms())
        return sorted(found, key=lambda item: item.time)

    async def _stored(self, device: str, metric: str | None, start: int, end: int) -> AsyncIterator[TelemetryBatch]:
        for series in await self._storage.series_of(device):
            if metric is not None and series.metric != metric:
                continue
            async for data in self._storage.read(series.index, start, end):
                yield TelemetryBatch.of([series.index] * len(data), data.time, data.value, quality=data.quality)
