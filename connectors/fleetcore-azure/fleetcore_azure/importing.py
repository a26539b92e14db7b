"""Entities created by others at the hub, for an import: devices with their tags and twins, by pages of a query.

Edges come first, so that the gateways of others are in the fleet before their leaves.

A page contains whole twins, so an import costs one call per 100 devices. The lag of the query's index is harmless: a
device is only adopted if its twin is still as in the page, else it is marked as it is and read.
"""

from collections.abc import Sequence

from attrs import evolve

from fleetcore.interfaces.call_failed import CallFailed
from fleetcore.interfaces.cloud import MirrorItem, Unowned
from fleetcore.interfaces.facet_backend import ImportPart
from fleetcore.model.mirror import EntityKey
from fleetcore_azure.attributes import gathered
from fleetcore_azure.clients import Clients
from fleetcore_azure.held import Devices, Held, held, select
from fleetcore_azure.registry import version_of
from fleetcore_azure.twins import Twins

_ALL = "SELECT * FROM devices"
#: The prefix of a place among the edges; a place among the other devices has none.
_IS_EDGE = "capabilities.iotEdge = true"
_EDGES, _REST = "edges:", "rest:"


class Imports(ImportPart):
    """See the module. Its methods raise HubFailed, and are otherwise those of the interface."""

    def __init__(self, clients: Clients, devices: Devices, twins: Twins, prefix: str) -> None:
        self._clients, self._devices, self._twins, self._prefix = clients, devices, twins, prefix
        #: Those of the last page.
        self._listed: dict[str, Held] = {}

    async def unowned(self, after: str | None) -> tuple[Sequence[Unowned], str | None] | None:
        edges = after is None or after.startswith(_EDGES)
        place = (after or "").removeprefix(_EDGES).removeprefix(_REST) or None
        try:
            page, following = await self._clients.page(select(_IS_EDGE) if edges else _ALL, place)
        except CallFailed as failed:
            if failed.kind == "invalid" and place is not None:
                return None  # the continuation has expired
            raise
        self._listed = {there.name: there for there in map(held, page) if there.edge is edges}
        found = [self._device(there) for there in self._listed.values()]
        if following is not None:
            following = f"{_EDGES if edges else _REST}{following}"
        elif edges:
            following = _REST
        return [each for each in found if each is not None], following

    def _device(self, there: Held) -> Unowned | None:
        if self._devices.owns(there) or not there.name.startswith(self._prefix):
            return None
        device = self._devices.device(there.name)
        if device is None:
            return Unowned(name=there.name, key=None, reason=f"{there.name!r} cannot be a name in the fleet")
        key = EntityKey("registry", device)
        if there.owner is not None:
            return Unowned(name=there.name, key=key, reason=f"The fleet {there.owner!r} created it")
        if there.status != "enabled":
            # The fleet would enable it.
            return Unowned(name=there.name, key=key, reason="It is disabled at IoT Hub: enable or remove it there")
        self._devices.told(there)
        body = gathered(there.tags)
        if there.parent is not None:
            body = evolve(body, gateway=self._devices.device(there.parent))
        item = MirrorItem(key=key, body=body, remote_version=version_of(there))
        return Unowned(name=there.name, key=key, held=item)

    async def read(self, found: Unowned) -> Sequence[MirrorItem]:
        """The states of one."""
        if found.held is None:
            return ()
        there = self._listed.get(found.name) or await self._devices.get(found.name)
        if there is None:
            return ()
        return found.held, self._twins.unowned(EntityKey("twin", found.held.key.id), there)
