"""Edge computing: gateways and the leaf devices that are connected through them."""

from collections.abc import Mapping, Sequence

from attrs import field, frozen

from fleetcore.errors import Conflict, NotAuthorised, Refused
from fleetcore.fleet.registry import GATEWAY, GATEWAYS, Registry
from fleetcore.model.device import Device
from fleetcore.model.message import Handler, MessageType, Reply, Request
from fleetcore.model.store import place
from fleetcore.wire import messages

#: Leaves in one answer to a gateway.
_LISTED = 200


@frozen(kw_only=True)
class Gateway:
    """A gateway: its device record, its capabilities, and whether it may register leaves that were not announced."""

    device: Device
    capabilities: Mapping[str, object] = field(factory=dict)
    may_register: bool = False


def _gateway(device: Device) -> Gateway:
    section = device.attributes.get(GATEWAY)
    if not isinstance(section, Mapping):
        raise Refused(
            f"Device {device.id!r} is not a gateway",
            code="not_authorised",
            remedy="Register it with EdgeComputing.register_gateway",
        )
    capabilities = section.get("capabilities")
    return Gateway(
        device=device,
        capabilities=capabilities if isinstance(capabilities, Mapping) else {},
        may_register=section.get("may_register") is True,
    )


class EdgeComputing:
    """Registers gateways and attaches leaves; a leaf's messages come over its gateway's connection (wire.md §2)."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    @property
    def handlers(self) -> Mapping[MessageType, Handler]:
        """The handlers for gateways' messages about their leaves."""
        return {messages.LEAF_REGISTER: self._announced, messages.LEAF_LIST: self._listed}

    async def _announced(self, request: Request, body: messages.LeafBody) -> Reply:
        device = await self.register_leaf(request.identity, body.device, body.type or "leaf")
        return Reply(status=201, body={"device": device.id, "gateway": device.gateway})

    async def _listed(self, request: Request, body: messages.LeafListBody) -> Reply:
        after = None if body.after is None else place("", body.after)
        page = await self._registry.records.page(ref=("gateway", request.identity), after=after, limit=_LISTED)
        leaves = [
            {"device": leaf.id, "type": leaf.type, "lifecycle": leaf.lifecycle.value, "tags": sorted(leaf.tags)}
            | {name: value for name in ("model", "name") if (value := getattr(leaf, name)) is not None}
            for leaf in page.items
        ]
        return Reply(body={"leaves": leaves, "more": page.after is not None})

    async def register_gateway(
        self,
        gateway: str,
        capabilities: Mapping[str, object] | None = None,
        *,
        type: str = "gateway",
        may_register: bool = False,
        actor: str = "system",
        reason: str = "",
    ) -> Gateway:
        """Registers a device as a gateway, or makes a registered device one.

        Args:
            capabilities: cpu, memory, runtimes, labels; free-form.
            may_register: whether it may register unknown leaves by ``leaf.register``.
        """
        section = {"capabilities": dict(capabilities or {}), "may_register": may_register}
        known = await self._registry.find(gateway)
        if known is None:
            device = await self._registry.register(
                gateway, type, attributes={GATEWAY: section}, actor=actor, reason=reason
            )
        else:
            device = await self._registry.change(
                gateway, attributes={**known.attributes, GATEWAY: section}, actor=actor, reason=reason
            )
        return _gateway(device)

    async def gateways(self) -> list[Gateway]:
        """All gateways by id."""
        return [_gateway(device) for device in await self._registry.list(ref=GATEWAYS)]

    @staticmethod
    def gateway(device: Device) -> Gateway:
        """A device as a gateway; raises Refused where it is not one."""
        return _gateway(device)

    async def attach(self, gateway: str, leaf: str, *, actor: str = "system", reason: str = "") -> Device:
        """Attaches a registered leaf to the gateway; raises Conflict where it belongs to another one."""
        _gateway(await self._registry.get(gateway))
        device = await self._registry.get(leaf)
        if leaf == gateway or GATEWAY in device.attributes:
            raise Refused(f"{leaf!r} is a gateway itself", remedy="Gateways do not nest")
        if device.gateway not in (None, gateway):
            raise Conflict(
                f"{leaf!r} belongs to gateway {device.gateway!r}", remedy="Detach it there first", device=leaf
            )
        return await self._registry.change(leaf, gateway=gateway, actor=actor, reason=reason)

    async def detach(self, leaf: str, *, actor: str = "system", reason: str = "") -> Device:
        """Detaches the leaf from its gateway."""
        return await self._registry.change(leaf, gateway=None, actor=actor, reason=reason)

    async def leaves(self, gateway: str) -> Sequence[Device]:
        """The gateway's leaves."""
        return await self._registry.leaves(gateway)

    async def register_leaf(self, gateway: str, leaf: str, type: str = "leaf") -> Device:
        """Registers a leaf that a gateway announces. Announcing its own leaf again is not an error.

        Raises:
            NotAuthorised: the device may not register leaves, or is not a gateway.
            Conflict: the id belongs to a device that is not a leaf of this gateway.
        """
        known = await self._registry.find(leaf)
        if known is not None:
            if known.gateway == gateway:
                return known
            raise Conflict(f"{leaf!r} is registered already", device=leaf)
        device = await self._registry.get(gateway)
        section = device.attributes.get(GATEWAY)
        if not isinstance(section, Mapping) or section.get("may_register") is not True:
            raise NotAuthorised(
                f"{gateway!r} may not register leaves", remedy="Register the gateway with may_register", device=gateway
            )
        return await self._registry.register(
            leaf, type, gateway=gateway, actor=gateway, reason="announced by its gateway"
        )
