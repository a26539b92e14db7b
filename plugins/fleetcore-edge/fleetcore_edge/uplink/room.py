"""The room of a gateway: its data folder stays below a bound, however long the core is away.

Where it comes near, the feed goes first: what waits in it is sent from the packed readings later. If that is not
enough, the oldest readings go: those that the core has, then those that it has not, which are counted as lost. Alerts,
twins and commands are records, and stay. New readings are accepted in any case.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from fleetcore.errors import NotFound, Refused, Unavailable
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.model.store import Commit, Expired
from fleetcore_edge.uplink.lanes import Backlog

_log = logging.getLogger(__name__)

ROOM = "uplink/room"
_MIB = 1024**2
#: The part of the bound at which room is made: between two looks, ten thousand readings a second take 8 MiB.
_NEAR = 0.9
_LOOK_S = 10.0
#: The part of the stored readings that goes at a time.
_SHARE = 16
#: Readings are dropped to about this time, ms.
_STEP_MS = 1000
#: So many commits wait in the feed, 68 bytes each or more, an hour at 50 a second; then they are packed.
_FEED_COMMITS = 200_000
#: The newest commits stay in the feed, for consumers on the gateway.
_NEWEST = 1000
_PAGE = 512


class Room:
    """Keeps the bound.

    Args:
        disk_mib: the bound of all files of the data folder.
        held: drops some of the readings that wait for the time; False if there are none.

    Attributes:
        counts: readings ``dropped`` that the core has, and ``lost`` that it has not.
    """

    def __init__(
        self,
        storage: Storage,
        clock: Clock,
        backlog: Backlog,
        disk_mib: int,
        *,
        held: Callable[[], Awaitable[bool]] | None = None,
    ) -> None:
        self._held = held
        self._storage, self._clock, self._backlog = storage, clock, backlog
        self._bound = disk_mib * _MIB
        self.counts = {"dropped": 0, "lost": 0}
        self._told = False
        self._turn = asyncio.Lock()

    async def run(self) -> None:
        """Looks at the room until cancelled."""
        self.counts |= await self._storage.counters(ROOM)
        await self._backlog.opened.wait()
        while True:
            await self.look()
            await self._clock.sleep(_LOOK_S)

    async def look(self) -> None:
        """Makes room if it is needed."""
        async with self._turn:
            await self._look()

    async def admit(self, size_bytes: int) -> None:
        """Makes room for a download, for which no reading goes that the core does not have.

        Raises:
            Refused: ``limit_exceeded``, it would take more than half of the bound.
            Unavailable: ``storage_full``, there is no room for it now.
        """
        if 2 * size_bytes > self._bound:
            raise Refused(
                f"A download of {size_bytes} bytes takes more than half of the gateway's disk_mib",
                code="limit_exceeded",
                remedy="Raise disk_mib in [services.uplink]",
                limit=self._bound // 2,
                unit="bytes",
            )
        async with self._turn:
            if await self._near(size_bytes):
                await self._give_up_feed()  # what waits there has to be known
            while await self._near(size_bytes):
                if not await self._drop(lose=False):
                    raise Unavailable(
                        f"There is no room for a download of {size_bytes} bytes beside readings that the core does not "
                        "have",
                        code="storage_full",
                        remedy="Nothing, if the core is back soon; otherwise raise disk_mib in [services.uplink]",
                    )

    async def _look(self) -> None:
        if not await self._near():
            self._told = False
            if await self._waiting() > _FEED_COMMITS:
                await self._give_up_feed()
            return
        await self._give_up_feed()
        while await self._near():
            if not await self._drop() and not (self._held is not None and await self._held()):
                if not self._told:
                    _log.error("The gateway has no room: other files than its readings take %d bytes", self._bound)
                self._told = True
                return

    async def _near(self, more_bytes: int = 0) -> bool:
        size = await self._storage.size()
        return sum(size.parts.values()) - size.free_bytes + more_bytes > _NEAR * self._bound

    async def _first(self) -> int:
        return max(await self._backlog.first_waiting(), self._backlog.archive.until)

    async def _waiting(self) -> int:
        return await self._storage.position() - await self._first()

    async def _give_up_feed(self) -> None:
        """Moves what waits in the feed to the archive."""
        archive, until = self._backlog.archive, await self._storage.position() - _NEWEST
        after = await self._first()
        while after < until:
            try:
                page = [each for each in await self._storage.feed(after, _PAGE) if each.position <= until]
            except NotFound as error:  # the store's own bound was narrower; the lanes count it
                after = int(str(error.ids["oldest"])) - 1
                continue
            if not page:
                break
            async with self._backlog.at_work():
                archive.take(page)
            after = page[-1].position
        archive.until = max(archive.until, until)
        await self._storage.commit(archive.saved())
        await self._storage.give_up_feed(until)

    async def _drop(self, *, lose: bool = True) -> bool:
        """Drops some of the oldest readings, without ``lose`` such that the core has; False if there are none."""
        storage, archive = self._storage, self._backlog.archive
        series = [each.index for each in await storage.series_of()]
        now = self._clock.now_ms()
        everything = (await storage.expire(series, now, count=True)).readings
        low, high = 0, now
        while high - low > _STEP_MS:
            middle = (low + high) // 2
            if (await storage.expire(series, middle, count=True)).readings * _SHARE >= everything:
                high = middle
            else:
                low = middle
        waits = archive.oldest()
        sent = Expired() if waits is None else await self._expired(series, min(waits, high))
        if sent.readings * _SHARE < everything and (lose or waits is None):
            gone = await self._expired(series, high)
            kind = "dropped" if waits is None else "lost"
        else:
            gone, kind = Expired(), "lost"
        async with self._backlog.at_work():
            archive.forget(high if gone.readings else 0)
        found = {"dropped": sent.readings + sent.texts, "lost": 0}
        found[kind] += gone.readings + gone.texts
        for name, count in found.items():
            self.counts[name] += count
        add = {(ROOM, name): count for name, count in found.items() if count}
        await storage.commit(archive.saved() + Commit(add=add))
        if found["lost"]:
            _log.error("%d readings that the core does not have were dropped for want of room", found["lost"])
        return any(found.values())

    async def _expired(self, series: list[int], before: int) -> Expired:
        gone = Expired(more=True)
        while gone.more:
            gone += await self._storage.expire(series, before)
        return gone
