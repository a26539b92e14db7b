"""The cut-over of a device: its offer, what the device says of it on either side, and its end.

An offer is ``desired.fleetcore.cutover``, which reaches the device on the side where it is: the epoch, where to go, and
how often to try. Nothing of it is secret. Keys cannot be exported, so a device that comes here enrols anew: it reports
the digest of its new public key on the side where it is known, and that key may enrol. A device that goes to a hub uses
the certificate that its mirror has registered there. The device keeps what it has until it reads ``confirmed``, and
falls back by itself where that does not come. Until then it is of its old side: ``Device.home`` says which, and only
that side gives it commands.

Each step can be done again: what was begun by a server that was killed is ended by the next one.
"""

import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import cast

from attrs import evolve

from fleetcore.errors import PluginError, Refused, Unavailable
from fleetcore.fleet.layers import OURS
from fleetcore.fleet.registry import Registry
from fleetcore.fleet.repository import Repository
from fleetcore.fleet.security.manager import SecurityManager
from fleetcore.fleet.twins import Twins
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.model.cutover import Cutover, CutoverState
from fleetcore.model.device import Device, Lifecycle
from fleetcore.model.mirror import Facet
from fleetcore.model.operation import Operation
from fleetcore.model.store import Commit, Event
from fleetcore.model.twin import Json

#: How a call names this fleet.
HERE = "fleet"
ACTOR = "cut-over"
_KEY, _ARRIVED = "cutover", "arrived"
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
#: An offer is looked at again after this part of its age, and within these bounds: a look costs a call of the hub's.
_PART, _SOONEST_MS, _LATEST_MS = 8, 100, 15_000
#: Of a reason that a device gives, so many characters are kept.
_LONGEST = 256
#: Members of an offer; those that the next one has not are cleared.
_MEMBERS = ("to", "tries", "confirmed")

#: What devices report at the hub of a mirror, by device; those that are not there are left out. Raises Unavailable.
ReportedAt = Callable[[str, Sequence[str]], Awaitable[Mapping[str, Json]]]
#: Those of some devices of which the hub of a mirror has an entity of a facet.
HeldAt = Callable[[str, Facet, Collection[str]], Awaitable[Collection[str]]]


