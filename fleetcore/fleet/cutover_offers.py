"""The cut-over of a device: its offer, the device's reports on either side, and its end.

An offer is ``desired.fleetcore.cutover``, which reaches the device on its present side: the epoch, the new endpoints,
and the number of tries. It contains no secrets. Keys cannot be exported, so a device that comes here enrols anew: it
reports the digest of its new public key on its old side, and that key may then enrol. A device that goes to a hub uses
the certificate that its mirror has registered there. The device keeps its credentials until it reads ``confirmed``, and
falls back by itself without it. Until then it belongs to its old side: ``Device.home`` says which, and only that side
gives it commands.

Each step can be repeated: the next server completes a step that a killed server has begun.
"""

import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress

from attrs import evolve

from fleetcore.errors import PluginError, Refused, Unavailable
from fleetcore.fleet.registry import Registry
from fleetcore.fleet.repository import Repository
from fleetcore.fleet.security.manager import SecurityManager
from fleetcore.fleet.twins import Twins
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.model.cutover import CUTOVER, Cutover, CutoverState, cutover_of, word_of
from fleetcore.model.device import Device, Lifecycle
from fleetcore.model.mirror import Facet
from fleetcore.model.operation import Operation
from fleetcore.model.store import Commit, Event
from fleetcore.model.twin import OURS, Json

#: The name of this fleet in calls.
HERE = "fleet"
ACTOR = "cut-over"
_ARRIVED, _MOVED = "arrived", "moved"
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
#: The interval of checking an offer, as a part of its age, and its bounds: each check costs a call to the hub.
_PART, _SOONEST_MS, _LATEST_MS = 8, 100, 15_000
#: How many characters of a device's reason are stored.
_MAX_REASON_LENGTH = 256
#: A device that does not report its move counts as moved this long after it was confirmed.
_MOVES_MS = 600_000
#: Members of an offer; the next offer clears those that it does not set.
_MEMBERS = ("to", "tries", "confirmed")

#: What devices report at the hub of a mirror, by device, without those that are missing there. Raises Unavailable.
ReportedAt = Callable[[str, Sequence[str]], Awaitable[Mapping[str, Json]]]
#: Those of some devices for which the hub of a mirror has an entity of a facet.
HeldAt = Callable[[str, Facet, Collection[str]], Awaitable[Collection[str]]]


