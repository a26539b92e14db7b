"""What others have made at the hub, for an import: devices with their tags and twins, by pages of a query.

A page tells whole twins, so an import costs one call for 100 devices. That the query's index lags does no harm: a
device is taken over only where its twin is still as the page said, else it is marked as it is and read.
"""

from collections.abc import Sequence

from fleetcore.interfaces.call_failed import CallFailed
from fleetcore.interfaces.cloud import MirrorItem, Unowned
from fleetcore.model.mirror import EntityKey
from fleetcore_azure.attributes import gathered
from fleetcore_azure.clients import Clients
from fleetcore_azure.held import Devices, Held, held
from fleetcore_azure.registry import version_of
from fleetcore_azure.twins import Twins

_ALL = "SELECT * FROM devices"


class Imports:
    """See the module. Its methods raise HubFailed, and are else as the interface has them."""

    def __init__(self, clients: Clients, devices: Devices, twins: Twins, prefix: str) -> None:
        self._clients, self._devices, self._twins, self._prefix = clients, devices, twins, prefix
        #: Of the last page.
        self._listed: dict[str, Held] = {}

    async def unowned(self, after: str | None) -> tuple[Sequence[Unowned], str | None] | None:
        try:
            page, following = await self._clients.page(_ALL, after)
        except CallFailed as failed:
            if failed.kind == "invalid" and after is not None:
                return None  # the continuation has expired
            raise
        self._listed = {there.name: there for there in map(held, page)}
        found = [self._device(there) for there in self._listed.values()]
        return [each for each in found if each is not None], following

    def _device(self, there: Held) -> Unowned | None:
        if self._devices.owns(there) or not there.name.startswith(self._prefix):
            return None
        device = self._devices.device(there.name)
        if device is None:
            return Unowned(name=there.name, key=None, reason=f"{there.name!r} does not stand for a name of the fleet")
        key = EntityKey("registry", device)
        if there.owner is not None:
            return Unowned(name=there.name, key=key, reason=f"The fleet {there.owner!r} has made it")
        if there.status != "enabled":
            # It would be enabled as the fleet's.
            return Unowned(name=there.name, key=key, reason="It is disabled at IoT Hub: enable or remove it there")
        self._devices.told(there)
        item = MirrorItem(key=key, body=gathered(there.tags), remote_version=version_of(there))
        return Unowned(name=there.name, key=key, held=item)

    async def read(self, found: Unowned) -> Sequence[MirrorItem]:
        """The states of one."""
        if found.held is None:
            return ()
        there = self._listed.get(found.name) or await self._devices.get(found.name)
        if there is None:
            return ()
        return found.held, self._twins.unowned(EntityKey("twin", found.held.key.id), there)
