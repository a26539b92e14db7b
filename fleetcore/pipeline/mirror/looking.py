"""What a mirror has to look at: first everything, then what the feed says has changed.

A snapshot marks every entity, page by page with its progress; the feed is followed from before it began. Where the feed
was trimmed before it was seen, the snapshot is made again.
"""

import logging
from collections.abc import Sequence
from typing import cast

from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.model.events import CORE
from fleetcore.model.mirror import EntityKey
from fleetcore.model.store import Commit, Delete, Event, FeedEntry, Put
from fleetcore.pipeline.consumer import Consumer
from fleetcore.pipeline.mirror.lane import StateLane
from fleetcore.pipeline.mirror.walk import Walk

_log = logging.getLogger(__name__)

_KIND = "mirror_snapshot"
_PAGE = 500
_POSITION = frozenset({"location"})


class Looking(Consumer):
    """Marks what changes, and makes snapshots.

    Args:
        walk: through all that the mirror sends.
        located: whether a new position of a device is something to send.

    Attributes:
        snapshot: how many entities a snapshot that is under way has marked so far; None without one.
    """

    def __init__(
        self,
        lane: StateLane,
        walk: Walk,
        storage: Storage,
        clock: Clock,
        *,
        located: bool = False,
    ) -> None:
        super().__init__(f"mirror/{lane.name}", storage, clock)
        self._lane, self._walk, self._located = lane, walk, located
        self.snapshot: int | None = None

    async def start(self) -> None:
        if await self._storage.cursor(self.name) is None:
            position = await self._storage.position()
            await self._storage.commit(Commit(cursors={self.name: position}, puts=(self._progress(None, 0),)))

    def _progress(self, after: str | None, marked: int) -> Put:
        return Put(kind=_KIND, key=self._lane.name, body={"after": after, "marked": marked})

    async def look_again(self, *events: Event) -> None:
        """Has every entity looked at again, in a snapshot that begins now; one under way begins anew."""
        await self._storage.commit(Commit(puts=(self._progress(None, 0),), events=events))
        self.snapshot = 0

    async def _open(self) -> None:
        record = await self._storage.get(_KIND, self._lane.name)
        self.snapshot = None if record is None else cast("int", record.body["marked"])

    async def _rest(self, after: int, seconds: float) -> bool:
        """Between two looks at the feed a page of the snapshot is marked, while there is one."""
        if await self._storage.wait_feed(after, 0.0):
            return True
        if not await self.step():
            return await self._storage.wait_feed(after, seconds)
        return True

    async def step(self) -> bool:
        """Marks the next page of a snapshot; False where there is none."""
        record = await self._storage.get(_KIND, self._lane.name)
        if record is None:
            self.snapshot = None
            return False
        marked = cast("int", record.body["marked"])
        keys, after = await self._walk.next(cast("str | None", record.body["after"]), _PAGE)
        if after is None:
            await self._lane.mark(keys, Commit(deletes=(Delete(kind=_KIND, key=self._lane.name),)))
            self.snapshot = None
        else:
            self.snapshot = marked + len(keys)
            await self._lane.mark(keys, Commit(puts=(self._progress(after, self.snapshot),)))
        return True

    async def _handle(self, entries: Sequence[FeedEntry]) -> bool:
        touched: dict[EntityKey, None] = {}
        for entry in entries:
            for event in entry.events:
                kind = CORE.get(event.type)
                if kind is None or (kind.changes == _POSITION and not self._located):
                    continue
                key = kind.mirrored(event)
                if key is not None and key.facet in self._walk.facets:
                    touched[key] = None
        if not touched:
            return False
        position = entries[-1].position
        await self._lane.mark(touched, Commit(cursors={self.name: position}))
        self._kept, self._kept_at = position, self._clock.monotonic_s()
        return False

    async def _missed(self) -> None:
        _log.warning(
            "Mirror %s: the feed does not keep what it missed, so it looks at everything again", self._lane.name
        )
        await self.look_again()
