"""What a mirror sends: the present state of an entity, and which entities there are."""

from collections.abc import Awaitable, Callable, Sequence

from fleetcore.fleet.campaigns import Campaigns
from fleetcore.fleet.groups import Groups
from fleetcore.fleet.registry import Registry
from fleetcore.fleet.twins import Twins
from fleetcore.interfaces.storage import Storage
from fleetcore.model.device import Device
from fleetcore.model.mirror import EntityKey, Facet, GroupBody, JobBody, MirrorBody, RegistryBody, TwinBody

#: The stored kind of each facet, and the index that lists an entity's records.
_KINDS: dict[Facet, str] = {"registry": "device", "twin": "twin", "group": "group", "job": "execution"}


class Entities:
    """The fleet, as mirrors see it.

    Args:
        located: whether a device's position is told.
        selects: whether a device is mirrored; one that is not is as if it were gone. None: all are.
    """

    def __init__(
        self,
        storage: Storage,
        registry: Registry,
        twins: Twins,
        groups: Groups,
        campaigns: Campaigns,
        *,
        located: bool = False,
        selects: Callable[[str], Awaitable[bool]] | None = None,
    ) -> None:
        self._storage, self._registry, self._twins = storage, registry, twins
        self._groups, self._campaigns, self._located, self._selects = groups, campaigns, located, selects

    async def body(self, key: EntityKey) -> MirrorBody | None:
        """The entity as it is now; None where there is none (any more)."""
        match key.facet:
            case "registry":
                return await self._registered(key.id)
            case "twin":
                return await self._twin(key.id)
            case "group":
                return self._group(key.id)
            case "job":
                return await self._job(key.id)

    async def _device(self, device_id: str) -> Device | None:
        device = await self._registry.find(device_id)
        return None if device is None or (self._selects is not None and not await self._selects(device_id)) else device

    async def _registered(self, device_id: str) -> RegistryBody | None:
        device = await self._device(device_id)
        if device is None:
            return None
        return RegistryBody(
            type=device.type,
            lifecycle=str(device.lifecycle),
            model=device.model,
            name=device.name,
            tags=tuple(sorted(device.tags)),
            capabilities=tuple(sorted(device.capabilities)),
            attributes=device.attributes,
            groups=tuple(self._groups.of(device_id)),
            gateway=device.gateway,
            location=await self._registry.locations.of(device_id) if self._located else None,
        )

    async def _twin(self, device: str) -> TwinBody | None:
        if await self._device(device) is None:
            return None
        twin = await self._twins.get(device)
        return TwinBody(desired=twin.desired.document, reported=twin.reported.document)

    def _group(self, name: str) -> GroupBody | None:
        if not self._groups.has(name):
            return None
        group = self._groups.get(name)
        return GroupBody(description=group.description, query=group.query, within=tuple(sorted(group.within)))

    async def _job(self, execution_id: str) -> JobBody | None:
        execution = await self._campaigns.executions.get(execution_id)
        if execution is None or await self._device(execution.device) is None:
            return None
        campaign = await self._campaigns.get(execution.campaign)
        return JobBody(
            device=execution.device,
            campaign=campaign.id,
            release=campaign.release,
            url=campaign.url,
            state=str(execution.state),
            sha256=campaign.sha256,
            size=campaign.size,
            progress=execution.progress,
            code=execution.code,
            reason=execution.reason,
        )

    async def page(self, facet: Facet, after: str | None, limit: int) -> tuple[Sequence[EntityKey], str | None]:
        """The next entities of a facet by key; all together are a snapshot, beside which changes are marked."""
        found = await self._storage.find(_KINDS[facet], after=after, limit=limit)
        return [EntityKey(facet, record.key) for record in found.items], found.after
