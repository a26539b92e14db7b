"""The content of a mirror: the current state of an entity, and the list of entities."""

import functools
import hashlib
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, cast

from fleetcore.fleet.campaigns import Campaigns
from fleetcore.fleet.groups import Groups
from fleetcore.fleet.registry import Registry
from fleetcore.fleet.security.inventory import CertificateRecord
from fleetcore.fleet.twins import Twins
from fleetcore.fleet.updates import may_be_offered
from fleetcore.interfaces.storage import Storage
from fleetcore.model.cutover import without_cutover
from fleetcore.model.device import Device
from fleetcore.model.firmware import Campaign, Execution
from fleetcore.model.mirror import (
    FACETS,
    CertificateBody,
    DeviceCertificate,
    EntityKey,
    Facet,
    GroupBody,
    JobBody,
    MirrorBody,
    RegistryBody,
    TwinBody,
)
from fleetcore.model.twin import Json, diff_patch
from fleetcore.wire.tls import der_of

#: The stored kind whose records are the entities of each facet; for certificates these include devices without any.
_KINDS: dict[Facet, str] = {
    "group": "group", "registry": "device", "certificate": "device", "twin": "twin", "job": "execution",
}  # fmt: skip

#: The attribute of a device that came from another fleet: the ids of the fleets that it came through.
VIA = "fleetcore_via"
#: A device that came through this many fleets is not mirrored further.
MAX_HOPS = 3


def _via(device: Device) -> tuple[str, ...]:
    value = device.attributes.get(VIA)
    return tuple(str(each) for each in value) if isinstance(value, list | tuple) else ()


def _job(execution: Execution, campaigns: Mapping[str, Campaign]) -> JobBody | None:
    campaign = campaigns.get(execution.campaign)
    if campaign is None or not may_be_offered(campaign, execution):
        return None
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


async def _none(_device: str) -> Sequence[CertificateRecord]:
    return ()


#: How many devices are read together.
_PAGE = 500


