"""Cut-overs between this fleet and cloud hubs, device by device, as an operation.

An offer is ``desired.fleetcore.cutover``, which reaches the device on the side where it is: the epoch, where to go, and
how often to try. Nothing of it is secret. Keys cannot be exported, so a device that comes here enrols anew: it reports
the digest of its new public key on the side where it is known, and that key may enrol. One that goes to a hub uses the
certificate that its mirror has registered there. The device keeps what it has until it reads ``confirmed`` on the new
side, and falls back by itself where that does not come. Until then it is of its old side: ``Device.home`` says which,
and only that side gives it commands.

Each step can be done again: what was begun by a server that was killed is ended by the next one.
"""

import re
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import cast

from attrs import evolve

from fleetcore.errors import FleetError, Refused, Unavailable
from fleetcore.fleet.layers import OURS
from fleetcore.fleet.operations import Operations
from fleetcore.fleet.registry import Registry
from fleetcore.fleet.repository import Repository
from fleetcore.fleet.security.manager import SecurityManager
from fleetcore.fleet.twins import Twins
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.model.cutover import Cutover, CutoverState
from fleetcore.model.device import Device, Lifecycle
from fleetcore.model.mirror import Facet
from fleetcore.model.operation import Failure, Operation, OperationState
from fleetcore.model.twin import Json

KIND = "cut-over"
#: How a call names this fleet.
HERE = "fleet"
_KEY, _ARRIVED = "cutover", "arrived"
#: Devices that one turn looks at for an offer.
_TURN = 1000
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)

#: What devices report at the hub of a mirror, by device; those that are not there are left out. Raises Unavailable.
ReportedAt = Callable[[str, Sequence[str]], Awaitable[Mapping[str, Json]]]
#: Those of some devices of which the hub of a mirror has an entity of a facet.
HeldAt = Callable[[str, Facet, Collection[str]], Awaitable[Collection[str]]]


