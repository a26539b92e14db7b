"""Devices as identities with tags: created and removed 100 per call, changed one by one under the twin's ETag.

One operation creates a device with its tags, so it has its mark from the first moment. The version of its state is a
digest of that state: bulk operations return no ETags, and all facets of a device share the twin's.
"""

import json
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Any

from attrs import evolve, frozen

from fleetcore.interfaces.call_failed import CallFailed
from fleetcore.interfaces.cloud import CloudUse, Fitted, MirrorItem, MirrorResult
from fleetcore.model.mirror import EntityKey, Loss, RegistryBody
from fleetcore.model.patch import Document, same
from fleetcore_azure.attributes import fit, gathered, lay_out, registration_of, status_of
from fleetcore_azure.clients import Clients
from fleetcore_azure.failures import HubFailed, of_device
from fleetcore_azure.gateways import GATEWAY, Gateways, is_gateway, is_ours, place
from fleetcore_azure.held import FOREIGN, OWN, TOO_LONG, TRIES, Devices, Held, section
from fleetcore_azure.identities import Identities
from fleetcore_azure.names import digest
from fleetcore_azure.sdk import models

_BULK = "devices/bulk"


class Registry:
    """See the module."""

    def __init__(self, clients: Clients, devices: Devices, identities: Identities) -> None:
        self._clients, self._devices, self._identities = clients, devices, identities
        self._gateways = Gateways(clients, devices, identities)
        self.use = CloudUse()

    # -- pure -------------------------------------------------------------------------------------------------------

    def fit(self, item: MirrorItem, body: RegistryBody) -> Fitted:
        """As in the interface."""
        if self._devices.name(item.key.id) is None:
            return Fitted(item=None, lost=(Loss("", TOO_LONG),))
        fitted, lost = fit(body, self._devices.mark)
        if fitted is None:
            return Fitted(item=None, lost=lost)
        return Fitted(item=item if fitted == body else evolve(item, body=fitted), lost=lost)

    # -- calls ------------------------------------------------------------------------------------------------------

    async def make(self, items: Sequence[MirrorItem]) -> Sequence[MirrorResult | HubFailed | None]:
        """Creates new devices, at most 100, in one call, and gateways in another before their leaves.

        None for those whose creation is uncertain.
        """
        found: dict[int, MirrorResult | HubFailed | None] = {}
        gateways = {_registered(item).gateway for item in items}
        left = list(range(len(items)))
        while left:
            waiting = {items[at].key.id for at in left}
            # A cycle, which the fleet does not have, is tried as it is.
            now = [at for at in left if _registered(items[at]).gateway not in waiting] or left
            left = [at for at in left if at not in now]
            made = await self._make([items[at] for at in now], gateways)
            found |= zip(now, made, strict=True)
        return [found[at] for at in range(len(items))]

    async def _make(
        self, items: Sequence[MirrorItem], gateways: Collection[str | None]
    ) -> Sequence[MirrorResult | HubFailed | None]:
        named = {gateway for item in items if (gateway := _registered(item).gateway) is not None}
        scopes = await self._gateways.scopes(named)
        found: dict[str, MirrorResult | HubFailed | None] = {}
        wanted: dict[str, _Wanted] = {}
        for item in items:
            name, body = self._devices.name(item.key.id), _registered(item)
            assert name is not None, "it was fitted"
            edge, scope = is_gateway(body) or item.key.id in gateways, None
            try:
                if body.gateway is not None:
                    scope = self._gateways.placed(name, body.gateway, scopes[body.gateway])
            except HubFailed as waits:
                found[item.key.id] = waits
            else:
                wanted[item.key.id] = _Wanted(name=name, body=body, edge=edge, scope=scope)
        errors = await self._bulk([self._new(item) for item in wanted.values()]) if wanted else {}
        for device, entry in wanted.items():
            error = None if errors is None else errors.get(entry.name)
            if errors is None or (error is not None and error.kind == "exists"):
                found[device] = None
            elif error is None:
                found[device] = MirrorResult(state="done", remote_version=self._version_made(entry))
            elif error.kind == "invalid" and entry.scope is not None and await self._has_moved(entry):
                found[device] = HubFailed(_BULK, "missing", error.said)
            else:
                found[device] = error
        return [found[item.key.id] for item in items]

    def _new(self, wanted: "_Wanted") -> Any:
        return models.ExportImportDevice(
            id=wanted.name,
            import_mode="create",
            status=status_of(wanted.body),
            tags=lay_out(wanted.body, self._devices.mark),
            capabilities=models.DeviceCapabilities(iot_edge=True) if wanted.edge else None,
            **({} if wanted.scope is None else place(wanted.edge, wanted.scope)),
        )

    def _version_made(self, wanted: "_Wanted") -> str:
        gateway = wanted.body.gateway
        parent = None if gateway is None or wanted.scope is None else self._devices.name(gateway)
        return _version(lay_out(wanted.body, self._devices.mark), status_of(wanted.body), parent)

    async def _has_moved(self, wanted: "_Wanted") -> bool:
        """Whether the gateway has another scope by now: it was removed, or created again."""
        return wanted.body.gateway is None or await self._gateways.scope(wanted.body.gateway) != wanted.scope

    async def _bulk(self, devices: Sequence[Any]) -> Mapping[str, HubFailed] | None:
        """Executes bulk operations; the failures by device, or None if the answer does not contain them.

        The SDK returns HTTP 400 as an answer without members instead of raising.
        """

        def work(service: Any) -> tuple[int, Any, str]:
            answer = service.bulk_registry.update_registry(list(devices), raw=True)
            return answer.response.status_code, answer.output, answer.response.text

        status, said, text = await self._clients.call(_BULK, work)
        if said is None or said.is_successful is None:
            if status == 400:
                raise HubFailed(_BULK, "invalid", text[:300])
            raise HubFailed(_BULK, "unavailable", "the answer does not contain the outcome", lost=True)
        if said.is_successful:
            return {}
        errors = {
            str(each.device_id): of_device(_BULK, str(each.error_code or ""), str(each.error_status or ""))
            for each in said.errors or ()
        }
        return errors or None

    async def apply(self, item: MirrorItem, body: RegistryBody) -> MirrorResult:
        """Changes one that may exist. Raises HubFailed."""
        name = self._devices.name(item.key.id)
        if name is None:
            return MirrorResult(state="invalid", reason=TOO_LONG)
        for last in range(TRIES):
            there = await self._devices.to_write(name, adopts=item.adopts)
            if there is None:
                return MirrorResult(state="conflict", reason="The device was deleted")
            adopts = item.adopts and there.owner is None
            if not self._devices.owns(there) and not adopts:
                return MirrorResult(state="foreign", reason=FOREIGN)
            tags, status = lay_out(body, self._devices.mark), status_of(body)
            at_version = item.remote_version == version_of(there)
            same_tags = same(registration_of(there.tags), tags)
            if not at_version and not adopts and not same_tags:
                return MirrorResult(state="conflict")
            above = None
            if body.gateway is not None:
                above = self._gateways.placed(name, body.gateway, await self._gateways.scope(body.gateway))
            placed = (body.gateway is not None or is_ours(there)) and above != there.above
            edge = is_gateway(body) and not there.edge
            if same_tags and there.status == status and not placed and not edge:
                return MirrorResult(state="done", remote_version=_version(tags, status, there.parent))
            if not at_version and not adopts:
                return MirrorResult(state="conflict")
            try:
                if not at_version:
                    await self._devices.patch(there.name, there.etag, {OWN: {"fleet": self._devices.mark}}, {})
                    return MirrorResult(state="conflict", reason="It has changed since its import")
                if there.status != status or placed or edge:
                    to = place(edge or there.edge, above) if placed else None
                    await self._identities.change(there, status=status, edge=edge, place=to)
                    there = await self._devices.get(name) or there
                written = await self._devices.write(there, self._with_rest(tags, there), there.desired)
                if adopts:
                    self._devices.told(written)  # its twin is adopted next
            except CallFailed as failed:
                if failed.kind != "conflict" or last == TRIES - 1:
                    raise
                continue  # another facet of the device, or another writer: it is read again
            return MirrorResult(state="done", remote_version=_version(tags, status, there.parent))
        raise AssertionError("the last try raises")

    @staticmethod
    def _with_rest(tags: Mapping[str, object], there: Held) -> Document:
        """The tags with members of other facets beside the registration."""
        mine = section(registration_of(there.tags), OWN)
        rest = {key: value for key, value in there.own.items() if key not in mine}
        return {**tags, OWN: {**rest, **section(tags, OWN)}}

    async def to_remove(self, item: MirrorItem) -> Held | MirrorResult:
        """The removal for an item, or its outcome without one. Raises HubFailed."""
        name = self._devices.name(item.key.id)
        there = None if name is None else await self._devices.get(name)
        if there is None:
            return MirrorResult(state="done")
        if not self._devices.owns(there):
            return MirrorResult(state="foreign", reason=FOREIGN)
        if item.remote_version != version_of(there):
            return MirrorResult(state="conflict")
        return there

    async def remove(self, going: Sequence[Held]) -> Sequence[MirrorResult | HubFailed]:
        """Removes devices in their read state, at most 100, in one call."""
        errors = await self._bulk(
            [
                models.ExportImportDevice(id=each.name, import_mode="deleteIfMatchETag", e_tag=each.device_etag)
                for each in going
            ]
        )
        if errors is None:
            errors = {
                each.name: HubFailed(_BULK, "unavailable", "the answer does not contain the outcome") for each in going
            }
        found: list[MirrorResult | HubFailed] = []
        for each in going:
            failed = errors.get(each.name)
            found.append(MirrorResult(state="done") if failed is None or failed.kind == "missing" else failed)
        return found

    async def read(self, key: EntityKey) -> MirrorItem | None:
        """As in the interface, for one key; raises HubFailed."""
        name = self._devices.name(key.id)
        there = None if name is None else await self._devices.get(name)
        if there is None or not self._devices.owns(there):
            return None
        body = await self._gateways.read(there, gathered(there.tags))
        return MirrorItem(key=key, body=body, remote_version=version_of(there))

    async def entities(self) -> AsyncIterator[EntityKey]:
        """As in the interface; raises HubFailed."""
        async for there in self._devices.ours():
            device = self._devices.device(there.name)
            if device is not None:
                yield EntityKey("registry", device)


@frozen(kw_only=True)
class _Wanted:
    """A device to be created; ``scope`` is its gateway's."""

    name: str
    body: RegistryBody
    edge: bool
    scope: str | None


def _registered(item: MirrorItem) -> RegistryBody:
    assert isinstance(item.body, RegistryBody)
    return item.body


def version_of(there: Held) -> str:
    """The version of a device's registration."""
    return _version(registration_of(there.tags), there.status, there.parent)


def _version(registration: Document, status: str, parent: str | None) -> str:
    """For a device that the fleet has placed, its place is part of it."""
    placed = [parent] if GATEWAY in section(registration, OWN) else []
    return digest(json.dumps([registration, status, *placed], sort_keys=True))
