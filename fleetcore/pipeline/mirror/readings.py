"""Sends a mirror's readings, in order.

Readings are sent at least once: the feed position is saved after the hub has accepted what comes before it. Readings
past their time to live, beyond the message budget or refused by the hub are counted, and refused ones are listed.
"""

from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from attrs import field, frozen

from fleetcore.errors import CredentialsRejected, PluginError, Unavailable
from fleetcore.interfaces.boundary import in_a_line, plugin_call
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.cloud import CloudBackend, Sent
from fleetcore.interfaces.storage import Storage
from fleetcore.model.store import Commit, FeedEntry
from fleetcore.model.telemetry import TelemetryBatch, TextReading
from fleetcore.pipeline.consumer import Consumer
from fleetcore.pipeline.mirror.budget import DayBudget
from fleetcore.pipeline.selection import Selection

#: Refused readings that are listed; the newest.
_NAMED = 100
#: How long the rest of a batch waits if the hub does not say.
_AGAIN_S = 1.0
#: The longest time between two saved feed positions; a crash repeats what followed the last one.
_KEEP_S = 1.0


@frozen(kw_only=True)
class ReadingRules:
    """Which readings a mirror sends.

    Attributes:
        metrics: only these metrics; ``*`` means all.
        deadband: metric → the minimum difference from the value sent last; ``*`` for all others.
        ttl_s: readings older than this when their turn comes are dropped.
        per_day: the maximum number of readings a day (UTC); None for no limit.
    """

    metrics: frozenset[str]
    deadband: Mapping[str, float] = field(factory=dict)
    ttl_s: float = 86_400.0
    per_day: int | None = None


