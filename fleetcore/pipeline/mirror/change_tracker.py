"""Decides which entities a mirror compares: first all, then those that the feed says have changed.

A snapshot enqueues every entity, page by page with saved progress; the feed is followed from before its start. If it
was trimmed before it was read, the snapshot starts again. Changes that the feed does not report are polled: changes at
the hub, and devices that a query selects by the time of day.
"""

import logging
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from typing import cast

from attrs import frozen

from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.model.events import CORE, DEVICE_ERASED, GROUP_CHANGED, Subject
from fleetcore.model.mirror import AMONG_RECORDED, FACETS, OF_DEVICES, EntityKey, Facet
from fleetcore.model.store import Commit, Delete, Event, FeedEntry, Put
from fleetcore.pipeline.consumer import Consumer
from fleetcore.pipeline.mirror.sender import StateSender
from fleetcore.pipeline.mirror.walk import Walk

_log = logging.getLogger(__name__)

_KIND = "mirror_snapshot"
#: The blob with the hub's id.
HUB_KIND = "mirror_hub"
_PAGE = 500
_DEVICES: frozenset[Facet] = frozenset({"registry"})
_CERTIFICATES: frozenset[Facet] = frozenset({"certificate"})
_POSITION = frozenset({"location"})


#: The next entities after a place, and where to continue; None at the end.
HomedPage = Callable[[str | None], Awaitable[tuple[Sequence[EntityKey], str | None]]]


@frozen(kw_only=True)
class Watch:
    """What is compared besides what the feed names.

    Attributes:
        located: whether a device's new position is sent.
        parts: parts of a device's document that decide whether it is mirrored at all.
        polled: facets compared every ``every_s``, because the feed does not report their changes; later while more than
            a page of entities is pending, so that polling never outruns the hub.
        homed: the twins of the devices that are connected to the hub, page by page: they report there, so they are
            polled as often.
    """

    located: bool = False
    parts: frozenset[str] = frozenset()
    polled: frozenset[Facet] = frozenset()
    homed: HomedPage | None = None
    every_s: float = 300.0


