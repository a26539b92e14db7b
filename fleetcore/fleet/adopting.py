"""Adopting: entities that others have made at a cloud hub become the fleet's, one device or group at a time.

Nothing in the fleet is overwritten. Each step can be repeated: a step that was interrupted continues.
"""

from collections.abc import Iterable, Mapping, Sequence

from attrs import evolve

from fleetcore.fleet.groups import Groups
from fleetcore.fleet.registry import Registry
from fleetcore.fleet.twins import Twins
from fleetcore.interfaces.storage import Storage
from fleetcore.model.device import Device
from fleetcore.model.mirror import GroupBody, RegistryBody, TwinBody
from fleetcore.model.store import Commit, Record
from fleetcore.model.twin import OURS, diff_patch


class Adopting:
    """Registers devices and makes groups from a hub, see the module."""

    def __init__(self, storage: Storage, registry: Registry, twins: Twins, groups: Groups) -> None:
        self._storage, self._registry, self._twins, self._groups = storage, registry, twins, groups

    async def known(self, devices: Iterable[str]) -> Mapping[str, Record]:
        """Those of some devices that are registered already, in this or another case, by the casefolded id."""
        return await self._registry.holders(devices)

    def has_group(self, group: str) -> bool:
        """Whether a group of that name exists."""
        return self._groups.has(group)

    def prepared(self, device: str, body: RegistryBody, type_: str, home: str) -> Device:
        """The device to register, connected to the hub of mirror ``home``.

        Args:
            type_: the type where the hub has none.

        Raises:
            Refused: it is not a valid device.
        """
        made = self._registry.checked(
            device,
            body.type or type_,
            model=body.model,
            name=body.name,
            tags=body.tags,
            capabilities=body.capabilities,
            attributes=body.attributes,
            gateway=body.gateway,
        )
        return evolve(made, home=home)

    async def below(self, body: RegistryBody) -> RegistryBody:
        """The same device, without a gateway that is not registered here."""
        if body.gateway is None or await self._storage.get("device", body.gateway) is not None:
            return body
        return evolve(body, gateway=None)

    async def register(self, device: Device, extra: Commit, *, actor: str, reason: str) -> None:
        """Registers it, in one commit with ``extra``. Raises Conflict where the id was taken meanwhile."""
        await self._storage.commit(self._registry.registration(device, actor=actor, reason=reason) + extra)
        self._registry.registered(device)

    async def fill(self, device: str, body: TwinBody, *, actor: str, reason: str) -> None:
        """Sets an adopted device's twin to the state at the hub. Raises Refused where it does not fit."""
        twin = await self._twins.get(device)
        # Desired state that another fleet set under its own key is not this fleet's.
        desired = {name: value for name, value in body.desired.items() if name != OURS}
        if patch := diff_patch(twin.own.document, desired):
            await self._twins.desire(device, patch, actor=actor, reason=reason)
        await self._twins.take_report(device, body.reported, actor=actor)

    async def group(self, group: str, body: GroupBody, *, actor: str, reason: str) -> None:
        """Makes a group without members. Raises Conflict where a group of that name exists."""
        await self._groups.create(group, description=body.description, actor=actor, reason=reason)

    async def groups_after(self, group: str | None, limit: int) -> tuple[Sequence[str], str | None]:
        """The next static groups of the fleet by name, and the ``after`` of the next page."""
        page = await self._groups.page(after=group, limit=limit)
        return [each.id for each in page.items if each.query is None], page.after

    async def join(self, group: str, devices: Iterable[str], *, actor: str, reason: str) -> int:
        """Adds those of some devices that are registered to a static group; returns how many were not in it."""
        known = await self._storage.get_many("device", devices)
        return await self._groups.add(group, known, actor=actor, reason=reason) if known else 0

    def static(self, groups: Iterable[str]) -> Sequence[str]:
        """Those of some groups that exist and are static."""
        return [each for each in groups if self._groups.has(each) and self._groups.get(each).query is None]
