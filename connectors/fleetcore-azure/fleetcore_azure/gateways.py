"""Gateways: a leaf is below the identity of its gateway, which is an IoT Edge device of the hub.

IoT Hub derives an edge's scope from its name and generation, so a gateway must exist before its leaves refer to it: a
leaf is below at most one edge, by its ``deviceScope``; an edge is below another one by its ``parentScopes``. A leaf
whose gateway is missing waits for a while; then it is created without a gateway, and drift shows it once the gateway
exists. The hub's users place devices too: fleetcore only changes a scope if the tags name a gateway.
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

#: The attribute that makes a device a gateway in the fleet, and the tag with a leaf's gateway.
GATEWAY = "gateway"
#: How long a leaf waits for its gateway, and the retry interval: a first synchronisation creates 100,000 devices.
_WAITS_S, _AGAIN_S = 600.0, 15.0


def is_gateway(body: RegistryBody) -> bool:
    """Whether a device is a gateway by its attribute; others are gateways if a leaf names them."""
    return GATEWAY in body.attributes


def is_ours(there: Held) -> bool:
    """Whether the fleet has placed a device, and may change its place."""
    return GATEWAY in there.own


class Gateways:
    """See the module. Methods raise HubFailed."""

    def __init__(self, clients: Clients, devices: Devices, identities: Identities) -> None:
        self._clients, self._devices, self._identities = clients, devices, identities
        #: The start of a leaf's wait.
        self._since_s: dict[str, float] = {}

    async def scope(self, gateway: str) -> str | None:
        """The scope of a gateway, which is made an edge if it belongs to this fleet; None if it does not exist."""
        there = await self._get(gateway)
        if there is not None and not there.edge and self._devices.owns(there):
            await self._identities.change(there, status=there.status, edge=True)
            there = await self._get(gateway)
        return None if there is None or not there.edge else there.scope

    async def scopes(self, gateways: Collection[str]) -> Mapping[str, str | HubFailed | None]:
        """The scopes of some gateways; a failure for an undetermined one."""

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
        """The place of a leaf. Raises HubFailed while it waits for its gateway, which has no ``scope`` yet."""
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
            "Azure IoT Hub: %s is below no gateway, because %r does not exist. Once it does: `fleetcore mirror apply`",
            leaf, gateway,
        )  # fmt: skip
        return None

    async def read(self, there: Held, body: RegistryBody) -> RegistryBody:
        """The body with the hub's placement of the device.

        An unplaced one keeps its gateway while that is missing: nothing can be done about it.
        """
        if not is_ours(there):
            return body
        if there.parent is not None:
            return evolve(body, gateway=self.device(there.parent))
        gateway = None if body.gateway is None else await self._get(body.gateway)
        could_be = gateway is not None and (gateway.edge or self._devices.owns(gateway))
        return evolve(body, gateway=None) if could_be else body

    def device(self, parent: str) -> str:
        """The fleet's device for a parent; the parent's own name if the fleet has none."""
        return self._devices.device(parent) or parent


def place(edge: bool, scope: str | None) -> Mapping[str, object]:
    """The members that place an identity below a scope, or nowhere."""
    parents = [] if scope is None else [scope]
    return {"parent_scopes": parents} if edge else {"device_scope": scope or "", "parent_scopes": parents}