class ChangeTracker(Consumer):
    """Enqueues changed entities, and makes snapshots.

    Args:
        walk: through all entities that the mirror sends.

    Attributes:
        snapshot: how many entities the current snapshot has enqueued so far; None without one.
    """

    def __init__(
        self, sender: StateSender, walk: Walk, storage: Storage, clock: Clock, *, watch: Watch | None = None
    ) -> None:
        super().__init__(f"mirror/{sender.name}", storage, clock)
        self._sender, self._walk, self._watch = sender, walk, watch or Watch()
        self.snapshot: int | None = None
        self._hub_fails = False
        self._looked_s = clock.monotonic_s()

    def show_hub(self, error: str, remedy: str) -> None:
        """Sets the hub's state; an empty error means that it is healthy. It may be called before this consumer runs."""
        self._hub_fails = bool(error)
        self.show("failing" if error else "running", error, remedy)

    def _begins_as(self) -> str:
        return "failing" if self._hub_fails else "running"

    async def start(self) -> None:
        begun = await self._storage.get(_KIND, self._sender.name)
        if await self._storage.cursor(self.name) is None:
            # A new mirror knows nothing of its hub, whatever an earlier one of its name recorded.
            position, forget = await self._storage.position(), Delete(kind=HUB_KIND, key=self._sender.name)
            await self._storage.commit(
                Commit(cursors={self.name: position}, puts=(self._progress(FACETS),), deletes=(forget,))
            )
        elif begun is None:
            await self._storage.commit(Commit(puts=(self._progress(FACETS),)))

    def _progress(
        self,
        facets: Collection[str],
        after: str | None = None,
        marked: int = 0,
        *,
        ended: bool = False,
        anew: bool = False,
    ) -> Put:
        body = {"facets": sorted(facets), "after": after, "marked": marked, "ended": ended, "anew": anew}
        return Put(kind=_KIND, key=self._sender.name, body=body)

    async def look_again(self, *events: Event, facets: Collection[Facet] = FACETS, anew: bool = False) -> None:
        """Compares every entity again, in a snapshot that begins now; a running one starts again, including its facets.

        Args:
            facets: the facets to compare.
            anew: whether entities are also sent if they match what was sent last.
        """
        record = await self._storage.get(_KIND, self._sender.name)
        if record is not None and not record.body["ended"]:
            facets = {*facets, *cast("Sequence[Facet]", record.body["facets"])}
            anew = anew or bool(record.body.get("anew"))
        await self._storage.commit(Commit(puts=(self._progress(facets, anew=anew),), events=events))
        self.snapshot = 0

    async def _open(self) -> None:
        record = await self._storage.get(_KIND, self._sender.name)
        self.snapshot = None if record is None or record.body["ended"] else cast("int", record.body["marked"])

    async def _rest(self, after: int, seconds: float) -> bool:
        """Enqueues a page of the snapshot between two reads of the feed, while there is one."""
        if await self._storage.wait_feed(after, 0.0):
            return True
        if await self.step():
            return True
        if self._watch.polled or self._watch.homed is not None:
            left_s = self._looked_s + self._watch.every_s - self._clock.monotonic_s()
            if left_s <= 0:
                self._looked_s = self._clock.monotonic_s()
                # A pass through a large fleet may last longer than the interval; then it takes the place of the next.
                if await self._sender.pending.waiting() < _PAGE:
                    await self._poll()
                return True
            seconds = min(seconds, left_s)
        return await self._storage.wait_feed(after, seconds)

    async def _poll(self) -> None:
        """Enqueues what is compared because the feed does not report its changes."""
        if self._watch.polled:
            await self.look_again(facets=self._watch.polled)
        if self._watch.homed is not None:
            await self._look_at_homed(self._watch.homed)

    async def _look_at_homed(self, homed: HomedPage) -> None:
        after: str | None = None
        while True:
            keys, after = await homed(after)
            await self._sender.enqueue(keys, Commit())
            if after is None:
                return

    async def step(self) -> bool:
        """Enqueues the next page of a snapshot; False if no snapshot is under way."""
        record = await self._storage.get(_KIND, self._sender.name)
        if record is None or record.body["ended"]:
            self.snapshot = None
            return False
        facets, marked = cast("Sequence[str]", record.body["facets"]), cast("int", record.body["marked"])
        keys, after = await self._page(cast("str | None", record.body["after"]), facets)
        marked += len(keys)
        anew = bool(record.body.get("anew"))
        progress = self._progress(facets, after, marked, ended=after is None, anew=anew)
        if anew:
            await self._sender.doubt(keys)
        await self._sender.enqueue(keys, Commit(puts=(progress,)))
        self.snapshot = None if after is None else marked
        if after is None:
            self._looked_s = self._clock.monotonic_s()
        return True

    async def _page(self, after: str | None, facets: Collection[str]) -> tuple[Sequence[EntityKey], str | None]:
        """The next entities; at the end those deleted unseen, which only their recorded state still names."""
        if after is not None and after.startswith(AMONG_RECORDED):
            keys, following = await self._sender.gone(after.removeprefix(AMONG_RECORDED) or None, _PAGE)
            return keys, None if following is None else f"{AMONG_RECORDED}{following}"
        keys, following = await self._walk.next(after, _PAGE, facets)
        return keys, following or (AMONG_RECORDED if self._sender.removes() and set(facets) >= set(FACETS) else None)

    async def _handle(self, entries: Sequence[FeedEntry]) -> bool:
        events = [event for entry in entries for event in entry.events]
        touched = dict.fromkeys(
            key for event in events for key in self._touched(event) if key.facet in self._walk.facets
        )
        for device in {device for event in events if (device := self._may_go(event)) is not None}:
            # Its other entities at the hub go with it, and no event reports that.
            touched.update(dict.fromkeys(await self._sender.states.of_device(device)))
        if "registry" in self._walk.facets and any(_moves_devices(event) for event in events):
            await self.look_again(facets=_DEVICES)
        if "certificate" in self._walk.facets and any(_moves_trust(event) for event in events):
            await self.look_again(facets=_CERTIFICATES)
        if not touched:
            return False
        position = entries[-1].position
        await self._sender.enqueue(touched, Commit(cursors={self.name: position}))
        self._kept, self._kept_at = position, self._clock.monotonic_s()
        return False

    def _touched(self, event: Event) -> Iterator[EntityKey]:
        kind = CORE.get(event.type)
        if kind is None:
            return
        device = self._may_go(event)
        if device is not None:
            yield from (EntityKey(facet, device) for facet in FACETS if facet in OF_DEVICES)
        if kind.changes == _POSITION and not self._watch.located:
            return
        key = kind.mirrored(event)
        if key is not None and not (key.facet == "twin" and event.actor == self._sender.actor):
            yield key  # twins that the mirror itself changed from the hub are up to date

    def _may_go(self, event: Event) -> str | None:
        """The device that was erased, or that the query may select now, or not any more."""
        kind = CORE.get(event.type)
        if kind is None or not (event.type == DEVICE_ERASED or kind.changes & self._watch.parts):
            return None
        return kind.device_of(event)

    async def _missed(self) -> None:
        _log.warning(
            "Mirror %s: the feed no longer has what it missed, so it compares everything again", self._sender.name
        )
        await self.look_again()


def _moves_trust(event: Event) -> bool:
    """Whether certificates may have become valid or invalid without their own event: trust in a CA changed."""
    kind = CORE.get(event.type)
    return kind is not None and kind.subject is Subject.CA


def _moves_devices(event: Event) -> bool:
    """Whether a group may have moved into other groups, and its devices with it."""
    return event.type == GROUP_CHANGED and "within" in event.data
