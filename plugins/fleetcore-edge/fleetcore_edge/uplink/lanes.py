"""The lanes of readings: new ones are sent as they come, and what an outage left behind goes its own way.

The live lane follows the feed. Where it is far behind, it leaves what is behind to the backlog lane and continues with
the newest: so an operator sees the present at once, and the past fills in. Both save their places in the store, in one
commit where the one hands over to the other, so that a crash neither skips nor repeats more than some seconds.
"""

import asyncio
import logging
from collections.abc import Sequence

import msgspec
from attrs import frozen

from fleetcore.errors import NotFound
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.interfaces.waits import first_of
from fleetcore.model.store import Commit, FeedEntry
from fleetcore.pipeline.consumer import KEEP_EVERY_S, Consumer, CursorTask
from fleetcore_edge.uplink.archive import Archive
from fleetcore_edge.uplink.courier import Courier
from fleetcore_edge.uplink.link import Link

_log = logging.getLogger(__name__)

LIVE, BACKLOG = "uplink/live", "uplink/backlog"
#: Commits that the backlog lane reads at a time, and readings that it sends at a time: full messages of fifty leaves.
_PAGE, _READINGS = 512, 50_000
#: How long the backlog lane waits, without a backlog, before it lets the store trim what the live lane has sent.
_FOLLOW_S = 5.0


@frozen
class Stretch:
    """A part of the feed: the commits after one position, up to another."""

    after: int
    until: int


class Backlog(CursorTask):
    """Sends what the live lane left behind, the oldest first.

    Attributes:
        stretches: what is left, in order.
        lost: commits that the store had trimmed before they were sent.
    """

    def __init__(self, link: Link, courier: Courier, storage: Storage, clock: Clock) -> None:
        super().__init__(BACKLOG, storage, clock)
        self._link, self._courier = link, courier
        self.stretches: list[Stretch] = []
        self.archive = Archive(storage)
        self._ahead: tuple[int, Sequence[FeedEntry]] = (-1, ())
        #: Set once it knows what is left.
        self.opened = asyncio.Event()
        self._more = asyncio.Event()

    def at_work(self) -> asyncio.Lock:
        """Held while it changes what is left."""
        return self._at_work

    def left(self) -> int:
        """How many commits are still to be sent, and readings of those that the feed has given up."""
        past = max(self.status.position, self.archive.until)
        return sum(max(0, each.until - max(each.after, past)) for each in self.stretches) + self.archive.waiting()

    async def first_waiting(self) -> int:
        """The position after which the feed may hold what the core does not have."""
        live = await self._storage.cursor(LIVE) or 0
        return min([live, *(max(each.after, self.status.position) for each in self.stretches[:1])])

    async def leave(self, after: int, until: int) -> Commit:
        """The commit by which a stretch is left to this lane; :meth:`left_to` must follow it."""
        first = self.stretches[0].after if self.stretches else after
        cursor = min(max(first, self.status.position) if self.stretches else after, after)
        return Commit(blobs={BACKLOG: _packed([*self.stretches, Stretch(after, until)])}, cursors={BACKLOG: cursor})

    def left_to(self, after: int, until: int) -> None:
        """Takes over a stretch whose commit was made."""
        if not self.stretches:
            self.status.position = self._kept = after
        self.stretches.append(Stretch(after, until))
        self._more.set()

    async def _open(self) -> None:
        blob = await self._storage.blob(BACKLOG)
        self.stretches = [] if blob is None else [Stretch(*each) for each in msgspec.json.decode(blob)]
        await self.archive.load()
        self.opened.set()

    async def _step(self) -> None:
        await self._link.connected()
        if self.archive.spans:
            entry, sent = await self.archive.page()
            await self._courier.deliver([entry])
            async with self._at_work:
                self.archive.sent(sent)
                await self._storage.commit(self.archive.saved())
            return
        if not self.stretches:
            await self._idle()
            return
        stretch = self.stretches[0]
        after = max(self.status.position, stretch.after, min(self.archive.until, stretch.until))
        try:
            entries = [] if after >= stretch.until else await self._next(after, stretch.until)
        except NotFound as error:
            oldest = int(str(error.ids["oldest"]))
            lost = min(oldest - 1, stretch.until) - after
            self.status.lost += lost
            _log.error("%d commits were trimmed before they were sent to the core", lost)
            self.status.position = min(oldest - 1, stretch.until)
            return
        if entries:
            async with asyncio.TaskGroup() as tasks:
                last = entries[-1].position
                ahead = tasks.create_task(self._read_ahead(last, stretch.until))
                await self._courier.deliver(entries)
            self._ahead = last, ahead.result()
        async with self._at_work:
            self.status.position = entries[-1].position if entries else stretch.until
            if self.status.position >= stretch.until or not entries:
                self.stretches.pop(0)
                await self._save()
        self._moved.set()
        if self._clock.monotonic_s() - self._kept_at >= KEEP_EVERY_S:
            async with self._at_work:
                await self._save()

    async def _next(self, after: int, until: int) -> Sequence[FeedEntry]:
        (of, entries), self._ahead = self._ahead, (-1, ())
        return entries if of == after and entries else await self._pages(after, until)

    async def _read_ahead(self, after: int, until: int) -> Sequence[FeedEntry]:
        """The entries after those that are being sent; none where the feed has been trimmed."""
        try:
            return await self._pages(after, until)
        except NotFound:
            return ()

    async def _pages(self, after: int, until: int) -> Sequence[FeedEntry]:
        """Entries up to a position, with enough readings for full messages."""
        found: list[FeedEntry] = []
        readings = 0
        while after < until and readings < _READINGS:
            try:
                page = [entry for entry in await self._storage.feed(after, _PAGE) if entry.position <= until]
            except NotFound:  # trimmed meanwhile: what was read is sent first
                if not found:
                    raise
                break
            if not page:
                break
            found += page
            after = page[-1].position
            readings += sum(len(entry.readings) for entry in page if entry.readings is not None)
        return found

    async def _idle(self) -> None:
        """Follows the live lane, so that the store may trim what is sent."""
        self._more.clear()
        sent = await self._storage.cursor(LIVE) or 0
        if sent > self._kept:
            async with self._at_work:
                if self.stretches:
                    return
                self.status.position = sent
                await self._save()
        await first_of(self._more.wait(), self._clock.sleep(_FOLLOW_S))

    async def _save(self) -> None:
        position = self.status.position
        await self._storage.commit(Commit(blobs={BACKLOG: _packed(self.stretches)}, cursors={BACKLOG: position}))
        self._kept, self._kept_at = position, self._clock.monotonic_s()

    async def keep(self) -> None:
        """Saves the position."""
        async with self._at_work:
            if self.status.state == "running" and self._to_keep() and self.stretches:
                await self._save()