class CutoverOffers:
    """Makes and ends cut-overs, see the module.

    Args:
        seen_at: when a device was last seen here, ms since the epoch; None where it never was.
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
            CUTOVER,
            Cutover,
            refs=lambda item: [
                ("device", item.id),
                ("operation", item.operation),
                *([("open", item.operation)] if item.is_open else ()),
            ],
            counted=lambda item: (_space(item.operation), item.state.value),
        )

    async def counts(self, operation: str) -> Mapping[str, int]:
        """The number of an operation's devices in each state, without those that were erased since."""
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
        """Stores the cut-over of a device as begun, and offers it. Raises Refused where another one is open."""
        now = self._clock.now_ms()
        home = (await self._registry.get(device)).home
        epoch = await self._storage.floor(CUTOVER, device) + 1
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

        # The epoch outlives the device: a device that is registered again never gets an epoch that it has seen before.
        await self.records.compare_and_set(
            load, step, lambda _old, _new: Commit(floors={(CUTOVER, device): epoch}), key=device
        )  # fmt: skip
        # A device's report at a hub counts only after the mirror has made its twin there: that comes first.
        with suppress(Refused):  # the next check ends it
            await self._desire(made, {"epoch": epoch})

    async def heard_at(self, mirror: str, device: str, given: int | None) -> bool:
        """Whether a device receives commands at a mirror's hub, or did when one was ``given``.

        Args:
            given: ms since the epoch by the hub's clock; None where the hub does not say.
        """
        there = await self._registry.find(device)
        if there is not None and there.home == mirror:
            return True
        # A leaf moves with its gateway.
        last = await self.records.get(device if there is None or there.gateway is None else there.gateway)
        if last is None or last.source != mirror or last.state is not CutoverState.CONFIRMED:
            return False
        if given is None:
            return False
        return given < await self._left(last)

    async def _left(self, cutover: Cutover) -> int:
        """When a device reported leaving its old side, or counts as gone: until then it receives from that side."""
        reported = (await self._twins.get(cutover.id)).reported
        if word_of(reported.document, cutover.epoch).get("state") != _MOVED:
            return (cutover.ended or 0) + _MOVES_MS
        return max(reported.times[f"/{OURS}/{CUTOVER}/{member}"] for member in ("epoch", "state"))

    # -- checking progress ------------------------------------------------------------------------------------------

    async def look_at(self, open_: Sequence[Cutover], offer: Json) -> str | None:
        """Checks the cut-overs that are due, and records the ends.

        Args:
            offer: the offer: ``to`` and ``tries``.

        Returns:
            Which hub does not answer, and why; empty where all do, None where no check was due.
        """
        now = self._clock.now_ms()
        due = [item for item in open_ if now >= self._looked.get(item.id, 0)]
        if not due:
            return None
        reports, missing = await self._reports(due)
        for item in due:
            await self._look(item, {side: word_of(each, item.epoch) for side, each in reports[item.id].items()}, offer)
            self._looked[item.id] = now + min(_LATEST_MS, max(_SOONEST_MS, (now - item.offered) // _PART))
        return missing

    async def _reports(self, open_: Sequence[Cutover]) -> tuple[Mapping[str, Mapping[str | None, Json]], str]:
        """The reports of these devices, by side (None is this fleet); and which hub does not answer."""
        missing = ""
        found: dict[str, dict[str | None, Json]] = {item.id: {} for item in open_}
        for device, twin in (await self._twins.get_many(list(found))).items():
            found[device][None] = twin.reported.document
        for mirror in {side for item in open_ for side in (item.source, item.target) if side is not None}:
            ids = [item.id for item in open_ if mirror in (item.source, item.target)]
            try:
                for device, reported in (await self._reported_at(mirror, ids)).items():
                    found[device][mirror] = reported
            except (Unavailable, PluginError) as error:
                missing = f"{mirror}: {error}"  # the next check is when it answers again
        return found, missing

    async def _look(self, cutover: Cutover, reports: Mapping[str | None, Json], offer: Json) -> None:
        there = await self._registry.find(cutover.id)
        if there is None or there.lifecycle is Lifecycle.RETIRED:
            await self.end(cutover, CutoverState.CANCELLED, "the device is gone or retired")
            return
        if there.home == cutover.target:
            await self._confirm(cutover)  # a server was killed in the middle of it
            return
        back = next((word for word in reports.values() if word.get("state") == CutoverState.FELL_BACK), None)
        if back is not None:
            await self.end(cutover, CutoverState.FELL_BACK, _reason(back))
        elif await self._has_arrived(cutover, reports):
            await self._confirm(cutover)
        elif self._clock.now_ms() >= cutover.until:
            await self.end(cutover, CutoverState.TIMED_OUT, "the device did not come in time")
        else:
            try:
                await self._go_on(cutover, there, list(reports.values()), offer)
            except Refused as error:  # its twin has no room left for the offer
                await self.end(cutover, CutoverState.CANCELLED, str(error))

    async def _go_on(self, cutover: Cutover, there: Device, reports: Sequence[Json], offer: Json) -> None:
        """Lets the key enrol that the device has announced, and makes the offer where there is none yet."""
        key = next(
            (key for word in reports if isinstance(key := word.get("key"), str) and _DIGEST.fullmatch(key)), None
        )
        if cutover.target is None and key is not None and key != cutover.key:
            former = there.key_id if cutover.key is None else cutover.former
            cutover = await self._keep(evolve(cutover, key=key, former=former))
        if cutover.key is not None and there.key_id != cutover.key:
            await self._registry.change(cutover.id, key_id=cutover.key, actor=ACTOR, reason=cutover.operation)
        offered = cutover_of((await self._twins.get(cutover.id)).own.document)
        if offered.get("epoch") != cutover.epoch:
            await self._desire(cutover, {"epoch": cutover.epoch})  # a server was killed before this step
        elif "to" not in offered and (
            cutover.target is None or await self._held_at(cutover.target, "twin", [cutover.id])
        ):
            await self._desire(cutover, {"epoch": cutover.epoch, **offer})

    async def _has_arrived(self, cutover: Cutover, reports: Mapping[str | None, Json]) -> bool:
        """Whether the device has arrived: it reports so at the hub, or enrolled here by the announced key."""
        if cutover.target is not None:
            return reports.get(cutover.target, {}).get("state") == _ARRIVED
        made = [each.created for each in await self._security.inventory(cutover.id) if each.spki == cutover.key]
        return bool(made) and (self._seen_at(cutover.id) or 0) >= max(cutover.offered, min(made))

    async def _confirm(self, cutover: Cutover) -> None:
        """Moves the device to its new side: first in the fleet, then by telling the device."""
        # The gateway first: if a server is killed before its leaves, the next one confirms it again.
        for moved in [await self._registry.get(cutover.id), *await self._registry.leaves(cutover.id)]:
            if moved.home != cutover.target:
                await self._registry.change(moved.id, home=cutover.target, actor=ACTOR, reason=cutover.operation)
        await self._desire(cutover, {"epoch": cutover.epoch, "confirmed": True})
        await self._keep(evolve(cutover, state=CutoverState.CONFIRMED, ended=self._clock.now_ms()))
        self._looked.pop(cutover.id, None)

    async def end(self, cutover: Cutover, state: CutoverState, reason: str) -> None:
        """Leaves the device on its old side; an erased device is not told."""
        self._looked.pop(cutover.id, None)
        there = await self._registry.find(cutover.id)
        if there is not None and there.home == cutover.target and cutover.source != cutover.target:
            await self._confirm(cutover)  # it has arrived, and a server was killed before telling it
            return
        if there is not None:
            await self._desire(cutover, None)
            if cutover.key is not None and there.key_id == cutover.key:
                await self._registry.change(cutover.id, key_id=cutover.former, actor=ACTOR, reason=cutover.operation)
            await self._keep(evolve(cutover, state=state, reason=reason, ended=self._clock.now_ms()))
        elif (left := await self.records.get(cutover.id)) is not None:
            await self._storage.commit(self.records.removing(left))

    async def _desire(self, cutover: Cutover, offer: Json | None) -> None:
        patch = {OURS: {CUTOVER: None}} if offer is None else {OURS: {CUTOVER: {**dict.fromkeys(_MEMBERS), **offer}}}
        await self._twins.desire(cutover.id, patch, ours=True, actor=ACTOR, reason=cutover.operation)

    async def _keep(self, cutover: Cutover) -> Cutover:
        def step(old: Cutover) -> tuple[Cutover, Sequence[Event]]:
            return evolve(cutover, version=old.version), [] if cutover.state is old.state else [self._event(cutover)]

        return await self.records.change(cutover.id, step)

    def _event(self, cutover: Cutover) -> Event:
        data = {
            "epoch": cutover.epoch,
            "operation": cutover.operation,
            "source": cutover.source,
            "target": cutover.target,
        }
        return Event(
            type=f"cutover.{cutover.state}",
            subject=cutover.id,
            time=self._clock.now_ms(),
            actor=ACTOR,
            reason=cutover.reason,
            data=data,
        )


def _space(operation: str) -> str:
    return f"cutover/{operation}"


def _under_way() -> Refused:
    return Refused("Another cut-over of the device is open", code="already_exists")


def _hindrance(device: Device | None, target: str | None, *, certified: bool, offered: bool) -> Refused | None:
    if device is None or device.lifecycle is Lifecycle.RETIRED:
        return Refused("The device no longer exists", code="device_unknown")
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
    """Why a device fell back, in a short line, which is stored with the operation."""
    reason = said.get("reason")
    line = " ".join(reason.split()) if isinstance(reason, str) else ""
    return (
        line if len(line) <= _MAX_REASON_LENGTH else f"{line[:_MAX_REASON_LENGTH]}…"
    ) or "the device gives no reason"
