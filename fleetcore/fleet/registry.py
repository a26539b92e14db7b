"""The registry: which devices there are, what was decided about them, and who decided it."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attrs import evolve

from fleetcore.errors import Conflict, Refused, VersionConflict
from fleetcore.fleet.repository import Pairs, Repository
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.model.device import Device, Lifecycle, Location, check_transition
from fleetcore.model.names import check_device_id, check_label
from fleetcore.model.store import Event
from fleetcore.query.ast import Clause

_SETTABLE = frozenset({"name", "model", "tags", "capabilities", "attributes", "location", "gateway", "key_id"})


def _unique(device: Device) -> Pairs:
    # Ids are case-sensitive, but two that differ in case alone would be one file, one host name, one mistake.
    return [("device-casefold", device.id.casefold())]


def _refs(device: Device) -> Pairs:
    refs = [("type", device.type), ("lifecycle", device.lifecycle), *(("tag", tag) for tag in device.tags)]
    return [*refs, ("gateway", device.gateway)] if device.gateway else refs


class Registry:
    """Registers, finds and changes devices. Every change is an event with who, when and why."""

    def __init__(self, storage: Storage, clock: Clock) -> None:
        self._clock = clock
        self.records = Repository(storage, "device", Device, unique=_unique, refs=_refs)
        self._listeners: list[Callable[[Device], None]] = []

    def on_change(self, callback: Callable[[Device], None]) -> None:
        """``callback(device)`` is called after each committed change, from the event loop."""
        self._listeners.append(callback)

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
        check_device_id(device)
        check_label(type, "type")
        if model is not None:
            check_label(model, "model")
        for tag in tags:
            check_label(tag, "tag")
        if gateway is not None:
            await self.get(gateway)
        now = self._clock.now_ms()
        record = Device(
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
        event = Event(type="device.registered", subject=device, time=now, actor=actor, reason=reason)
        try:
            return self._changed(await self.records.create(record, [event]))
        except Conflict as error:
            raise Conflict(
                f"Device {device!r} is registered already, or an id that differs from it in case alone",
                remedy="Choose another id, or change the existing device instead",
                device=device,
            ) from error

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
        """The devices that the gateway speaks for."""
        return await self.records.find(ref=("gateway", gateway))

    async def change(
        self, device: str, *, if_version: int | None = None, actor: str = "system", reason: str = "", **members: Any
    ) -> Device:
        """Changes descriptive members (name, model, tags, attributes, location, gateway …).

        Raises VersionConflict where the device is not at ``if_version``.
        """
        unknown = sorted(set(members) - _SETTABLE)
        if unknown:
            raise Refused(
                f"A device's {', '.join(unknown)} cannot be changed this way",
                remedy=f"Changeable: {', '.join(sorted(_SETTABLE))}",
            )
        for tag in members.get("tags", ()):
            check_label(tag, "tag")
        if members.get("gateway") is not None:
            await self.get(members["gateway"])
        now = self._clock.now_ms()
        event = Event(
            type="device.changed",
            subject=device,
            time=now,
            actor=actor,
            reason=reason,
            data={"members": sorted(members)},
        )

        def step(old: Device) -> tuple[Device, list[Event]]:
            if if_version is not None and old.version != if_version:
                raise VersionConflict(
                    f"Device {device!r} is at version {old.version}, not {if_version}",
                    remedy="Read it again and repeat the change",
                    version=old.version,
                )
            return evolve(old, **members, updated=now), [event]

        return self._changed(await self.records.change(device, step))

    async def move(self, device: str, to: Lifecycle, *, actor: str = "system", reason: str = "") -> Device:
        """Moves the lifecycle; moving to where it is does nothing. Raises IllegalTransition."""
        now = self._clock.now_ms()

        def step(old: Device) -> tuple[Device, list[Event]] | None:
            if old.lifecycle is to:
                return None
            check_transition(device, old.lifecycle, to)
            event = Event(
                type=f"device.{to}",
                subject=device,
                time=now,
                actor=actor,
                reason=reason,
                data={"from": old.lifecycle, "to": to},
            )
            return evolve(old, lifecycle=to, updated=now), [event]

        return self._changed(await self.records.change(device, step))

    async def activate(self, device: str) -> None:
        """The first authenticated message makes a registered or provisioned device active."""
        with contextlib.suppress(Conflict):  # somebody suspended or retired it in between: that stays
            await self.move(device, Lifecycle.ACTIVE, actor=device, reason="first authenticated message")
