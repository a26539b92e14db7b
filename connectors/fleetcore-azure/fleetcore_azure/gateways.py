"""Gateways: a leaf stands below the identity of its gateway, which is an IoT Edge device of the hub.

IoT Hub tells an edge's scope from its name and generation, so a gateway must be there before its leaves name it: a leaf
is below at most one edge, by its ``deviceScope``; an edge is below another one by its ``parentScopes``. A leaf whose
gateway is not there waits for it, not for ever: then it is made by itself, and drift shows it once the gateway is
there. The hub's users place devices too: a scope is ours to change where the tags name a gateway.
"""

import asyncio
import logging
from collections.abc import Collection, Mapping

from attrs import evolve

from fleetcore.model.mirror import RegistryBody
from fleetcore_azure.clients import Clients
from fleetcore_azure.failures import HubFailed
from fleetcore_azure.held import Devices, Held
from fleetcore_azure.identities import Identities

_log = logging.getLogger(__name__)

#: The attribute that makes a device a gateway in the fleet, and the tag that names a leaf's.
GATEWAY = "gateway"
#: How long a leaf waits for its gateway, and how often it is tried: a first synchronisation makes 100,000 devices.
_WAITS_S, _AGAIN_S = 600.0, 15.0


def is_gateway(body: RegistryBody) -> bool:
    """Whether a device is a gateway by itself; another one is where a leaf names it."""
    return GATEWAY in body.attributes


def is_ours(there: Held) -> bool:
    """Whether the fleet has placed a device, so that its place is the fleet's to change."""
    return GATEWAY in there.own


class Gateways:
    """See the module. Methods raise HubFailed."""

    def __init__(self, clients: Clients, devices: Devices, identities: Identities) -> None:
        self._clients, self._devices, self._identities = clients, devices, identities
        #: Since when a leaf has been waiting.
        self._since_s: dict[str, float] = {}

    async def scope(self, gateway: str) -> str | None:
        """The scope of a gateway, which is made an edge where it is this fleet's; None where there is none."""
        there = await self._get(gateway)
        if there is not None and not there.edge and self._devices.owns(there):
            await self._identities.change(there, status=there.status, edge=True)
            there = await self._get(gateway)
        return None if there is None or not there.edge else there.scope

    async def scopes(self, gateways: Collection[str]) -> Mapping[str, str | HubFailed | None]:
        """The scopes of some; a failure where one cannot be told."""

        async def of(gateway: str) -> str | HubFailed | None:
            try:
                return await self.scope(gateway)
            except HubFailed as failed:
                return failed

        return dict(zip(gateways, await asyncio.gather(*map(of, gateways)), strict=True))

    async def _get(self, gateway: str) -> Held | None:
        name = self._devices.name(gateway)
        return None if name is None else await self._devices.get(name)

    def placed(self, leaf: str, gateway: str, scope: str | HubFailed | None) -> str | None:
        """Where a leaf comes. Raises HubFailed while it waits for its gateway, which has no ``scope`` yet."""
        if isinstance(scope, HubFailed):
            raise scope
        if scope is not None:
            self._since_s.pop(leaf, None)
            return scope
        now_s = self._clients.clock.monotonic_s()
        if now_s - self._since_s.setdefault(leaf, now_s) < _WAITS_S:
            said = f"Its gateway {gateway!r} is not at IoT Hub yet"
            raise HubFailed("devices/bulk", "missing", said, retry_after_s=_AGAIN_S)
        _log.warning(
            "Azure IoT Hub: %s stands below no gateway, for %r is not there. Once it is: `fleetcore mirror apply`",
            leaf, gateway,
        )  # fmt: skip
        return None

    async def read(self, there: Held, body: RegistryBody) -> RegistryBody:
        """The body as the hub has placed the device.

        One that stands nowhere has its gateway all the same while that is not there: nothing could be done about it.
        """
        if not is_ours(there):
            return body
        if there.parent is not None:
            return evolve(body, gateway=self.device(there.parent))
        gateway = None if body.gateway is None else await self._get(body.gateway)
        could_be = gateway is not None and (gateway.edge or self._devices.owns(gateway))
        return evolve(body, gateway=None) if could_be else body

    def device(self, parent: str) -> str:
        """Which device of the fleet a parent stands for; its own name where for none."""
        return self._devices.device(parent) or parent


def place(edge: bool, scope: str | None) -> Mapping[str, object]:
    """What places an identity below a scope, or nowhere."""
    parents = [] if scope is None else [scope]
    return {"parent_scopes": parents} if edge else {"device_scope": scope or "", "parent_scopes": parents}