class Entities:
    """The fleet, as mirrors see it.

    Args:
        certificates: those that give a device access now; without it devices have none.
        mirror: the name of the mirror that reads it.
        located: whether positions are sent.
        selects: whether a device is mirrored; one that is not counts as missing. None: all are.
        fleet: the id of this fleet: devices that came through it are not sent again.
    """

    def __init__(
        self,
        storage: Storage,
        registry: Registry,
        twins: Twins,
        groups: Groups,
        campaigns: Campaigns,
        *,
        certificates: Callable[[str], Awaitable[Sequence[CertificateRecord]]] = _none,
        located: bool = False,
        selects: Callable[[str], Awaitable[bool]] | None = None,
        fleet: str = "",
        mirror: str = "",
    ) -> None:
        self._fleet, self._mirror = fleet, mirror
        self._storage, self._registry, self._twins = storage, registry, twins
        self._groups, self._campaigns, self._located, self._selects = groups, campaigns, located, selects
        self._certificates = certificates

    async def body(self, key: EntityKey) -> MirrorBody | None:
        """The current state of the entity; None where it does not exist (any more)."""
        return (await self.bodies([key])).get(key)

    async def bodies(self, keys: Sequence[EntityKey]) -> Mapping[EntityKey, MirrorBody]:
        """The current states of the entities, without those that do not exist (any more)."""
        devices = await self._devices({key.device for key in keys if key.device is not None})
        ids = {facet: [key.id for key in keys if key.facet == facet] for facet in FACETS}
        twins = await self._twins.get_many([each for each in ids["twin"] if each in devices])
        executions = await self._campaigns.executions.get_many(ids["job"])
        campaigns = await self._campaigns.records.get_many({each.campaign for each in executions.values()})
        found: dict[EntityKey, MirrorBody | None] = {}
        for key in keys:
            match key.facet:
                case "group":
                    found[key] = self._group(key.id)
                case "registry" if key.id in devices:
                    found[key] = await self._registered(devices[key.id])
                case "certificate" if key.id in devices:
                    found[key] = await self._certified(key.id)
                case "twin" if key.id in twins:
                    twin = twins[key.id]
                    reported = twin.reported.document
                    if devices[key.id].home != self._mirror:
                        # A device's report on one side must not appear on another: it would mean that the device has
                        # arrived.
                        reported = without_cutover(reported)
                    found[key] = TwinBody(desired=twin.desired.document, reported=reported)
                case "job" if key.device in devices and key.id in executions:
                    found[key] = _job(executions[key.id], campaigns)
        return {key: body for key, body in found.items() if body is not None}

    async def _devices(self, ids: Iterable[str]) -> Mapping[str, Device]:
        """Those of some devices that are mirrored."""
        found: dict[str, Device] = {}
        for device in (await self._registry.records.get_many(ids)).values():
            via = _via(device)
            if len(via) >= MAX_HOPS or self._fleet in via:
                continue
            if self._selects is None or await self._selects(device.id):
                found[device.id] = device
        return found

    async def _registered(self, device: Device) -> RegistryBody:
        return RegistryBody(
            type=device.type,
            lifecycle=str(device.lifecycle),
            model=device.model,
            name=device.name,
            tags=tuple(sorted(device.tags)),
            capabilities=tuple(sorted(device.capabilities)),
            attributes={name: value for name, value in device.attributes.items() if name != VIA},
            groups=tuple(self._groups.of(device.id)),
            gateway=device.gateway,
            location=await self._registry.locations.of(device.id) if self._located else None,
            via=_via(device),
        )

    async def _certified(self, device: str) -> CertificateBody | None:
        found = [
            DeviceCertificate(fingerprint=hashlib.sha256(der_of(record.pem.encode())).hexdigest(), pem=record.pem)
            for record in await self._certificates(device)
        ]
        return CertificateBody(certificates=tuple(sorted(found, key=lambda item: item.fingerprint))) if found else None

    async def at_hub(self, devices: Collection[str]) -> Collection[str]:
        """Those of some devices that are connected to the mirror's hub."""
        found = await self._registry.records.get_many(devices)
        return [each for each, device in found.items() if device.home == self._mirror]

    async def homed(self, after: str | None) -> tuple[Sequence[EntityKey], str | None]:
        """The twins of the next devices that are connected to the mirror's hub, and the start of the next page."""
        page = await self._registry.records.page(ref=("home", self._mirror), after=after, limit=_PAGE)
        return [EntityKey("twin", device.id) for device in page.items], page.after

    def _group(self, name: str) -> GroupBody | None:
        if not self._groups.has(name):
            return None
        group = self._groups.get(name)
        return GroupBody(description=group.description, query=group.query, within=tuple(sorted(group.within)))

    def taker(self, actor: str) -> Callable[[EntityKey, Json, Json], Awaitable[None]]:
        """:meth:`take` in the name of an actor."""
        return functools.partial(self.take, actor=actor)

    async def take(self, key: EntityKey, old: Json, new: Json, *, actor: str) -> None:
        """Changes the shared part of an entity (:mod:`.shared_state`) from one document to another.

        Raises:
            Refused: the fleet cannot have this content: it is too large, has an invalid name, or is the fleet's own.
        """
        reason = "it was changed at the hub"
        if key.facet == "twin":
            await self._twins.desire(key.id, diff_patch(old, new), actor=actor, reason=reason)
            return
        members: dict[str, Any] = {name: new.get(name) for name in ("name", "model") if old.get(name) != new.get(name)}
        if old.get("tags") != new.get("tags"):
            members["tags"] = sorted(cast("Json", new.get("tags", {})))
        before, after = (cast("Json", document.get("attributes", {})) for document in (old, new))
        patch = diff_patch(before, after) or None
        await self._registry.change(key.id, patch=patch, actor=actor, reason=reason, **members)

    async def page(self, facet: Facet, after: str | None, limit: int) -> tuple[Sequence[EntityKey], str | None]:
        """The next entities of a facet by key; all pages are a snapshot, while changes are enqueued separately."""
        found = await self._storage.find(_KINDS[facet], after=after, limit=limit)
        return [EntityKey(facet, record.key) for record in found.items], found.after
