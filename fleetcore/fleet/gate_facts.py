"""What a health gate knows of a device in a window: alerts, silence, and how its metrics changed.

The same is read of an updated device and of those that it is compared with, over the same hours. Alerts are those that
detectors found; a device is heard when any message of it arrives.
"""

import asyncio
from collections.abc import Mapping, Sequence

from attrs import field, frozen

from fleetcore.fleet.anomalies import AnomalyDetector
from fleetcore.fleet.process_state.presence import PresenceBoard
from fleetcore.fleet.repository import in_time
from fleetcore.interfaces.storage import Storage
from fleetcore.model.days import DAY_MS
from fleetcore.model.device import Connectivity
from fleetcore.model.gate import Control, Observation, Rule
from fleetcore.model.kinds import Severity
from fleetcore.model.rollout import HealthGate
from fleetcore.model.store import place
from fleetcore.rollout.gate import outliers

#: Series of a device that are looked at for whether it sent anything.
_MAX_SERIES = 20
#: Anomalies that are read for one that matters.
_ANOMALIES = 10


@frozen(kw_only=True)
class Window:
    """Two stretches of time, ms since the epoch: before the update (``before`` to ``ended``) and after it.

    ``half`` is the middle of the second, which begins at ``since`` and ends at ``end``.
    """

    before: int
    ended: int
    since: int
    half: int
    end: int

    @classmethod
    def of(cls, observation: Observation, gate: HealthGate) -> "Window":
        """The window of an observed device."""
        since, length = observation.since, gate.window_ms
        return cls(
            before=observation.before - length, ended=observation.before, since=since, half=since + length // 2,
            end=since + length,
        )  # fmt: skip

    def days_ago(self, number: int) -> "Window":
        """The same hours of an earlier day; ``number`` 2 is the next one before that does not overlap 1."""
        back = number * DAY_MS * -(-(self.end - self.before) // DAY_MS)
        return Window(
            before=self.before - back, ended=self.ended - back, since=self.since - back, half=self.half - back,
            end=self.end - back,
        )  # fmt: skip


@frozen(kw_only=True)
class Facts:
    """What is known of a device in a window.

    Attributes:
        device: its id.
        troubled: it had an alert before, so that it is in no comparison.
        alert: what a detector found in the window, in words; empty for nothing.
        silent: why it counts as silent, in words; empty where it was heard.
        changes: the change of the mean of each metric; None where either stretch has no readings.
        levels: the absolute mean of each metric before.
        ended: metrics that it sent before, and no longer in the second half of the window.
    """

    device: str
    troubled: bool
    alert: str
    silent: str
    changes: Mapping[str, float | None] = field(factory=dict)
    levels: Mapping[str, float] = field(factory=dict)
    ended: Sequence[str] = ()


class FactsReader:
    """Reads the facts of devices; the work for a device does not grow with its history."""

    def __init__(self, storage: Storage, presence: PresenceBoard, anomalies: AnomalyDetector) -> None:
        self._storage, self._presence, self._anomalies = storage, presence, anomalies

    def is_alive(self, device: str, since: int) -> bool:
        """Whether a device was heard since a time (ms), or sleeps."""
        presence = self._presence.of(device)
        return presence.connectivity is Connectivity.ASLEEP or (presence.last_seen or 0) >= since

    async def present(self, device: str, window: Window, gate: HealthGate) -> Facts:
        """The facts of a window that has just ended."""
        silent = "" if self.is_alive(device, window.half) else "it was not heard in the second half of its window"
        return await self._facts(device, window, gate, silent)

    async def past(self, device: str, window: Window, gate: HealthGate) -> Facts | None:
        """The same of any window, by readings alone; None where it had sent none before it."""
        before, after = await asyncio.gather(
            self._has_sent(device, window.before, window.ended), self._has_sent(device, window.half, window.end)
        )
        if not before:
            return None
        return await self._facts(device, window, gate, "" if after else "no reading in the second half of its window")

    async def _facts(self, device: str, window: Window, gate: HealthGate, silent: str) -> Facts:
        before, alert = await asyncio.gather(
            self._alert(device, window.before, window.ended), self._alert(device, window.since, window.end)
        )
        changes: dict[str, float | None] = {}
        levels: dict[str, float] = {}
        ended = []
        indices = {series.metric: series.index for series in await self._storage.series_of(device)}
        for metric in gate.metrics:
            changes[metric] = None
            if metric not in indices:
                continue
            sums = await asyncio.gather(
                self._sum(indices[metric], window.before, window.ended),
                self._sum(indices[metric], window.since, window.half),
                self._sum(indices[metric], window.half, window.end),
            )
            (old, count), first, second = sums
            if count:
                levels[metric] = abs(old / count)
                if not second[1]:
                    ended.append(metric)
                else:
                    changes[metric] = (first[0] + second[0]) / (first[1] + second[1]) - old / count
        return Facts(
            device=device, troubled=bool(before), alert=alert, silent=silent, changes=changes, levels=levels,
            ended=ended,
        )  # fmt: skip

    async def _sum(self, series: int, start: int, end: int) -> tuple[float, int]:
        found = await self._storage.aggregate(series, start, end, max(1, end - start))
        return float(found.sum.sum()), int(found.count.sum())

    async def _has_sent(self, device: str, start: int, end: int) -> bool:
        for series in (await self._storage.series_of(device))[:_MAX_SERIES]:
            if (await self._sum(series.index, start, end))[1]:
                return True
        return False

    async def _alert(self, device: str, start: int, end: int) -> str:
        """The newest anomaly of a device with ``start <= time < end`` that is more than information, in words."""
        found = await self._anomalies.records.page(
            ref=("device", device), after=place(in_time(end), ""), limit=_ANOMALIES, newest=True
        )
        for anomaly in found.items:
            if anomaly.time >= start and anomaly.severity is not Severity.INFO:
                return f"{anomaly.metric}: {anomaly.explanation}"
        return ""


def judged(facts: Sequence[Facts], gate: HealthGate) -> list[Control]:
    """Which devices of a block are bad, and why: each by the same rules, against the others of the block."""
    rules: list[list[str]] = [[] for _ in facts]
    reasons: list[list[str]] = [[] for _ in facts]

    def add(at: int, rule: Rule, reason: str) -> None:
        if rule not in rules[at]:
            rules[at].append(rule)
        reasons[at].append(reason)

    for at, each in enumerate(facts):
        if each.alert:
            add(at, Rule.ALERTED, each.alert)
        if each.silent:
            add(at, Rule.SILENT, each.silent)
        for metric in each.ended:
            add(at, Rule.METRIC, f"it sends no {metric} any more")
    for metric in gate.metrics:
        levels = [each.levels[metric] for each in facts if metric in each.levels]
        level = sorted(levels)[len(levels) // 2] if levels else 0.0
        changes = [each.changes.get(metric) for each in facts]
        for at, others in enumerate(outliers(changes, level)):
            if others is not None:
                add(at, Rule.METRIC, f"{metric} changed by {changes[at]:+.3g}, in the others by {others:+.3g}")
    return [
        Control(device=each.device, rules=tuple(rules[at]), reasons=tuple(reasons[at])) for at, each in enumerate(facts)
    ]
