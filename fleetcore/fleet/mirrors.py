"""What a mirror sends: the present state of an entity, and which entities there are."""

import functools
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

from fleetcore.fleet.campaigns import Campaigns
from fleetcore.fleet.groups import Groups
from fleetcore.fleet.registry import Registry
from fleetcore.fleet.security.inventory import CertificateRecord
from fleetcore.fleet.twins import Twins
from fleetcore.interfaces.storage import Storage
from fleetcore.model.device import Device
from fleetcore.model.mirror import (
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

#: The stored kind whose records are the entities of each facet; a device without a certificate is one too many of them.
_KINDS: dict[Facet, str] = {
    "group": "group", "registry": "device", "certificate": "device", "twin": "twin", "job": "execution",
}  # fmt: skip

#: The attribute of a device that came from another fleet: the ids of the fleets that it came through.
VIA = "fleetcore_via"
#: A device that came through so many is mirrored no further.
MOST_HOPS = 3


def _via(device: Device) -> tuple[str, ...]:
    value = device.attributes.get(VIA)
    return tuple(str(each) for each in value) if isinstance(value, list | tuple) else ()


async def _none(_device: str) -> Sequence[CertificateRecord]:
    return ()


class Entities:
    """The fleet, as mirrors see it.

    Args:
        certificates: those with which a device gets in now; without it no device has one.
        located: whether a device's position is told.
        selects: whether a device is mirrored; one that is not is as if it were gone. None: all are.
        fleet: the id of this fleet: what came through it already is not sent again.
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
    ) -> None:
        self._fleet = fleet
        self._storage, self._registry, self._twins = storage, registry, twins
        self._groups, self._campaigns, self._located, self._selects = groups, campaigns, located, selects
        self._certificates = certificates

    async def body(self, key: EntityKey) -> MirrorBody | None:
        """The entity as it is now; None where there is none (any more)."""
        match key.facet:
            case "registry":
                return await self._registered(key.id)
            case "certificate":
                return await self._certified(key.id)
            case "twin":
                return await self._twin(key.id)
            case "group":
                return self._group(key.id)
            case "job":
                return await self._job(key.id)

    async def _device(self, device_id: str) -> Device | None:
        device = await self._registry.find(device_id)
        if device is None or (self._selects is not None and not await self._selects(device_id)):
            return None
        via = _via(device)
        return None if len(via) >= MOST_HOPS or self._fleet in via else device

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
            attributes={name: value for name, value in device.attributes.items() if name != VIA},
            groups=tuple(self._groups.of(device_id)),
            gateway=device.gateway,
            location=await self._registry.locations.of(device_id) if self._located else None,
            via=_via(device),
        )

    async def _certified(self, device: str) -> CertificateBody | None:
        records = () if await self._device(device) is None else await self._certificates(device)
        found = [
            DeviceCertificate(fingerprint=hashlib.sha256(der_of(record.pem.encode())).hexdigest(), pem=record.pem)
            for record in records
        ]
        return CertificateBody(certificates=tuple(sorted(found, key=lambda one: one.fingerprint))) if found else None

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

    def taker(self, actor: str) -> Callable[[EntityKey, Json, Json], Awaitable[None]]:
        """:meth:`take` in the name of an actor."""
        return functools.partial(self.take, actor=actor)

    async def take(self, key: EntityKey, old: Json, new: Json, *, actor: str) -> None:
        """Brings the shared part of an entity (:mod:`.shared_state`) from one document to another.

        Raises:
            Refused: the fleet does not have such a thing: it is too large, has a name that is none, or is its own.
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
        """The next entities of a facet by key; all together are a snapshot, beside which changes are marked."""
        found = await self._storage.find(_KINDS[facet], after=after, limit=limit)
        return [EntityKey(facet, record.key) for record in found.items], found.after
