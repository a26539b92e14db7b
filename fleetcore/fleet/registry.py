"""The registry: device records, their lifecycle, and events that say who changed them."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, cast

from attrs import evolve

from fleetcore.errors import Conflict, Refused, VersionConflict
from fleetcore.fleet.location import Locations
from fleetcore.fleet.repository import Pairs, Repository
from fleetcore.fleet.sections import check_document, check_size, check_text
from fleetcore.fleet.shielding import Shield
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.provider import Limits
from fleetcore.interfaces.storage import Storage
from fleetcore.model.device import Device, Lifecycle, Location, check_transition
from fleetcore.model.names import check_device_id, check_label
from fleetcore.model.store import Commit, Event, Record
from fleetcore.model.twin import Json, merge_patch
from fleetcore.query.ast import Clause

_MAX_NAME_LENGTH = 1024
_CASEFOLD = "device-casefold"
#: The attribute that makes a device a gateway, and the index entry of every device that has it.
GATEWAY = "gateway"
GATEWAYS = ("gateways", "yes")
_SETTABLE = frozenset({"name", "model", "tags", "capabilities", "attributes", "location", "gateway", "key_id", "home"})


def _unique(device: Device) -> Pairs:
    # Ids are case-sensitive, but two that differ only in case would be one file and one host name.
    return [(_CASEFOLD, device.id.casefold())]


def _refs(device: Device) -> Pairs:
    refs = [("type", device.type), ("lifecycle", device.lifecycle), *(("tag", tag) for tag in device.tags)]
    if device.gateway:
        refs.append(("gateway", device.gateway))
    if device.home:
        refs.append(("home", device.home))
    return [*refs, GATEWAYS] if GATEWAY in device.attributes else refs


def _registered(device: Device, actor: str, reason: str) -> Event:
    return Event(type="device.registered", subject=device.id, time=device.created, actor=actor, reason=reason)


def taken(device: str) -> Conflict:
    """The error for registering a device whose id is registered already."""
    return Conflict(
        f"Device {device!r} is registered already, or an id that differs from it only in case",
        remedy="Choose another id, or change the existing device instead",
        device=device,
    )


def _expect(device: Device, if_version: int | None) -> None:
    if if_version is not None and device.version != if_version:
        raise VersionConflict(
            f"Device {device.id!r} is at version {device.version}, not {if_version}",
            remedy="Read it again and repeat the change",
            version=device.version,
        )


class Registry:
    """Registers, finds and changes devices. Every change is an event with who, when and why."""

    def __init__(self, storage: Storage, clock: Clock, limits: Limits | None = None) -> None:
        self._storage, self._clock, self._limits = storage, clock, limits or Limits()
        self.locations = Locations(storage, clock, self._limits)
        self.records = Repository(storage, "device", Device, unique=_unique, refs=_refs)
        self._listeners: list[Callable[[Device], None]] = []
        self._removal_listeners: list[Callable[[str], None]] = []
        #: The number of erased devices: results computed before may include one of them.
        self.removals = 0
        self._shield = Shield()
        #: Two moves that are each allowed could make a cycle together.
        self._topology = asyncio.Lock()

    def on_change(self, callback: Callable[[Device], None]) -> None:
        """Calls ``callback(device)`` after each committed change, from the event loop; not if only the version changed.

        Also where the caller of the change is cancelled meanwhile.
        """
        self._listeners.append(callback)

    def on_removal(self, callback: Callable[[str], None]) -> None:
        """Calls ``callback(device)`` after a device was erased, from the event loop."""
        self._removal_listeners.append(callback)

    async def remove(self, commit: Commit, device: str) -> None:
        """Commits the erasure of a device with its record; also where the caller is cancelled."""

        async def removed() -> None:
            await self._storage.commit(commit)
            self.removals += 1
            for callback in self._removal_listeners:
                callback(device)

        await self._shield.run(removed())

    def _changed(self, device: Device) -> Device:
        for callback in self._listeners:
            callback(device)
        return device

    async def register(
        self,
        device: str,
        type: str,
        *,
        model: str | None = None,
        name: str | None = None,
        capabilities: Sequence[str] = (),
        tags: Sequence[str] = (),
        attributes: Mapping[str, object] | None = None,
        location: Location | None = None,
        gateway: str | None = None,
        key_id: str | None = None,
        actor: str = "system",
        reason: str = "",
    ) -> Device:
        """Registers a new device.

        Raises:
            Refused: ``name_invalid`` for an id, type, model or tag outside its alphabet.
            Conflict: ``already_exists``: the id is taken, in this or another case. Nothing is overwritten.
            NotFound: the gateway is not registered.
        """
        record = await self.prepared(
            device,
            type,
            model=model,
            name=name,
            capabilities=capabilities,
            tags=tags,
            attributes=attributes,
            location=location,
            gateway=gateway,
            key_id=key_id,
        )
        return await self._shield.run(self._register(record, actor, reason))

    async def _register(self, record: Device, actor: str, reason: str) -> Device:
        try:
            await self._storage.commit(self.registration(record, actor=actor, reason=reason))
        except Conflict as error:
            raise taken(record.id) from error
        return self._changed(evolve(record, version=1))

    async def prepared(
        self,
        device: str,
        type: str,
        *,
        model: str | None = None,
        name: str | None = None,
        capabilities: Sequence[str] = (),
        tags: Sequence[str] = (),
        attributes: Mapping[str, object] | None = None,
        location: Location | None = None,
        gateway: str | None = None,
        key_id: str | None = None,
    ) -> Device:
        """The record that :meth:`register` would store; raises the same, except for a taken id."""
        record = self.checked(
            device,
            type,
            model=model,
            name=name,
            capabilities=capabilities,
            tags=tags,
            attributes=attributes,
            location=location,
            gateway=gateway,
            key_id=key_id,
        )
        if gateway is not None:
            await self.check_above(device, gateway)
        return record

    def checked(
        self,
        device: str,
        type: str,
        *,
        model: str | None = None,
        name: str | None = None,
        capabilities: Sequence[str] = (),
        tags: Sequence[str] = (),
        attributes: Mapping[str, object] | None = None,
        location: Location | None = None,
        gateway: str | None = None,
        key_id: str | None = None,
    ) -> Device:
        """The same without look-ups: the caller checks that the gateway is registered."""
        check_device_id(device)
        check_label(type, "type")
        self._check(
            device,
            {
                "model": model,
                "name": name,
                "tags": tags,
                "capabilities": capabilities,
                "attributes": attributes or {},
                "gateway": gateway,
            },
        )
        now = self._clock.now_ms()
        return Device(
            id=device,
            type=type,
            model=model,
            name=name,
            capabilities=tuple(capabilities),
            tags=tuple(dict.fromkeys(tags)),
            attributes=dict(attributes or {}),
            location=location,
            gateway=gateway,
            key_id=key_id,
            created=now,
            updated=now,
        )

    def registration(self, device: Device, *, actor: str = "system", reason: str = "") -> Commit:
        """The commit that registers a prepared device and sets its position, to be part of a larger commit.

        Call :meth:`registered` afterwards. The commit raises VersionConflict where the id is taken, Conflict where it
        differs from another only in case.
        """
        return self.registrations([device], actor=actor, reason=reason)

    def registrations(self, devices: Sequence[Device], *, actor: str = "system", reason: str = "") -> Commit:
        """The same for many."""
        puts, events = [], []
        for device in devices:
            puts.append(self.records.put(device, expect=0))
            events.append(_registered(device, actor, reason))
        for device in devices:
            if device.location is not None:
                placed = self.locations.first(device.id, device.location, actor)
                puts += placed.puts
                events += placed.events
        return Commit(puts=tuple(puts), events=tuple(events))

    async def holders(self, devices: Iterable[str]) -> Mapping[str, Record]:
        """The records of devices with these ids in any case, by the casefolded id."""
        return await self._storage.holders(_CASEFOLD, [device.casefold() for device in devices])

    def registered(self, device: Device) -> None:
        """Calls the listeners after a registration was committed."""
        self._changed(device)

    def _check(self, device: str, members: Mapping[str, Any]) -> None:
        """Raises Refused for a member that breaks its alphabet or limit."""
        for labels, what in (("tags", "tag"), ("capabilities", "capability")):
            for label in members.get(labels, ()):
                check_label(label, what)
        if members.get("model") is not None:
            check_label(members["model"], "model")
        name = members.get("name")
        if name is not None and not (isinstance(name, str) and len(name) <= _MAX_NAME_LENGTH):
            raise Refused(f"A device's name must be a text of up to {_MAX_NAME_LENGTH} characters", code="name_invalid")
        if name is not None:
            check_text(name, "/name")
        if "attributes" in members:
            if not isinstance(members["attributes"], Mapping):
                raise Refused("attributes must be an object")
            check_document(members["attributes"], self._limits)
            check_size(dict(members["attributes"]), self._limits)
        if members.get("gateway") is not None and members["gateway"] == device:
            raise Refused(f"Device {device!r} cannot be its own gateway", device=device)

    async def get(self, device: str) -> Device:
        """The device; raises NotFound."""
        return await self.records.need(device)

    async def find(self, device: str) -> Device | None:
        """The device or None."""
        return await self.records.get(device)

    async def list(
        self, *, ref: tuple[str, str] | None = None, where: Clause | None = None, limit: int | None = None
    ) -> list[Device]:
        """Devices in id order; ``ref`` is one of (type|tag|lifecycle|gateway, value)."""
        return await self.records.find(ref=ref, where=where, limit=limit)

    async def leaves(self, gateway: str) -> Sequence[Device]:
        """The leaves of a gateway."""
        return await self.records.find(ref=("gateway", gateway))

    async def below(self, gateway: str) -> Sequence[Device]:
        """The leaves of a gateway, those of leaves that are gateways, and so on."""
        found: dict[str, Device] = {}
        asked = [gateway]
        while asked:
            for leaf in await self.leaves(asked.pop()):
                if leaf.id not in found and leaf.id != gateway:
                    found[leaf.id] = leaf
                    if GATEWAY in leaf.attributes:
                        asked.append(leaf.id)
        return list(found.values())

    async def path(self, device: Device) -> Sequence[Device]:
        """The gateways above a device, the nearest first."""
        found: dict[str, Device] = {}
        while device.gateway is not None and device.gateway not in found:
            above = await self.find(device.gateway)
            if above is None:
                break
            found[above.id] = device = above
        return list(found.values())

    async def check_above(self, device: str, gateway: str) -> None:
        """Checks that a device may be below a gateway.

        Raises:
            NotFound: there is no such gateway.
            Refused: ``topology_cycle``, the gateway is below the device.
        """
        nearest = await self.get(gateway)
        way = [gateway, *(each.id for each in await self.path(nearest))]
        if device in way:
            shown = " < ".join([device, *way[: way.index(device) + 1]])
            raise Refused(
                f"{gateway!r} is below {device!r} already: {shown}", code="topology_cycle",
                remedy=f"Detach {gateway!r} first", device=device, path=shown,
            )  # fmt: skip

    async def change(
        self,
        device: str,
        *,
        patch: Mapping[str, object] | None = None,
        if_version: int | None = None,
        actor: str = "system",
        reason: str = "",
        **members: Any,
    ) -> Device:
        """Changes descriptive members (name, model, tags, attributes, location, gateway …) in one commit.

        A location is also the device's position, until a newer reading replaces it.

        Args:
            patch: merged into the attributes (RFC 7396), where ``attributes`` replaces them.

        Raises VersionConflict where the device is not at ``if_version``.
        """
        if patch is not None:
            check_document(patch, self._limits)
        unknown = sorted(set(members) - _SETTABLE)
        if unknown:
            raise Refused(
                f"A device's {', '.join(unknown)} cannot be changed this way",
                remedy=f"Changeable: {', '.join(sorted(_SETTABLE))}",
            )
        self._check(device, members)
        now = self._clock.now_ms()
        event = Event(
            type="device.changed",
            subject=device,
            time=now,
            actor=actor,
            reason=reason,
            data={"members": sorted([*members, *([] if patch is None else ["attributes"])])},
        )

        def step(old: Device) -> tuple[Device, list[Event]]:
            _expect(old, if_version)
            merged: dict[str, Any] = (
                {} if patch is None else {"attributes": cast("Json", merge_patch(old.attributes, patch))}
            )
            self._check(device, merged)
            return evolve(old, **members, **merged, updated=now), [event]

        placing = Commit()

        async def load() -> Device:
            nonlocal placing
            if members.get("location") is not None:
                placing = await self.locations.placing(device, members["location"], actor)
            return await self.records.need(device)

        async def changed() -> Device:
            above = members.get("gateway")
            async with self._topology if above is not None else nullcontext(), self.records.turn(device):
                if above is not None:
                    await self.check_above(device, above)
                return await self.records.compare_and_set(load, step, lambda _old, _new: placing)

        return await self._shield.run(self._notify(changed()))

    async def merge_attributes(
        self,
        device: str,
        patch: Mapping[str, object],
        *,
        if_version: int | None = None,
        actor: str = "system",
        reason: str = "",
    ) -> Device:
        """Merges a patch (RFC 7396) into the attributes.

        Raises:
            NotFound: there is no such device.
            Refused: the patch or the attributes would exceed a limit of twins.
            VersionConflict: the device is not at ``if_version``.
        """
        check_document(patch, self._limits)
        now = self._clock.now_ms()
        event = Event(
            type="device.changed",
            subject=device,
            time=now,
            actor=actor,
            reason=reason,
            data={"members": ["attributes"]},
        )

        def step(old: Device) -> tuple[Device, list[Event]]:
            _expect(old, if_version)
            merged = cast("Json", merge_patch(old.attributes, patch))
            self._check(device, {"attributes": merged})
            return evolve(old, attributes=merged, updated=now), [event]

        return await self._shield.run(self._notify(self.records.change(device, step)))

    async def _notify(self, change: Coroutine[Any, Any, Device]) -> Device:
        return self._changed(await change)

    async def move(
        self, device: str, to: Lifecycle, *, if_version: int | None = None, actor: str = "system", reason: str = ""
    ) -> Device:
        """Moves the lifecycle; moving to the present state does nothing. For ``retired`` use :meth:`Lifecycles.move`.

        Raises NotFound, IllegalTransition, VersionConflict.
        """
        assert to is not Lifecycle.RETIRED, "retiring has a separate method"

        def step(old: Device) -> tuple[Device, Sequence[Event]] | None:
            return self._move(old, to, if_version, actor, reason)

        return await self._shield.run(self._notify(self.records.change(device, step)))

    def moving(
        self, device: Device, to: Lifecycle, *, if_version: int | None = None, actor: str = "system", reason: str = ""
    ) -> Commit | None:
        """The commit that moves a device, to be part of a larger one; afterwards call :meth:`moved`. None: no move.

        Raises IllegalTransition, VersionConflict; the commit raises VersionConflict where the device changes meanwhile.
        """
        move = self._move(device, to, if_version, actor, reason)
        return None if move is None else self.records.changing(device, move[0]) + Commit(events=tuple(move[1]))

    def moved(self, device: Device) -> None:
        """Calls the listeners after a move was committed."""
        self._changed(device)

    def _move(
        self, old: Device, to: Lifecycle, if_version: int | None, actor: str, reason: str
    ) -> tuple[Device, Sequence[Event]] | None:
        now = self._clock.now_ms()
        _expect(old, if_version)
        if old.lifecycle is to:
            return None
        check_transition(old.id, old.lifecycle, to)
        event = Event(
            type=f"device.{to}",
            subject=old.id,
            time=now,
            actor=actor,
            reason=reason,
            data={"from": old.lifecycle, "to": to},
        )
        return evolve(old, lifecycle=to, updated=now), (event,)

    async def activate(self, device: str) -> None:
        """Activates a registered or provisioned device at its first authenticated message."""

        def step(old: Device) -> tuple[Device, Sequence[Event]] | None:
            if old.lifecycle not in (Lifecycle.REGISTERED, Lifecycle.PROVISIONED):
                return None  # it was suspended, quarantined or retired meanwhile: that stays
            return self._move(old, Lifecycle.ACTIVE, None, device, "first authenticated message")

        await self._shield.run(self._notify(self.records.change(device, step)))