class Cutovers:
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
        operations: Operations,
        *,
        seen_at: Callable[[str], int | None],
        reported_at: ReportedAt,
        held_at: HeldAt,
    ) -> None:
        self._seen_at = seen_at
        self._storage, self._clock, self._registry, self._twins = storage, clock, registry, twins
        self._security, self._operations = security, operations
        self._reported_at, self._held_at = reported_at, held_at
        self.records = Repository(
            storage,
            "cutover",
            Cutover,
            refs=lambda one: [
                ("operation", one.operation),
                *([("open", one.operation)] if one.state is CutoverState.OFFERED else ()),
            ],
        )
        operations.drive(KIND, self._drive, undo=self._undo)

    async def start(
        self,
        devices: Sequence[str],
        target: str | None,
        *,
        to: Json,
        tries: int,
        timeout_s: float,
        at_once: int,
        actor: str,
        reason: str,
    ) -> Operation:
        """Starts the cut-over of devices to the hub of a mirror, or to this fleet (None).

        Args:
            to: what a device is told of the new side: endpoints, roots.
            tries: how often it tries the new side before it falls back.
            timeout_s: how long it may take, from its offer on.
            at_once: how many have an open offer at a time.
        """
        spec = {
            "target": target, "to": dict(to), "tries": tries, "timeout_s": timeout_s, "at_once": at_once, "next": 0,
        }  # fmt: skip
        return await self._operations.start(KIND, list(devices), spec=spec, actor=actor, reason=reason)

    async def hindrances(self, devices: Sequence[str], target: str | None) -> Mapping[str, FleetError]:
        """Why some of the devices cannot be cut over, by device; for a plan, and looked at again before each offer."""
        there = await self._registry.records.get_many(devices)
        at_hub = set(devices) if target is None else set(await self._held_at(target, "certificate", list(there)))
        open_ = {each.id for each in (await self.records.get_many(devices)).values() if _is_open(each)}
        found: dict[str, FleetError] = {}
        for device in devices:
            why = self._hindrance(there.get(device), target, certified=device in at_hub, offered=device in open_)
            if why is not None:
                found[device] = why
        return found

    def _hindrance(
        self, device: Device | None, target: str | None, *, certified: bool, offered: bool
    ) -> FleetError | None:
        if device is None or device.lifecycle is Lifecycle.RETIRED:
            return Refused("There is no such device any more", code="device_unknown")
        if device.home == target:
            return Refused("The device is there already", code="already_exists")
        if device.gateway is not None:
            return Refused("A leaf moves with its gateway", remedy="Cut the gateway over")
        if offered:
            return Refused("Another cut-over of the device is under way", code="already_exists")
        if not certified:
            return Refused(
                "The hub has no certificate of the device", remedy="Add certificates to the mirror, and let it catch up"
            )
        return None

    # -- what the operation does ------------------------------------------------------------------------------------

    async def _drive(self, operation: Operation, items: Sequence[object]) -> Operation | None:
        devices, spec = cast("Sequence[str]", items), operation.spec
        following, at_once = cast("int", spec["next"]), cast("int", spec["at_once"])
        await self._look_at_all(await self.records.find(ref=("open", operation.id)))
        still = len(await self.records.find(ref=("open", operation.id)))
        hindered: list[Failure] = []
        part = devices[following : following + _TURN]
        why = await self.hindrances(part, cast("str | None", spec["target"])) if part and still < at_once else {}
        for place, device in enumerate(part, start=following):
            if still >= at_once:
                break
            following = place + 1
            begun = await self.records.get(device)
            if begun is not None and begun.operation == operation.id:
                continue  # offered before a crash
            if device in why:
                code, reason = why[device].code, str(why[device])
                hindered.append(Failure(item=place + 1, about=device, code=code, reason=reason))
            else:
                await self._offer(operation, device)
                still += 1
        moved = evolve(
            operation,
            done=following - still,
            failures=(*operation.failures, *hindered),
            failed=operation.failed + len(hindered),
            spec={**spec, "next": following},
        )
        if following < len(devices) or still:
            return None if moved == operation else moved
        # Those that stayed are counted from their records: what a server that was killed had written down counts too.
        places = {device: number for number, device in enumerate(devices, start=1)}
        stayed = [
            Failure(item=places[one.id], about=one.id, code=str(one.state), reason=one.reason)
            for one in await self.records.find(ref=("operation", operation.id))
            if one.state is not CutoverState.CONFIRMED
        ]
        failed = moved.failed + len(stayed)
        return evolve(
            moved,
            failed=failed,
            failures=(*moved.failures, *stayed),
            reasons=dict(Counter(one.code for one in (*moved.failures, *stayed))),
            state=OperationState.PARTLY if failed else OperationState.SUCCEEDED,
        )

    async def _offer(self, operation: Operation, device: str) -> None:
        spec, now = operation.spec, self._clock.now_ms()
        last, there = await self.records.get(device), await self._registry.get(device)
        made = Cutover(
            id=device,
            epoch=1 if last is None else last.epoch + 1,
            operation=operation.id,
            source=there.home,
            target=cast("str | None", spec["target"]),
            state=CutoverState.OFFERED,
            offered=now,
            until=now + int(cast("float", spec["timeout_s"]) * 1000),
        )
        await self._keep(made)
        # What a device reports at a hub counts where the mirror has made its twin there: that comes first.
        await self._desire(made, {"epoch": made.epoch})

    async def _tell(self, operation: Operation, one: Cutover) -> None:
        to = {"name": one.target or HERE, **cast("Json", operation.spec["to"])}
        await self._desire(one, {"epoch": one.epoch, "to": to, "tries": operation.spec["tries"]})

    async def _desire(self, one: Cutover, offer: Json | None) -> None:
        patch = {OURS: {_KEY: None}} if offer is None else {OURS: {_KEY: {**dict.fromkeys(_MEMBERS), **offer}}}
        await self._twins.desire(one.id, patch, ours=True, actor=KIND, reason=one.operation)

    async def _look_at_all(self, open_: Sequence[Cutover]) -> None:
        """Sees how they stand; what has ended is written down."""
        told = await self._told(open_)
        for one in open_:
            await self._look(one, told[one.id])

    async def _told(self, open_: Sequence[Cutover]) -> Mapping[str, Sequence[Json]]:
        """What these devices report of their cut-over, here and at the hubs that they come from and go to."""
        found: dict[str, list[Json]] = {one.id: [] for one in open_}
        for device, twin in (await self._twins.get_many(list(found))).items():
            found[device].append(twin.reported.document)
        for mirror in {side for one in open_ for side in (one.source, one.target) if side is not None}:
            its = [one.id for one in open_ if mirror in (one.source, one.target)]
            try:
                for device, reported in (await self._reported_at(mirror, its)).items():
                    found[device].append(reported)
            except Unavailable:
                continue  # they are looked at when it answers again
        return found

    async def _look(self, one: Cutover, reports: Sequence[Json]) -> None:
        there = await self._registry.find(one.id)
        if there is None or there.lifecycle is Lifecycle.RETIRED:
            await self._end(one, CutoverState.CANCELLED, "the device is gone or retired")
            return
        if there.home == one.target:
            await self._confirm(one)  # a server was killed in the middle of it
            return
        said = [word for each in reports if (word := _cutover_of(each)).get("epoch") == one.epoch]
        back = next((word for word in said if word.get("state") == CutoverState.FELL_BACK), None)
        if back is not None:
            await self._end(one, CutoverState.FELL_BACK, str(back.get("reason") or "the device gives no reason"))
        elif await self._has_arrived(one, said):
            await self._confirm(one)
        elif self._clock.now_ms() >= one.until:
            await self._end(one, CutoverState.TIMED_OUT, "the device has not come in time")
        else:
            await self._go_on(one, there, said)

    async def _go_on(self, one: Cutover, there: Device, said: Sequence[Json]) -> None:
        """Lets the key enrol that the device has told, and makes the offer where it is not made yet."""
        key = next((key for word in said if isinstance(key := word.get("key"), str) and _DIGEST.fullmatch(key)), None)
        if one.target is None and key is not None and key != one.key:
            one = await self._keep(evolve(one, key=key))
            await self._registry.change(one.id, key_id=key, actor=KIND, reason=one.operation)
        elif one.key is not None and there.key_id != one.key:
            await self._registry.change(one.id, key_id=one.key, actor=KIND, reason=one.operation)
        offered = _cutover_of((await self._twins.get(one.id)).own.document)
        if offered.get("epoch") != one.epoch:
            await self._desire(one, {"epoch": one.epoch})  # a server was killed before it did
        elif "to" not in offered and (one.target is None or await self._held_at(one.target, "twin", [one.id])):
            await self._tell(await self._operations.get(one.operation), one)

    async def _has_arrived(self, one: Cutover, said: Sequence[Json]) -> bool:
        """A device says so at a hub; here it has enrolled with the key that it has told, and come with that."""
        if one.target is not None:
            return any(word.get("state") == _ARRIVED for word in said)
        made = [each.created for each in await self._security.inventory(one.id) if each.spki == one.key]
        return bool(made) and (self._seen_at(one.id) or 0) >= max(one.offered, min(made))

    async def _confirm(self, one: Cutover) -> None:
        """The device is of its new side from now on: first for the fleet, then by the device's leave."""
        await self._registry.change(one.id, home=one.target, actor=KIND, reason=one.operation)
        await self._desire(one, {"epoch": one.epoch, "confirmed": True})
        await self._keep(evolve(one, state=CutoverState.CONFIRMED))

    async def _end(self, one: Cutover, state: CutoverState, reason: str) -> None:
        """The device stays where it was; where it is gone, there is nothing to tell."""
        there = await self._registry.find(one.id)
        if there is not None and there.home == one.target and one.source != one.target:
            await self._confirm(one)  # it has arrived, and a server was killed before it said so
            return
        if there is not None:
            await self._desire(one, None)
            if one.key is not None and there.key_id == one.key:
                await self._registry.change(one.id, key_id=None, actor=KIND, reason=one.operation)
            await self._keep(evolve(one, state=state, reason=reason))
        elif await self.records.get(one.id) is not None:
            await self._storage.commit(self.records.removing(one))

    async def _keep(self, one: Cutover) -> Cutover:
        if await self.records.get(one.id) is None:
            return await self.records.create(one)
        return await self.records.change(one.id, lambda old: (evolve(one, version=old.version), ()))

    async def _undo(self, operation: Operation, _actor: str, _reason: str) -> None:
        for one in await self.records.find(ref=("open", operation.id)):
            await self._end(one, CutoverState.CANCELLED, "the operation was cancelled")


#: Members of an offer; those that the next one has not are cleared.
_MEMBERS = ("to", "tries", "confirmed")


def _is_open(one: Cutover) -> bool:
    return one.state is CutoverState.OFFERED


def _cutover_of(section: Json) -> Json:
    """What a section of a twin says of a cut-over."""
    ours = section.get(OURS)
    said = ours.get(_KEY) if isinstance(ours, Mapping) else None
    return said if isinstance(said, Mapping) else {}
