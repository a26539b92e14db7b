"""Devices: list, register, show, change, retire, erase, and their history."""

from typing import Annotated, Any

from litestar import Response, delete, get, patch, post
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from msgspec import UNSET, structs

from fleetcore.errors import NotFound, Refused
from fleetcore.model.device import Device, Lifecycle, Location
from fleetcore.model.operator import Permission
from fleetcore.query.parse import parse
from fleetcore_api.access import Access
from fleetcore_api.models import ChangeOut, DeviceIn, DeviceOut, DevicePatch, LocationOut, shown
from fleetcore_api.pages import Cursor, Limit, Page, decode, encode
from fleetcore_api.parameters import Caller, IfMatch, Why
from fleetcore_api.preconditions import etag, expected

Where = Annotated[str | None, QueryParameter(max_length=4096, description="A query of the fleet query grammar.")]


def show(access: Access, device: Device) -> DeviceOut:
    """A device as it is answered."""
    fleet = access.fleet
    return DeviceOut.of(device, fleet.presence.of(device.id), list(fleet.groups.of(device.id)))


def answer(access: Access, device: Device, status: int = 200, **headers: str) -> Response[DeviceOut]:
    """The same with its ETag."""
    return Response(show(access, device), status_code=status, headers={"ETag": etag(device.version), **headers})


@get("/devices", permission=Permission.DEVICES_READ)
async def list_devices(
    access: Caller, where: Where = None, limit: Limit = 100, cursor: Cursor = None
) -> Page[DeviceOut]:
    """Devices in the order of their ids, those that a query selects."""
    selectable = access.rights.selectable(Permission.DEVICES_READ)
    clause = None if where is None else parse(where)
    after = decode(cursor)
    if selectable.nothing:
        return Page(items=[], next=None)
    selected = await access.fleet.search.page(selectable.narrowed(clause), after=after, limit=limit)
    return Page(items=[show(access, device) for device in selected.devices], next=encode(selected.after))


@post("/devices", permission=Permission.DEVICES_WRITE, everywhere=True)
async def register_device(access: Caller, data: JSONBody[DeviceIn]) -> Response[DeviceOut]:
    """Registers a device. Only for who may register anywhere: a new device is in no scope yet."""
    members = structs.asdict(data)
    place = members.pop("location")
    location = None if place is None else Location(lat=place.lat, lon=place.lon)
    kept = await access.fleet.devices.register(
        members.pop("id"), members.pop("type"), location=location, actor=access.actor, **members
    )
    return answer(access, kept, 201, Location=f"/api/v1/devices/{kept.id}")


@get("/devices/{device_id:str}", permission=Permission.DEVICES_READ)
async def get_device(access: Caller, device_id: FromPath[str]) -> Response[DeviceOut]:
    """One device."""
    return answer(access, await access.fleet.devices.get(await access.device(device_id)))


@patch("/devices/{device_id:str}", permission=Permission.DEVICES_WRITE)
async def change_device(
    access: Caller, device_id: FromPath[str], data: JSONBody[DevicePatch], if_match: IfMatch = None
) -> Response[DeviceOut]:
    """Changes members, the lifecycle among them; retiring revokes the device's credentials."""
    await access.device(device_id, Permission.DEVICES_WRITE)
    version = expected(if_match)
    members: dict[str, Any] = {
        name: value for name, value in structs.asdict(data).items() if value is not UNSET and name != "reason"
    }
    to = members.pop("lifecycle", None)
    if (place := members.get("location")) is not None:
        members["location"] = Location(lat=place.lat, lon=place.lon)
    for name in ("tags", "capabilities"):
        if name in members:
            members[name] = tuple(members[name])
    if members and to is not None:
        raise Refused("The lifecycle is changed by itself", remedy="Send two requests")
    if to is None:
        device = await access.fleet.devices.change(
            device_id, if_version=version, actor=access.actor, reason=data.reason, **members
        )
    else:
        device = await access.fleet.lifecycles.move(
            device_id, to, if_version=version, actor=access.actor, reason=data.reason
        )
    return answer(access, device)


@delete("/devices/{device_id:str}", permission=Permission.DEVICES_WRITE, status_code=204)
async def retire_device(
    access: Caller,
    device_id: FromPath[str],
    purge: FromQuery[bool] = False,
    if_match: IfMatch = None,
    reason: Why = "",
) -> None:
    """Retires a device: its credentials end, its data stays. With ``purge`` the device and its data are erased."""
    await access.device(device_id, Permission.DEVICES_ERASE if purge else Permission.DEVICES_WRITE)
    version = expected(if_match)
    await access.fleet.lifecycles.move(
        device_id, Lifecycle.RETIRED, if_version=version, actor=access.actor, reason=reason
    )
    if purge:
        await access.fleet.erasing.erase(device_id, actor=access.actor, reason=reason)


@get("/devices/{device_id:str}/history", permission=Permission.DEVICES_READ)
async def device_history(
    access: Caller, device_id: FromPath[str], limit: Limit = 100, cursor: Cursor = None
) -> Page[ChangeOut]:
    """Who changed what of a device, when and why, the oldest first; values are not in it.

    Rows of events that the caller may not see are left out, so a page may be short and have a ``next``.
    """
    await access.device(device_id)
    rows = await access.fleet.audit.page(object=device_id, after=decode(cursor), limit=limit)
    items = [shown(ChangeOut, row) for row in await access.rows(rows.items)]
    return Page(items=items, next=encode(rows.after))


@get("/devices/{device_id:str}/location", permission=Permission.DEVICES_READ)
async def device_location(access: Caller, device_id: FromPath[str]) -> LocationOut:
    """The newest position of a device."""
    found = await access.fleet.location.of(await access.device(device_id))
    if found is None:
        raise NotFound(f"Device {device_id!r} has no position", device=device_id)
    return shown(LocationOut, found)


HANDLERS = [
    device_history,
    device_location,
    list_devices,
    register_device,
    get_device,
    change_device,
    retire_device,
]
