"""Subscriptions to state: the selected devices in their current state, then each device again as it changes.

If a device changes faster than the reader reads, only its newest state is sent; no such state is dropped.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence

from fleetcore.calls.caller import Caller
from fleetcore.calls.live.frames import Frame, Subscribe
from fleetcore.calls.live.subscription import LiveLimits, Subscription
from fleetcore.calls.selection import Selection
from fleetcore.errors import Refused
from fleetcore.fleet.documents import TIMED, Document
from fleetcore.model.events import changed_parts, device_of
from fleetcore.model.store import FeedEntry
from fleetcore.query.evaluate import matches

#: How many devices are examined at once.
_AT_ONCE = 100
#: How many devices have their presence compared before other tasks run.
_COMPARED = 1000
_DEFAULT = ("lifecycle", "connectivity", "last_seen", "location", "latest")


class State(Subscription):
    """The wanted parts of each selected device."""

    def __init__(self, caller: Caller, asked: Subscribe, position: int, limits: LiveLimits) -> None:
        super().__init__(caller, asked, position, limits)
        self._wanted = tuple(dict.fromkeys(asked.parts or _DEFAULT))
        self._timed = bool(TIMED & set(self._wanted))
        if asked.after is not None and self._timed:
            raise Refused(
                "connectivity and last_seen do not have a position to continue from",
                remedy="Leave out `after`: the state of all selected devices then comes first",
                pointer="/after",
            )
        self._selection = Selection(caller, self._where)
        self._changed: dict[str, None] = {}
        #: The devices that the reader holds, with the connectivity that it received.
        self._told: dict[str, str] = {}
        #: Those of them that the current pass over the fleet has not reached yet.
        self._unmet: set[str] = set()
        #: A reader that continues from a position holds devices that are not known here.
        self._resumed = asked.after is not None
        self._listing, self._after = not self._resumed, ""
        #: Frames that are made and not sent yet.
        self._made: deque[Frame] = deque()
        self._begun_at = position

    @property
    def waits(self) -> bool:
        return self._listing or bool(self._made or self._changed)

    @property
    def _needed(self) -> frozenset[str]:
        return self._selection.parts.union(self._wanted)

    async def see(self, entry: FeedEntry) -> None:
        needed = self._needed
        for event in entry.events:
            device = device_of(event)
            if device is not None and changed_parts(event) & needed:
                self._changed[device] = None
        if entry.readings is not None or entry.texts:
            self._see_readings(entry, needed)

    def _see_readings(self, entry: FeedEntry, needed: frozenset[str]) -> None:
        if "latest" not in needed:
            return
        catalog = self._caller.fleet.storage.catalog
        series = [] if entry.readings is None else entry.readings.series.tolist()
        self._changed.update((catalog.series(index).device, None) for index in dict.fromkeys(series))
        self._changed.update((catalog.series(text.series).device, None) for text in entry.texts)

    def present(self, device: str) -> None:
        """Notes that a device's presence has changed."""
        if self._timed and device in self._told:
            self._changed[device] = None

    async def compare(self) -> None:
        """Finds the devices whose connectivity has changed with the passing of time."""
        if not self._timed:
            return
        board = self._caller.fleet.presence
        for at, (device, connectivity) in enumerate(list(self._told.items())):
            if board.of(device).connectivity != connectivity:
                self._changed[device] = None
            if at % _COMPARED == _COMPARED - 1:
                await asyncio.sleep(0)

    async def take(self) -> Frame | None:
        while not self._made and self.waits:
            if self._listing:
                self._made.extend(await self._list())
            else:
                devices = [*self._changed][:_AT_ONCE]
                for device in devices:
                    del self._changed[device]
                self._made.extend(await self._look_at(devices))
        return self._made.popleft() if self._made else None

    async def _list(self) -> Sequence[Frame]:
        """A page of all selected devices; after the last one, devices held by the reader but no longer selected."""
        search = self._caller.fleet.search
        page = await search.page(self._selection.clause, after=self._after or None, limit=_AT_ONCE)
        frames = [*await self._look_at(page.ids)]
        if len(self._told) > self._limits.selected:
            raise Refused(
                f"More than {self._limits.selected} devices are selected",
                code="limit_exceeded",
                remedy="Narrow the query, or divide the fleet into several subscriptions",
                limit=self._limits.selected,
                unit="devices",
                scope="subscription",
            )
        self._after = page.after or ""
        if page.after is None:
            self._listing = False
            gone, self._unmet = self._unmet, set()
            frames += [self._gone(device) for device in sorted(gone)]
            frames.append(self.frame("ready", position=self._begun_at))
        return frames

    async def _look_at(self, devices: Iterable[str]) -> list[Frame]:
        devices = list(devices)
        pairs = await self._caller.fleet.search.documents.pairs_of(devices, self._needed)
        found = {record.key: document for record, document in pairs}
        frames: list[Frame] = []
        for device in devices:
            document = found.get(device)
            if document is not None and matches(self._selection.clause, document):
                self._told[device] = str(document.get("connectivity", ""))
                self._unmet.discard(device)
                frames.append(self.frame("state", device=device, state=self._members(document)))
            elif device in self._told or self._resumed:
                frames.append(self._gone(device))
        return frames

    def _gone(self, device: str) -> Frame:
        self._told.pop(device, None)
        self._unmet.discard(device)
        return self.frame("gone", device=device)

    def _members(self, document: Document) -> Document:
        return {name: document[name] for name in self._wanted if name in document}

    async def judge_again(self) -> None:
        self._selection.narrow()
        self._list_anew()

    def trimmed(self, position: int) -> None:
        super().trimmed(position)
        self._list_anew()

    def _list_anew(self) -> None:
        self._made.clear()
        self._listing, self._after, self._begun_at = True, "", self.position
        self._unmet = set(self._told)