class ReadingsSender(Consumer):
    """Sends readings; see the module.

    Args:
        devices_at: returns once the hub has the devices that existed at a position, as far as it accepts them.

    Attributes:
        counts: readings ``taken``, ``refused``, ``expired``, ``over_budget`` and ``within_deadband``.
        refused: the newest readings that the hub refused: device, metric, time (ms) and reason.
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
        devices_at: Callable[[int], Awaitable[None]] | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        super().__init__(f"mirror/{name}/telemetry", storage, clock)
        self._devices_at = devices_at
        self._cloud, self._rules, self._selection, self._timeout_s = cloud, rules, selection, timeout_s
        self.counts: Counter[str] = Counter()
        self.refused: deque[tuple[str, str, int, str]] = deque(maxlen=_NAMED)
        self._sent_last: dict[int, float] = {}
        self._trying = True
        self.budget = DayBudget(name, "readings", rules.per_day, storage, clock)

    async def _open(self) -> None:
        await self.budget.load()

    async def _handle(self, entries: Sequence[FeedEntry]) -> bool:
        cloud = await self._cloud()
        if self._selection is not None:
            self._selection.follow(entries)
        group: list[FeedEntry] = []
        count = 0
        for entry in entries:
            group.append(entry)
            count += len(entry.texts) + (0 if entry.readings is None else len(entry.readings))
            # Saved group by group: otherwise a page that always fails half-way would start again forever.
            if count >= cloud.limits.readings:
                await self._deliver(cloud, group, keep=True)
                group, count = [], 0
        if count:
            await self._deliver(cloud, group, keep=self._clock.monotonic_s() - self._kept_at >= _KEEP_S)
        return False

    async def _deliver(self, cloud: CloudBackend, group: Sequence[FeedEntry], *, keep: bool) -> None:
        """Sends the readings of some commits; saves the position if it is asked for or a budget was spent."""
        catalog, most = self._storage.catalog, cloud.limits.readings
        batch = await self._chosen(
            TelemetryBatch.concat([each.readings for each in group if each.readings is not None])
        )
        texts = await self._chosen_texts([text for each in group for text in each.texts])
        if self._devices_at is not None and cloud.limits.readings_after_device:
            await self._devices_at(group[-1].position)
        spent = await self._send(
            len(batch), most,
            lambda at: cloud.send(batch.take(np.array(at, np.int64)), catalog),
            lambda at: (int(batch.series[at]), int(batch.time[at])),
        )  # fmt: skip
        spent = _later(
            spent,
            await self._send(
                len(texts), most,
                lambda at: cloud.send_texts([texts[each] for each in at], catalog),
                lambda at: (texts[at].series, texts[at].time),
            ),
        )  # fmt: skip
        if keep or spent != Commit():
            position = group[-1].position
            await self._storage.commit(Commit(cursors={self.name: position}) + spent)
            self._kept, self._kept_at = position, self._clock.monotonic_s()

    async def _chosen(self, batch: TelemetryBatch) -> TelemetryBatch:
        """The readings to be sent."""
        if "*" not in self._rules.metrics:
            series, place = np.unique(batch.series, return_inverse=True)
            wanted = [self._is_wanted(index) for index in series.tolist()]
            batch = batch.take(np.array(wanted, np.bool_)[place])
        if self._selection is not None and len(batch):
            batch = batch.take(await self._selection.mask(batch))
        fresh: npt.NDArray[np.bool_] = batch.time >= self._oldest_ms()
        self.counts["expired"] += len(batch) - int(fresh.sum())
        batch = batch.take(fresh)
        return self._outside_deadband(batch) if self._rules.deadband else batch

    async def _chosen_texts(self, texts: Sequence[TextReading]) -> Sequence[TextReading]:
        catalog = self._storage.catalog
        found = [text for text in texts if self._is_wanted(text.series)]
        if self._selection is not None:
            found = [text for text in found if await self._selection.selects(catalog.series(text.series).device)]
        fresh = [text for text in found if text.time >= self._oldest_ms()]
        self.counts["expired"] += len(found) - len(fresh)
        return fresh

    def _is_wanted(self, series: int) -> bool:
        metrics = self._rules.metrics
        return "*" in metrics or self._storage.catalog.series(series).metric in metrics

    def _oldest_ms(self) -> int:
        return self._clock.now_ms() - round(self._rules.ttl_s * 1000)

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

    async def _send(
        self,
        count: int,
        most: int,
        send: Callable[[Sequence[int]], Awaitable[Sent]],
        about: Callable[[int], tuple[int, int]],
    ) -> Commit:
        """Sends readings by their positions, within the day's budget; returns the change that records the spending.

        Args:
            most: the maximum per call.
            about: series and time of a reading, to list refused ones.
        """
        room = min(self.budget.room(), count)
        spent = Commit()
        pending = deque[Sequence[int]](range(first, min(first + most, room)) for first in range(0, room, most))
        while pending:
            at = pending.popleft()
            if self._trying and len(at) > 1:
                # A hub that did not accept the last ones is tried with one reading.
                pending.appendleft(at[1:])
                at = at[:1]
            self._trying = True
            try:
                sent = await self._answered(send(at))
            except (Unavailable, PluginError, OSError):
                raise
            except Exception as error:
                # The failure may come from one reading, which must not delay the others.
                self._trying = False
                if len(at) == 1:
                    self._refuse(*about(at[0]), f"The backend raised {in_a_line(error)}")
                else:
                    pending.extendleft((at[len(at) // 2 :], at[: len(at) // 2]))
                continue
            if sent.taken + len(sent.refused) + len(sent.rest) != len(at):
                raise PluginError(f"{self.name}: the backend accounts for other readings than it was given")
            self.counts["taken"] += sent.taken
            spent = _later(spent, self.budget.spend(sent.taken))
            for each, why in sent.refused.items():
                self._refuse(*about(at[each]), why)
            if not sent.taken and not sent.refused and sent.rest:
                raise Unavailable("The hub does not accept readings now", retry_after_s=sent.retry_after_s or _AGAIN_S)
            self._trying = False
            if sent.rest:
                pending.appendleft([at[each] for each in sent.rest])
                await self._clock.sleep(sent.retry_after_s or _AGAIN_S)
        self.counts["over_budget"] += count - room
        return spent

    async def _answered(self, call: Awaitable[Sent]) -> Sent:
        """The hub's answer. Rejected credentials are retried: a role may have been restored, a file renewed."""
        try:
            async with plugin_call(f"mirror {self.name!r}", self._timeout_s):
                return await call
        except CredentialsRejected as error:
            # Raised as it is, it would end the consumer until the server is restarted.
            raise Unavailable(str(error), remedy=error.remedy) from error

    def _refuse(self, series: int, time: int, why: str) -> None:
        found = self._storage.catalog.series(series)
        self.counts["refused"] += 1
        self.refused.append((found.device, found.metric, time, why))


def _later(before: Commit, after: Commit) -> Commit:
    """The change that records both: the later state of the budget, and the events of each."""
    return Commit(puts=after.puts or before.puts, events=(*before.events, *after.events))