class Live(Consumer):
    """Sends new readings.

    Args:
        far: how many commits it may be behind before it leaves them to the backlog lane.
        batch_s: how long readings are collected.
    """

    def __init__(
        self,
        link: Link,
        courier: Courier,
        backlog: Backlog,
        storage: Storage,
        clock: Clock,
        *,
        far: int,
        batch_s: float,
    ) -> None:
        super().__init__(LIVE, storage, clock)
        self._link, self._courier, self._backlog = link, courier, backlog
        self._far, self._batch_s = far, batch_s

    async def _step(self) -> None:
        await self._link.connected()
        await self._give_way()
        await super()._step()
        await self._clock.sleep(self._batch_s)

    async def _give_way(self) -> None:
        after, newest = self.status.position, await self._storage.position()
        if newest - after <= self._far and after >= self._backlog.archive.until:
            return
        async with self._at_work, self._backlog.at_work():
            left = await self._backlog.leave(after, newest)
            await self._storage.commit(left + Commit(cursors={LIVE: newest}))
            self._backlog.left_to(after, newest)
            self.status.position = self._kept = newest
            self._kept_at = self._clock.monotonic_s()
        _log.info("%d commits wait for the core beside the new ones", newest - after)

    async def _handle(self, entries: Sequence[FeedEntry]) -> bool:
        await self._courier.deliver(entries)
        return False


def _packed(stretches: Sequence[Stretch]) -> bytes:
    return msgspec.json.encode([[each.after, each.until] for each in stretches])
