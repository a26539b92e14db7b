"""Gateways and the leaves that they speak for."""

from litestar import Response, delete, get, post
from litestar.params import FromPath, JSONBody

from fleetcore.fleet.edge import Gateway
from fleetcore.fleet.registry import GATEWAYS
from fleetcore.model.operator import Permission
from fleetcore_api.access import missing
from fleetcore_api.models import DeviceOut, GatewayIn, GatewayOut, LeafIn
from fleetcore_api.pages import Cursor, Limit, Page
from fleetcore_api.parameters import Caller, Why
from fleetcore_api.routes.devices import show


def _show(gateway: Gateway) -> GatewayOut:
    return GatewayOut(
        device=gateway.device.id, capabilities=dict(gateway.capabilities), may_register=gateway.may_register
    )


@get("/gateways", permission=Permission.DEVICES_READ)
async def list_gateways(access: Caller, limit: Limit = 100, cursor: Cursor = None) -> Page[GatewayOut]:
    """Gateways by id."""
    edge = access.fleet.edge
    return await access.page(
        access.fleet.devices.records,
        lambda device: device.id,
        lambda device: _show(edge.gateway(device)),
        cursor,
        limit,
        ref=GATEWAYS,
    )


@post("/gateways", permission=Permission.DEVICES_WRITE, everywhere=True)
async def register_gateway(access: Caller, data: JSONBody[GatewayIn]) -> Response[GatewayOut]:
    """Registers a gateway, or makes a registered device one."""
    made = await access.fleet.edge.register_gateway(
        data.id, data.capabilities, may_register=data.may_register, actor=access.actor, reason=data.reason
    )
    return Response(_show(made), status_code=201, headers={"Location": f"/api/v1/devices/{made.device.id}"})


@get("/gateways/{gateway:str}/leaves", permission=Permission.DEVICES_READ)
async def list_leaves(
    access: Caller, gateway: FromPath[str], limit: Limit = 100, cursor: Cursor = None
) -> Page[DeviceOut]:
    """The devices that a gateway speaks for, by id."""
    await access.device(gateway)
    return await access.page(
        access.fleet.devices.records,
        lambda leaf: leaf.id,
        lambda leaf: show(access, leaf),
        cursor,
        limit,
        ref=("gateway", gateway),
    )


@post("/gateways/{gateway:str}/leaves", permission=Permission.DEVICES_WRITE, status_code=200)
async def attach_leaf(access: Caller, gateway: FromPath[str], data: JSONBody[LeafIn]) -> DeviceOut:
    """Makes a gateway speak for a registered device; again does nothing more."""
    await access.device(gateway, Permission.DEVICES_WRITE)
    leaf = await access.device(data.device, Permission.DEVICES_WRITE)
    return show(access, await access.fleet.edge.attach(gateway, leaf, actor=access.actor, reason=data.reason))


@delete("/gateways/{gateway:str}/leaves/{leaf:str}", permission=Permission.DEVICES_WRITE, status_code=204)
async def detach_leaf(access: Caller, gateway: FromPath[str], leaf: FromPath[str], reason: Why = "") -> None:
    """Nobody speaks for the leaf any more."""
    await access.device(gateway, Permission.DEVICES_WRITE)
    found = await access.fleet.devices.get(await access.device(leaf, Permission.DEVICES_WRITE))
    if found.gateway != gateway:
        raise missing("leaf", leaf)
    await access.fleet.edge.detach(leaf, actor=access.actor, reason=reason)


HANDLERS = [list_gateways, register_gateway, list_leaves, attach_leaf, detach_leaf]
