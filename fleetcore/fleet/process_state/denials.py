"""Denials: refused actions as events for the audit log, counted so that a flood of them is one row.

The first of a kind is written within a second; repetitions within that time raise its count.
"""

import asyncio
import logging
from collections.abc import Mapping

from attrs import evolve, frozen

from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.model.events import ACCESS_DENIED
from fleetcore.model.store import Commit, Event

_log = logging.getLogger(__name__)

#: How many different denials are kept between two flushes; the rest is counted as one.
_MAX = 1000
_REST = ("", "", "")


@frozen(kw_only=True)
class _Denial:
    time: int
    count: int
    data: Mapping[str, object]


class Denials:
    """Collects denials from all places that refuse actions for lack of rights."""

    def __init__(self, storage: Storage, clock: Clock) -> None:
        self._storage, self._clock = storage, clock
        self._noted: dict[tuple[str, str, str], _Denial] = {}
        # A concurrent flush waits for the one in progress.
        self._flushing = asyncio.Lock()

    def note(self, actor: str, object: str, code: str, **data: object) -> None:
        """Records that ``actor`` was denied an action on ``object``; without I/O."""
        key = (actor, object, code)
        if key not in self._noted and len(self._noted) >= _MAX:
            key = _REST
        old = self._noted.get(key)
        if old is None:
            _log.warning("%s was refused: %s about %s (%s)", actor, code, object, data)
            self._noted[key] = _Denial(time=self._clock.now_ms(), count=1, data=data if key is not _REST else {})
        else:
            self._noted[key] = evolve(old, count=old.count + 1)

    async def flush(self) -> None:
        """Writes the denials noted so far; when it returns they are committed, even if another call had begun it."""
        async with self._flushing:
            await self._flush()

    async def _flush(self) -> None:
        if not self._noted:
            return
        noted, self._noted = self._noted, {}
        events = tuple(
            Event(
                type=ACCESS_DENIED,
                subject=subject or "various",
                time=item.time,
                actor=actor or "various",
                reason=code or "further denials",
                data={"count": item.count, **item.data},
            )
            for (actor, subject, code), item in noted.items()
        )
        try:
            await self._storage.commit(Commit(events=events))
        except BaseException:
            self._noted = {**noted, **self._noted}
            raise
