"""Anomalies: storing and listing the findings of detectors, and running a detector over stored readings."""

import hashlib
import math
from collections.abc import AsyncIterator, Mapping, Sequence

from fleetcore.errors import Refused, VersionConflict
from fleetcore.fleet.repository import Pairs, Repository, in_time
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.detector import Detector
from fleetcore.interfaces.provider import Limits
from fleetcore.interfaces.storage import Storage
from fleetcore.model.anomaly import LATE_MS, Anomaly, Findings, Silences
from fleetcore.model.days import DAY_MS
from fleetcore.model.events import ANOMALY_FOUND
from fleetcore.model.kinds import Severity
from fleetcore.model.message import Accepted, Handler, MessageType, Outcome, PointRefusal, Rejected, Request
from fleetcore.model.names import check_metric
from fleetcore.model.store import Commit, Event
from fleetcore.model.telemetry import SeriesCatalog, TelemetryBatch
from fleetcore.wire import messages
from fleetcore.wire.bodies import Many
from fleetcore.wire.times import format_time

KIND = "anomaly"
#: The score of an alert that names none.
_AT_LIMIT = 1.0


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
                late=int(batch.received[i]) - time > LATE_MS,
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
                id=_id(detector, series.device, series.metric, _missing(deadline)),
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


def told(device: str, alert: messages.Alert, now_ms: int) -> Anomaly:
    """An alert of a device as a record, with the id that a detector of that name here would give it."""
    time = int(alert.time)
    return Anomaly(
        id=_id(alert.detector, device, alert.metric, f"{time}" if alert.value is not None else _missing(time)),
        detector=alert.detector,
        device=device,
        metric=alert.metric,
        time=time,
        observed=alert.value,
        expected=alert.expected,
        score=_AT_LIMIT if alert.score is None else alert.score,
        severity=Severity(alert.severity or Severity.WARNING),
        explanation=alert.text or f"{alert.detector} on {device}",
        found=now_ms,
        late=now_ms - time > LATE_MS,
    )


def _missing(deadline: int) -> str:
    return f"silence\0{deadline}"


def _id(detector: str, device: str, metric: str, what: str) -> str:
    return hashlib.sha256(f"{detector}\0{device}\0{metric}\0{what}".encode()).hexdigest()[:24]


def _events(found: Sequence[Anomaly]) -> tuple[Event, ...]:
    return tuple(
        Event(
            type=ANOMALY_FOUND,
            subject=item.id,
            time=item.found,
            actor=item.detector,
            reason=item.explanation,
            data={"device": item.device, "metric": item.metric, "severity": item.severity.value},
        )
        for item in found
    )


class AnomalyDetector:
    """Runs detectors over stored telemetry, takes alerts of devices, and lists anomalies."""

    def __init__(self, storage: Storage, clock: Clock, limits: Limits) -> None:
        self._storage, self._clock, self._limits = storage, clock, limits
        self.records = Repository(
            storage, KIND, Anomaly, refs=_refs, sort=lambda anomaly: in_time(anomaly.time)
        )  # fmt: skip

    @property
    def handlers(self) -> Mapping[MessageType, Handler]:
        """The handler for alerts that devices and gateways tell."""
        return {messages.EVENTS: self._told}

    async def _told(self, request: Request, alerts: Many) -> Outcome:
        now = self._clock.now_ms()
        refused = list(alerts.refused)
        taken = {point.index for point in refused}
        places = [index for index in range(len(alerts) + len(taken)) if index not in taken]
        good: list[Anomaly] = []
        for index, alert in zip(places, alerts, strict=True):
            code, reason = self._fault(alert, now)
            if code:
                refused.append(PointRefusal(index, alert.metric, code, reason))
            else:
                good.append(told(request.subject, alert, now))
        refused.sort(key=lambda point: point.index)
        if not good:
            return Rejected(code=refused[0].code, reason="No alert could be stored", refused=tuple(refused))
        await self.add(good)
        return Accepted(stored=len(good), refused=tuple(refused))

    def _fault(self, alert: messages.Alert, now: int) -> tuple[str, str]:
        try:
            check_metric(alert.metric)
        except Refused as error:
            return error.code, error.message
        if alert.time > now + self._limits.future_ms:
            return "time_in_future", f"{format_time(int(alert.time))} is in the future: check the device's clock"
        return "", ""

    async def add(self, anomalies: Sequence[Anomaly]) -> Sequence[Anomaly]:
        """Stores anomalies, each with its event, in one commit, and returns those that were not known before.

        A detector finds some of them again after a crash, and a gateway may have told them already. Two that store the
        same anomaly at one time have one commit refused, and the second finds it known.
        """
        while True:
            unique = {anomaly.id: anomaly for anomaly in anomalies}
            known = await self.records.get_many(list(unique))
            new = [anomaly for anomaly in unique.values() if anomaly.id not in known]
            if not new:
                return new
            try:
                await self._storage.commit(
                    Commit(puts=tuple(self.records.put(item, expect=0) for item in new), events=_events(new))
                )
            except VersionConflict:
                continue
            return new

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