class CutoverOffers:
    """See the module.

    Args:
        seen_at: when a device was here last, ms since the epoch; None where it never was.
    """

    def __init__(
        self,
        storage: Storage,
        clock: Clock,
        registry: Registry,
        twins: Twins,
        security: SecurityManager,
        *,
        seen_at: Callable[[str], int | None],
        reported_at: ReportedAt,
        held_at: HeldAt,
    ) -> None:
        self._storage, self._clock, self._registry, self._twins = storage, clock, registry, twins
        self._security, self._seen_at = security, seen_at
        self._reported_at, self._held_at = reported_at, held_at
        self._looked: dict[str, int] = {}
        self.records = Repository(
            storage,
            "cutover",
            Cutover,
            refs=lambda one: [
                ("device", one.id),
                ("operation", one.operation),
                *([("open", one.operation)] if one.is_open else ()),
            ],
            counted=lambda one: (_space(one.operation), one.state.value),
        )

    async def counts(self, operation: str) -> Mapping[str, int]:
        """How many devices of an operation are in each state; those that were erased since are in none."""
        return await self._storage.counters(_space(operation))

    async def open(self, operation: str) -> Sequence[Cutover]:
        """The cut-overs of an operation that have not ended."""
        return await self.records.find(ref=("open", operation))

    async def hindrances(self, devices: Sequence[str], target: str | None) -> Mapping[str, Refused]:
        """Why some of the devices cannot be cut over, by device."""
        there = await self._registry.records.get_many(devices)
        at_hub = set(devices) if target is None else set(await self._held_at(target, "certificate", list(there)))
        open_ = {each.id for each in (await self.records.get_many(devices)).values() if each.is_open}
        found: dict[str, Refused] = {}
        for device in devices:
            why = _hindrance(there.get(device), target, certified=device in at_hub, offered=device in open_)
            if why is not None:
                found[device] = why
        return found

    async def make(self, operation: Operation, device: str, target: str | None, *, timeout_s: float) -> None:
        """Keeps the cut-over of a device as begun, and offers it. Raises Refused where another one is under way."""
        now = self._clock.now_ms()
        home = (await self._registry.get(device)).home
        epoch = await self._storage.floor(_KEY, device) + 1
        made = Cutover(
            id=device,
            epoch=epoch,
            operation=operation.id,
            source=home,
            target=target,
            state=CutoverState.OFFERED,
            offered=now,
            until=now + int(timeout_s * 1000),
        )

        async def load() -> Cutover:
            return await self.records.get(device) or made

        def step(old: Cutover) -> tuple[Cutover, Sequence[Event]]:
            if old.version and old.is_open and old.operation != operation.id:
                raise _under_way()
            return evolve(made, version=old.version), [self._event(made)]

        # The epoch outlives the device: one that is registered again is offered none that it has obeyed before.
        await self.records.settle(
            load, step, lambda _old, _new: Commit(floors={(_KEY, device): epoch}), key=device
        )  # fmt: skip
        # What a device reports at a hub counts where the mirror has made its twin there: that comes first.
        with suppress(Refused):  # it is ended when it is looked at
            await self._desire(made, {"epoch": epoch})

    async def heard_at(self, mirror: str, device: str, given: int | None) -> bool:
        """Whether a device hears the commands of a mirror's hub there, or did when one was ``given``.

        Args:
            given: ms since the epoch by the hub's clock; None where the hub does not say.
        """
        there = await self._registry.find(device)
        if there is not None and there.home == mirror:
            return True
        # A leaf has moved with its gateway.
        last = await self.records.get(device if there is None or there.gateway is None else there.gateway)
        if last is None or last.source != mirror or last.state is not CutoverState.CONFIRMED:
            return False
        return given is not None and last.ended is not None and given < last.ended

    # -- seeing how they stand --------------------------------------------------------------------------------------

    async def look_at(self, open_: Sequence[Cutover], offer: Json) -> str | None:
        """Sees how they stand, those whose turn it is; what has ended is written down.

        Args:
            offer: what they are offered: ``to`` and ``tries``.

        Returns:
            Which hub does not answer, and why; empty where all do, None where no look was due.
        """
        now = self._clock.now_ms()
        due = [one for one in open_ if now >= self._looked.get(one.id, 0)]
        if not due:
            return None
        told, missing = await self._told(due)
        for one in due:
            await self._look(one, told[one.id], offer)
            self._looked[one.id] = now + min(_LATEST_MS, max(_SOONEST_MS, (now - one.offered) // _PART))
        return missing

    async def _told(self, open_: Sequence[Cutover]) -> tuple[Mapping[str, Sequence[Json]], str]:
        """What these devices report of their cut-over, here and at their hubs; and which hub does not answer."""
        missing = ""
        found: dict[str, list[Json]] = {one.id: [] for one in open_}
        for device, twin in (await self._twins.get_many(list(found))).items():
            found[device].append(twin.reported.document)
        for mirror in {side for one in open_ for side in (one.source, one.target) if side is not None}:
            its = [one.id for one in open_ if mirror in (one.source, one.target)]
            try:
                for device, reported in (await self._reported_at(mirror, its)).items():
                    found[device].append(reported)
            except (Unavailable, PluginError) as error:
                missing = f"{mirror}: {error}"  # they are looked at when it answers again
        return found, missing

    async def _look(self, one: Cutover, reports: Sequence[Json], offer: Json) -> None:
        there = await self._registry.find(one.id)
        if there is None or there.lifecycle is Lifecycle.RETIRED:
            await self.end(one, CutoverState.CANCELLED, "the device is gone or retired")
            return
        if there.home == one.target:
            await self._confirm(one)  # a server was killed in the middle of it
            return
        said = [word for each in reports if (word := _cutover_of(each)).get("epoch") == one.epoch]
        back = next((word for word in said if word.get("state") == CutoverState.FELL_BACK), None)
        if back is not None:
            await self.end(one, CutoverState.FELL_BACK, _reason(back))
        elif await self._has_arrived(one, said):
            await self._confirm(one)
        elif self._clock.now_ms() >= one.until:
            await self.end(one, CutoverState.TIMED_OUT, "the device has not come in time")
        else:
            try:
                await self._go_on(one, there, said, offer)
            except Refused as error:  # its twin has no room left for the offer
                await self.end(one, CutoverState.CANCELLED, str(error))

    async def _go_on(self, one: Cutover, there: Device, said: Sequence[Json], offer: Json) -> None:
        """Lets the key enrol that the device has told, and makes the offer where it is not made yet."""
        key = next((key for word in said if isinstance(key := word.get("key"), str) and _DIGEST.fullmatch(key)), None)
        if one.target is None and key is not None and key != one.key:
            former = there.key_id if one.key is None else one.former
            one = await self._keep(evolve(one, key=key, former=former))
        if one.key is not None and there.key_id != one.key:
            await self._registry.change(one.id, key_id=one.key, actor=ACTOR, reason=one.operation)
        offered = _cutover_of((await self._twins.get(one.id)).own.document)
        if offered.get("epoch") != one.epoch:
            await self._desire(one, {"epoch": one.epoch})  # a server was killed before it did
        elif "to" not in offered and (one.target is None or await self._held_at(one.target, "twin", [one.id])):
            await self._desire(one, {"epoch": one.epoch, **offer})

    async def _has_arrived(self, one: Cutover, said: Sequence[Json]) -> bool:
        """A device says so at a hub; here it has enrolled with the key that it has told, and come with that."""
        if one.target is not None:
            return any(word.get("state") == _ARRIVED for word in said)
        made = [each.created for each in await self._security.inventory(one.id) if each.spki == one.key]
        return bool(made) and (self._seen_at(one.id) or 0) >= max(one.offered, min(made))

    async def _confirm(self, one: Cutover) -> None:
        """The device is of its new side from now on: first for the fleet, then by the device's leave."""
        # The gateway first: one that is of its new side is confirmed again where a server was killed before its leaves.
        for moved in [await self._registry.get(one.id), *await self._registry.leaves(one.id)]:
            if moved.home != one.target:
                await self._registry.change(moved.id, home=one.target, actor=ACTOR, reason=one.operation)
        await self._desire(one, {"epoch": one.epoch, "confirmed": True})
        await self._keep(evolve(one, state=CutoverState.CONFIRMED, ended=self._clock.now_ms()))
        self._looked.pop(one.id, None)

    async def end(self, one: Cutover, state: CutoverState, reason: str) -> None:
        """The device stays where it was; where it is gone, there is nothing to tell."""
        self._looked.pop(one.id, None)
        there = await self._registry.find(one.id)
        if there is not None and there.home == one.target and one.source != one.target:
            await self._confirm(one)  # it has arrived, and a server was killed before it said so
            return
        if there is not None:
            await self._desire(one, None)
            if one.key is not None and there.key_id == one.key:
                await self._registry.change(one.id, key_id=one.former, actor=ACTOR, reason=one.operation)
            await self._keep(evolve(one, state=state, reason=reason, ended=self._clock.now_ms()))
        elif (left := await self.records.get(one.id)) is not None:
            await self._storage.commit(self.records.removing(left))

    async def _desire(self, one: Cutover, offer: Json | None) -> None:
        patch = {OURS: {_KEY: None}} if offer is None else {OURS: {_KEY: {**dict.fromkeys(_MEMBERS), **offer}}}
        await self._twins.desire(one.id, patch, ours=True, actor=ACTOR, reason=one.operation)

    async def _keep(self, one: Cutover) -> Cutover:
        def step(old: Cutover) -> tuple[Cutover, Sequence[Event]]:
            return evolve(one, version=old.version), [] if one.state is old.state else [self._event(one)]

        return await self.records.change(one.id, step)

    def _event(self, one: Cutover) -> Event:
        data = {"epoch": one.epoch, "operation": one.operation, "source": one.source, "target": one.target}
        return Event(
            type=f"cutover.{one.state}", subject=one.id, time=self._clock.now_ms(), actor=ACTOR, reason=one.reason,
            data=data,
        )  # fmt: skip


def _space(operation: str) -> str:
    return f"cutover/{operation}"


def _under_way() -> Refused:
    return Refused("Another cut-over of the device is under way", code="already_exists")


def _hindrance(device: Device | None, target: str | None, *, certified: bool, offered: bool) -> Refused | None:
    if device is None or device.lifecycle is Lifecycle.RETIRED:
        return Refused("There is no such device any more", code="device_unknown")
    if device.home == target:
        return Refused("The device is there already", code="already_exists")
    if device.gateway is not None:
        return Refused("A leaf moves with its gateway", remedy="Cut the gateway over")
    if offered:
        return _under_way()
    if not certified:
        return Refused(
            "The hub has no certificate of the device", remedy="Add certificates to the mirror, and let it catch up"
        )
    return None


def _reason(said: Json) -> str:
    """Why a device fell back, in a short line: it is kept with the operation."""
    reason = said.get("reason")
    line = " ".join(reason.split()) if isinstance(reason, str) else ""
    return (line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…") or "the device gives no reason"


def _cutover_of(section: Json) -> Json:
    """What a section of a twin says of a cut-over."""
    ours = section.get(OURS)
    said = ours.get(_KEY) if isinstance(ours, Mapping) else None
    return cast("Json", said) if isinstance(said, Mapping) else {}
