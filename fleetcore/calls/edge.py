"""The edge: gateways, and the leaves that are connected through them."""

from typing import Annotated

from msgspec import Meta

from fleetcore.calls.caller import Caller, missing
from fleetcore.calls.devices import device_response
from fleetcore.calls.responses.devices import DeviceResponse
from fleetcore.calls.responses.edge import GatewayResponse
from fleetcore.calls.table import BY_CALL, call, on
from fleetcore.calls.types import Cursor, DeviceId, Json, Limit, Names, NewDeviceId, Page, Reason, Word
from fleetcore.fleet.edge import Gateway
from fleetcore.fleet.registry import GATEWAYS
from fleetcore.model.operator import Permission

GatewayId = Annotated[DeviceId, Meta(description="The gateway's id."), Names("list_gateways", "device")]
NewGatewayId = Annotated[NewDeviceId, Meta(description="The gateway's id, also of a registered device.")]
LeafId = Annotated[DeviceId, Meta(description="The leaf's id.")]
GatewayCapabilities = Annotated[Json, Meta(description="Its capabilities, by its own names."), Word("capability")]
MayRegister = Annotated[bool, Meta(description="Whether it may announce leaves that are not registered yet.")]


def _gateway(gateway: Gateway) -> GatewayResponse:
    return GatewayResponse(
        device=gateway.device.id, capabilities=dict(gateway.capabilities), may_register=gateway.may_register
    )


@call("GET /gateways", Permission.DEVICES_READ, scope=BY_CALL, cli="edge list")
async def list_gateways(caller: Caller, *, limit: Limit = 100, cursor: Cursor | None = None) -> Page[GatewayResponse]:
    """Lists the gateways by id."""
    edge = caller.fleet.edge
    return await caller.page(
        caller.fleet.devices.records,
        lambda device: device.id,
        lambda device: _gateway(edge.gateway(device)),
        cursor,
        limit,
        ref=GATEWAYS,
    )


@call("POST /gateways", Permission.DEVICES_WRITE, cli="edge register ID", status=201, location="/devices/{device}")
async def register_gateway(
    caller: Caller,
    id: NewGatewayId,
    capabilities: GatewayCapabilities | None = None,
    *,
    may_register: MayRegister = False,
    reason: Reason = "",
) -> GatewayResponse:
    """Registers a gateway, or makes a registered device a gateway."""
    made = await caller.fleet.edge.register_gateway(
        id, capabilities, may_register=may_register, actor=caller.actor, reason=reason
    )
    return _gateway(made)


@call(
    "GET /gateways/{gateway_id}/leaves", Permission.DEVICES_READ, scope=on("gateway_id"), cli="edge leaves GATEWAY_ID",
    columns=("id", "type", "lifecycle", "connectivity", "last_seen", "tags"),
)  # fmt: skip
async def list_leaves(
    caller: Caller, gateway_id: GatewayId, *, limit: Limit = 100, cursor: Cursor | None = None
) -> Page[DeviceResponse]:
    """Lists the leaves of a gateway, by id.

    Raises:
        NotFound: there is no such device.
    """
    return await caller.page(
        caller.fleet.devices.records,
        lambda leaf: leaf.id,
        lambda leaf: device_response(caller, leaf),
        cursor,
        limit,
        ref=("gateway", gateway_id),
    )


@call(
    "POST /gateways/{gateway_id}/leaves", Permission.DEVICES_WRITE, scope=on("gateway_id"),
    cli="edge attach GATEWAY_ID DEVICE",
)  # fmt: skip
async def attach_leaf(caller: Caller, gateway_id: GatewayId, device: LeafId, *, reason: Reason = "") -> DeviceResponse:
    """Attaches a registered device to a gateway as a leaf. Repeating it changes nothing.

    Raises:
        NotFound: there is no such gateway, or no such device.
    """
    await caller.device(device)
    return device_response(
        caller, await caller.fleet.edge.attach(gateway_id, device, actor=caller.actor, reason=reason)
    )


@call(
    "DELETE /gateways/{gateway_id}/leaves/{device_id}", Permission.DEVICES_WRITE, scope=on("gateway_id"),
    cli="edge detach GATEWAY_ID DEVICE_ID", status=204,
)  # fmt: skip
async def detach_leaf(caller: Caller, gateway_id: GatewayId, device_id: LeafId, *, reason: Reason = "") -> None:
    """Detaches a leaf from its gateway.

    Raises:
        NotFound: there is no such gateway, no such device, or it is not a leaf of the gateway.
    """
    await caller.device(device_id)
    if (await caller.fleet.devices.get(device_id)).gateway != gateway_id:
        raise missing("leaf", device_id)
    await caller.fleet.edge.detach(device_id, actor=caller.actor, reason=reason)
