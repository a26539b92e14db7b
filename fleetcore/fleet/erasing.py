"""Erasing: a device's readings, state and record are deleted for good. The audit log keeps who did what.

Its certificates' records stay too: a revoked key must never be accepted again.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from fleetcore.errors import VersionConflict
from fleetcore.fleet.commands import Commands
from fleetcore.fleet.cutover_offers import CutoverOffers
from fleetcore.fleet.desired_functions import DesiredFunctions
from fleetcore.fleet.groups import Groups
from fleetcore.fleet.health_gates import HealthGates
from fleetcore.fleet.lifecycles import Lifecycles
from fleetcore.fleet.passed_offers import KIND as PASSED_OFFER
from fleetcore.fleet.process_state.presence import PresenceBoard
from fleetcore.fleet.registry import Registry
from fleetcore.fleet.repository import ATTEMPTS, Repository
from fleetcore.fleet.twins import Twins
from fleetcore.fleet.updates import DEVICE_RETIRED, Updates
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.model.device import Lifecycle
from fleetcore.model.events import DEVICE_ERASED
from fleetcore.model.store import Commit, Delete, Event, Record

#: Kinds of records whose key is the device's id, besides its twin.
_BY_KEY = ("position", "presence", PASSED_OFFER, "device")
_PAST = "twin_past"
_CHUNK = 1000


class Erasing:
    """Erases devices. Repeating it after a crash continues where it stopped: the device's record is deleted last.

    Args:
        forget_refused: removes the stored refused messages of a device.
    """

    def __init__(
        self,
        storage: Storage,
        clock: Clock,
        registry: Registry,
        lifecycles: Lifecycles,
        commands: Commands,
        updates: Updates,
        gates: HealthGates,
        presence: PresenceBoard,
        groups: Groups,
        twins: Twins,
        cutovers: CutoverOffers,
        forget_refused: Callable[[str], Awaitable[None]],
        functions: DesiredFunctions,
    ) -> None:
        self._storage, self._clock, self._registry, self._lifecycles = storage, clock, registry, lifecycles
        self._commands, self._updates, self._gates = commands, updates, gates
        self._presence, self._groups, self._twins = presence, groups, twins
        self._cutovers, self._forget_refused, self._functions = cutovers, forget_refused, functions

    async def erase(self, device: str, *, actor: str = "system", reason: str = "") -> None:
        """Retires the device, revokes its credentials, and erases it. Raises NotFound."""
        await self._lifecycles.move(device, Lifecycle.RETIRED, actor=actor, reason=reason or "erased")
        # Also for a device retired before its campaigns ended with it: they must not wait for it.
        await self._updates.leave(device, DEVICE_RETIRED, actor=actor)
        await self._forget_refused(device)
        await self._storage.forget(device)
        await self._gates.forget(device)
        for records in (
            self._commands.records, self._updates.records, self._gates.records, self._cutovers.records,
            self._functions.records,
        ):  # fmt: skip
            await self._remove(records, device)
        self._commands.forget(device)
        await self._delete("anomaly", [record.key async for record in self._of("anomaly", device)])
        await self._delete(_PAST, [key async for key in self._past(device)])
        self._presence.forget(device)
        event = Event(
            type=DEVICE_ERASED, subject=device, time=self._clock.now_ms(), actor=actor, reason=reason
        )  # fmt: skip
        rest = Commit(deletes=tuple(Delete(kind=kind, key=device) for kind in _BY_KEY), events=(event,))
        for attempt in range(ATTEMPTS):
            try:
                await self._registry.remove(await self._twins.removing(device) + rest, device)
            except VersionConflict:
                # A layer changed the twin meanwhile.
                if attempt == ATTEMPTS - 1:
                    raise
            else:
                break
        self._commands.forget(device)
        await self._groups.evaluate(device)

    async def _of(self, kind: str, device: str) -> AsyncIterator[Record]:
        after: str | None = None
        while True:
            page = await self._storage.find(kind, ref=("device", device), after=after)
            for record in page.items:
                yield record
            after = page.after
            if after is None:
                return

    async def _remove(self, records: Repository[Any], device: str) -> None:
        """Removes counted records: with each record goes its contribution to a counter."""
        while True:
            page = await records.page(ref=("device", device), limit=_CHUNK)
            removal = Commit()
            for item in page.items:
                removal += records.removing(item)
            if not page.items:
                return
            await self._storage.commit(removal)
            records.forget(item.id for item in page.items)

    async def _past(self, device: str) -> AsyncIterator[str]:
        prefix = f"{device}/"
        after: str | None = prefix
        while after is not None:
            page = await self._storage.find(_PAST, after=after)
            for record in page.items:
                if not record.key.startswith(prefix):
                    return
                yield record.key
            after = page.after

    async def _delete(self, kind: str, keys: list[str]) -> None:
        for at in range(0, len(keys), _CHUNK):
            deletes = tuple(Delete(kind=kind, key=key) for key in keys[at : at + _CHUNK])
            await self._storage.commit(Commit(deletes=deletes))
