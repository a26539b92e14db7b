"""Cursors of components that are no longer configured: they hold the log back in case one returns.

A component may return, for example after a day without its section in fleet.toml, and continue where it was. So its
cursor is kept for a week and listed meanwhile. Then it is dropped with the component's state. An operator can drop it
earlier.
"""

import logging
from collections.abc import Mapping

from fleetcore.errors import Conflict, NotFound
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.model import values
from fleetcore.model.days import DAY_MS
from fleetcore.model.events import LEFT_BEHIND_DROPPED
from fleetcore.model.store import Commit, Event
from fleetcore.pipeline.component_state import CONSUMERS, blobs_of

_log = logging.getLogger(__name__)

#: How long a cursor without a component stays.
KEEP_MS = 7 * DAY_MS
#: Blobs with the time since when a cursor has had no component.
_SINCE = "left-behind/"


class LeftBehind:
    """Searches for them from time to time.

    Attributes:
        found: by the cursor's name the time when it will be dropped, ms since the epoch.
    """

    def __init__(self, storage: Storage, clock: Clock) -> None:
        self._storage, self._clock = storage, clock
        self._configured = frozenset[str]()
        self.found: Mapping[str, int] = {}

    async def look(self, configured: frozenset[str]) -> None:
        """Notes new ones, forgets those whose component returned, and drops those that are due."""
        self._configured = configured
        cursors = await self._storage.values(values.CURSORS)
        kept = await self._storage.values(values.BLOBS, [_SINCE + name for name in cursors])
        marks = {name.removeprefix(_SINCE): int(since) for name, since in kept.items()}
        now, blobs, gone, found = self._clock.now_ms(), dict[str, bytes | None](), list[str](), {}
        for name in cursors:
            if not self._is_left(name, configured):
                continue
            if name not in marks:
                blobs[_SINCE + name] = str(now).encode()
            since = marks.get(name, now)
            if now - since < KEEP_MS:
                found[name] = since + KEEP_MS
            else:
                gone.append(name)
        for name in marks.keys() - found.keys() - set(gone):
            blobs[_SINCE + name] = None
        if blobs:
            await self._storage.commit(Commit(blobs=blobs))
        self.found = found
        for name in gone:
            await self._drop(name, "system", f"not configured for {KEEP_MS // DAY_MS} days")

    async def behind(self) -> dict[str, int]:
        """How many commits each of them holds back, by the cursor's name."""
        position = await self._storage.position()
        kept = await self._storage.values(values.CURSORS, self.found)
        return {name: max(0, position - values.to_number(cursor)) for name, cursor in kept.items()}

    async def drop(self, name: str, *, actor: str, reason: str = "") -> None:
        """Drops one of them now, with its state.

        Raises:
            Conflict: its component is configured.
            NotFound: no such cursor is left.
        """
        if name in self._configured:
            raise Conflict(
                f"{name} is configured, and continues from its cursor",
                remedy="Remove its section from fleet.toml first, and restart the server",
                name=name,
            )
        if name not in self.found:
            raise NotFound(
                f"There is no cursor {name!r} of a component that is no longer configured",
                remedy="`fleetcore storage left-behind` lists them",
                name=name,
            )
        await self._drop(name, actor, reason)

    async def _drop(self, name: str, actor: str, reason: str) -> None:
        cursor = await self._storage.cursor(name)
        behind = 0 if cursor is None else max(0, await self._storage.position() - cursor)
        event = Event(
            type=LEFT_BEHIND_DROPPED,
            subject=name,
            time=self._clock.now_ms(),
            actor=actor,
            reason=reason,
            data={"behind": behind},
        )
        blobs = dict.fromkeys((_SINCE + name, *blobs_of(name)))
        await self._storage.commit(Commit(cursors={name: None}, blobs=blobs, events=(event,)))
        self.found = {other: goes for other, goes in self.found.items() if other != name}
        _log.warning("%s is no longer configured: its place in the log and its state are dropped", name)

    def _is_left(self, name: str, configured: frozenset[str]) -> bool:
        return name.partition("/")[0] in CONSUMERS and name not in configured
