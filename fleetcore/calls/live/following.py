"""Subscriptions to events and readings. What a slow reader misses is dropped and counted.

Every event is sent; of readings a slow reader gets the newest of every series.
"""

from collections import deque
from collections.abc import Sequence

from attrs import frozen

from fleetcore.calls.caller import Caller
from fleetcore.calls.events import event_response, is_visible, selected
from fleetcore.calls.live.frames import Frame, Subscribe
from fleetcore.calls.live.subscription import LiveLimits, Subscription
from fleetcore.calls.selection import Selection
from fleetcore.calls.types import Ms
from fleetcore.model.store import Event, FeedEntry
from fleetcore.model.telemetry import Series, shown

#: The most readings of one frame.
_READINGS = 500


class Events(Subscription):
    """The events of the wanted types that the caller may see, commit by commit."""

    def __init__(self, caller: Caller, asked: Subscribe, position: int, limits: LiveLimits) -> None:
        super().__init__(caller, asked, position, limits)
        self._types = tuple(asked.types or ())
        self._selection = None if self._where is None else Selection(caller, self._where)
        self._waiting: deque[FeedEntry] = deque()
        self._count = self._dropped = self._dropped_to = 0

    @property
    def waits(self) -> bool:
        return bool(self._waiting or self._dropped)

    async def see(self, entry: FeedEntry) -> None:
        if self._selection is not None:
            self._selection.see(entry)
        events = await self._wanted(entry.events)
        if not events:
            return
        self._waiting.append(FeedEntry(position=entry.position, events=events))
        self._count += len(events)
        while self._count > self._limits.waiting and len(self._waiting) > 1:
            oldest = self._waiting.popleft()
            self._count -= len(oldest.events)
            self._dropped += len(oldest.events)
            self._dropped_to = oldest.position

    async def _wanted(self, events: Sequence[Event]) -> tuple[Event, ...]:
        wanted = await selected(events, self._types, self._selection)
        return tuple([event for event in wanted if await is_visible(self._caller, event)])

    async def take(self) -> Frame | None:
        if self._dropped:
            count, self._dropped = self._dropped, 0
            return self.frame("dropped", count=count, position=self._dropped_to)
        if not self._waiting:
            return None
        entry = self._waiting.popleft()
        self._count -= len(entry.events)
        events = [event_response(event) for event in entry.events]
        return self.frame("events", position=entry.position, events=events)

    async def judge_again(self) -> None:
        if self._selection is not None:
            self._selection.narrow()
        waiting, self._waiting, self._count = self._waiting, deque(), 0
        for entry in waiting:
            events = await self._wanted(entry.events)
            if events:
                self._waiting.append(FeedEntry(position=entry.position, events=events))
                self._count += len(events)


@frozen
class _Reading:
    series: Series
    time: int
    value: float | bool | str


class Readings(Subscription):
    """The readings of the wanted metrics of devices that the caller may see."""

    def __init__(self, caller: Caller, asked: Subscribe, position: int, limits: LiveLimits) -> None:
        super().__init__(caller, asked, position, limits)
        self._metrics = frozenset(asked.metrics or ())
        self._selection = Selection(caller, self._where)
        self._waiting: deque[_Reading] = deque()
        self._dropped = 0

    @property
    def waits(self) -> bool:
        return bool(self._waiting)

    async def see(self, entry: FeedEntry) -> None:
        self._selection.see(entry)
        catalog = self._caller.fleet.storage.catalog
        batch = entry.readings
        if batch is not None:
            for index in dict.fromkeys(batch.series.tolist()):
                series = catalog.series(index)
                if await self._wants(series):
                    rows = batch.series == index
                    values = shown(series, batch.value[rows], batch.quality[rows])
                    times = batch.time[rows].tolist()
                    self._waiting.extend(map(_Reading, [series] * len(times), times, values))
        for text in entry.texts:
            if await self._wants(series := catalog.series(text.series)):
                self._waiting.append(_Reading(series, text.time, text.value))
        if len(self._waiting) > self._limits.waiting:
            self._thin()

    async def _wants(self, series: Series) -> bool:
        if self._metrics and series.metric not in self._metrics:
            return False
        return await self._selection.holds(series.device)

    def _thin(self) -> None:
        """Keeps the newest of each series; with more series than may wait, the latest to arrive."""
        newest: dict[int, _Reading] = {}
        for reading in self._waiting:
            newer = newest.get(reading.series.index)
            if newer is None or reading.time >= newer.time:
                newest.pop(reading.series.index, None)
                newest[reading.series.index] = reading
        kept_ones = list(newest.values())[-self._limits.waiting :]
        self._dropped += len(self._waiting) - len(kept_ones)
        self._waiting = deque(kept_ones)

    async def take(self) -> Frame | None:
        if self._dropped:
            count, self._dropped = self._dropped, 0
            # Without a position: the remaining ones are not sent yet, and a reader that resumed from there would miss
            # them.
            return self.frame("dropped", count=count)
        if not self._waiting:
            return None
        readings = [_frame(self._waiting.popleft()) for _ in range(min(_READINGS, len(self._waiting)))]
        # If a page of the feed is sent in pieces, only the last piece marks it as complete.
        return self.frame("readings", readings=readings, **({} if self._waiting else {"position": self.position}))

    async def judge_again(self) -> None:
        self._selection.narrow()
        self._waiting = deque([each for each in self._waiting if await self._wants(each.series)])


def _frame(reading: _Reading) -> Frame:
    unit = {} if reading.series.unit is None else {"unit": reading.series.unit}
    series = reading.series
    return {"device": series.device, "metric": series.metric, "time": Ms(reading.time), "value": reading.value, **unit}
