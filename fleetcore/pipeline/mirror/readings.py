"""The telemetry lane of a mirror: readings, in their order, as far as the hub is to have them.

Readings are sent at least once: the place in the feed is kept after the hub has taken what came before it. What waits
longer than the lane's time to live, what a message budget does not cover and what the hub refuses is counted, and the
refused ones are named.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from attrs import field, frozen

from fleetcore.errors import PluginError, Unavailable
from fleetcore.interfaces.boundary import plugin_call
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.cloud import CloudBackend
from fleetcore.interfaces.storage import Storage
from fleetcore.model.store import Commit, FeedEntry
from fleetcore.model.telemetry import TelemetryBatch
from fleetcore.pipeline.consumer import Consumer
from fleetcore.pipeline.mirror.budget import DayBudget
from fleetcore.pipeline.selection import Selection

#: Refused readings that are named; the newest.
_NAMED = 100
#: How long the rest of a batch waits where the hub does not say.
_AGAIN_S = 1.0


@frozen(kw_only=True)
class ReadingRules:
    """Which readings a mirror sends.

    Attributes:
        metrics: of these metrics only; empty: of none. ``*`` stands for all.
        deadband: metric → by how much a value must differ from the one sent last; ``*`` for all others.
        ttl_s: readings that are older than this when their turn comes are dropped.
        per_day: so many readings a day at most (UTC); None without a bound.
    """

    metrics: frozenset[str] = frozenset({"*"})
    deadband: Mapping[str, float] = field(factory=dict)
    ttl_s: float = 86_400.0
    per_day: int | None = None


class ReadingsLane(Consumer):
    """See the module.

    Attributes:
        counts: readings ``taken``, ``refused``, ``expired``, ``over_budget``, ``within_deadband``, and ``texts``, which
            are not sent.
        refused: the newest that the hub refused: device, metric, time (ms) and why.
    """

    def __init__(
        self,
        name: str,
        cloud: Callable[[], Awaitable[CloudBackend]],
        rules: ReadingRules,
        storage: Storage,
        clock: Clock,
        *,
        selection: Selection | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        super().__init__(f"mirror/{name}/telemetry", storage, clock)
        self._cloud, self._rules, self._selection, self._timeout_s = cloud, rules, selection, timeout_s
        self.counts: Counter[str] = Counter()
        self.refused: list[tuple[str, str, int, str]] = []
        self._sent_last: dict[int, float] = {}
        self.budget = DayBudget(name, "readings", rules.per_day, storage, clock)

    async def _open(self) -> None:
        await self.budget.load()

    async def _handle(self, entries: Sequence[FeedEntry]) -> bool:
        cloud = await self._cloud()
        if self._selection is not None:
            self._selection.follow(entries)
        for entry in entries:
            self.counts["texts"] += len(entry.texts)
            if entry.readings is not None and len(entry.readings):
                batch = await self._chosen(entry.readings)
                spent = await self._send(cloud, batch)
                # Kept by itself: a page that fails begins again where it stopped.
                await self._storage.commit(Commit(cursors={self.name: entry.position}) + spent)
                self._kept, self._kept_at = entry.position, self._clock.monotonic_s()
        return False

    async def _chosen(self, batch: TelemetryBatch) -> TelemetryBatch:
        """The readings of a commit that are to be sent."""
        if "*" not in self._rules.metrics:
            catalog = self._storage.catalog
            series, place = np.unique(batch.series, return_inverse=True)
            wanted = [catalog.series(index).metric in self._rules.metrics for index in series.tolist()]
            batch = batch.take(np.array(wanted, np.bool_)[place])
        if self._selection is not None and len(batch):
            batch = batch.take(await self._selection.mask(batch))
        fresh: npt.NDArray[np.bool_] = batch.time >= self._clock.now_ms() - round(self._rules.ttl_s * 1000)
        self.counts["expired"] += len(batch) - int(fresh.sum())
        batch = batch.take(fresh)
        return self._outside_deadband(batch) if self._rules.deadband else batch

    def _outside_deadband(self, batch: TelemetryBatch) -> TelemetryBatch:
        catalog, bands = self._storage.catalog, self._rules.deadband
        keep = np.ones(len(batch), np.bool_)
        for at, (index, value) in enumerate(zip(batch.series.tolist(), batch.value.tolist(), strict=True)):
            band = bands.get(catalog.series(index).metric, bands.get("*"))
            last = self._sent_last.get(index)
            if band is not None and last is not None and abs(value - last) <= band:
                keep[at] = False
            else:
                self._sent_last[index] = value
        self.counts["within_deadband"] += len(batch) - int(keep.sum())
        return batch.take(keep)

    async def _send(self, cloud: CloudBackend, batch: TelemetryBatch) -> Commit:
        """Sends them, as far as the day's budget goes; what keeps that it was spent."""
        room = min(self.budget.room(), len(batch))
        over, batch = len(batch) - room, batch.take(np.arange(room, dtype=np.int64))
        most = cloud.limits.readings
        spent = Commit()
        for start in range(0, len(batch), most):
            piece = batch.take(np.arange(start, min(start + most, len(batch)), dtype=np.int64))
            while len(piece):
                async with plugin_call(f"mirror {self.name!r}", self._timeout_s):
                    sent = await cloud.send(piece, self._storage.catalog)
                if sent.taken + len(sent.refused) + len(sent.rest) != len(piece):
                    raise PluginError(f"{self.name}: the backend accounts for other readings than it was given")
                self.counts["taken"] += sent.taken
                spent = _later(spent, self.budget.spend(sent.taken))
                for at, why in sent.refused.items():
                    self._refuse(piece, at, why)
                if not sent.taken and not sent.refused and sent.rest:
                    raise Unavailable("The hub takes no readings now", retry_after_s=sent.retry_after_s or _AGAIN_S)
                piece = piece.take(np.array(sent.rest, np.int64))
                if len(piece):
                    await self._clock.sleep(sent.retry_after_s or _AGAIN_S)
        self.counts["over_budget"] += over
        return spent

    def _refuse(self, batch: TelemetryBatch, at: int, why: str) -> None:
        series = self._storage.catalog.series(int(batch.series[at]))
        self.counts["refused"] += 1
        self.refused = [*self.refused[1 - _NAMED :], (series.device, series.metric, int(batch.time[at]), why)]


def _later(before: Commit, after: Commit) -> Commit:
    """What keeps a budget after both: the later state of it, and the events of each."""
    return Commit(puts=after.puts or before.puts, events=(*before.events, *after.events))
