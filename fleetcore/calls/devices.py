"""Devices: registering, changing, provisioning, retiring and erasing them; their positions and their history."""

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from fleetcore.calls.caller import Caller, missing
from fleetcore.calls.cursors import decode, encode
from fleetcore.calls.responses.devices import (
    ChangeResponse,
    DeviceCountResponse,
    DeviceResponse,
    ExplanationResponse,
    PositionResponse,
    ProvisionedResponse,
)
from fleetcore.calls.table import BY_CALL, call, on
from fleetcore.calls.types import (
    UNSET,
    Cursor,
    DeviceId,
    IfVersion,
    In,
    Json,
    Label,
    Limit,
    NewDeviceId,
    Page,
    Reason,
    UnsetType,
    Where,
    Word,
    present,
    to_response,
)
from fleetcore.errors import NotFound
from fleetcore.model.device import Device, Lifecycle, Location
from fleetcore.model.operator import Permission
from fleetcore.query.ast import And, Clause, Compare, Has
from fleetcore.query.fitting import parse_new

Name = Annotated[str, Meta(max_length=1024, description="A name for people.")]
Type = Annotated[Label, Meta(description="The kind of device.")]
Model = Annotated[Label, Meta(description="The maker's name for it.")]
Tags = Annotated[Sequence[Label], Meta(max_length=100, description="Words to select it by."), Word("tag")]
Capabilities = Annotated[Sequence[Label], Meta(max_length=100, description="What it can do."), Word("capability")]
Attributes = Annotated[Json, Meta(description="Facts about it, under names of your choice."), Word("attribute")]
Gateway = Annotated[DeviceId, Meta(description="The gateway that it is connected through.")]
Home = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$(?!\n)", description="A mirror, as in `[clouds.NAME]`.")]
KeyId = Annotated[
    str,
    Meta(
        pattern="^[0-9a-f]{64}$",
        description="SHA-256 (hex) of the public key that may enrol without a token.",
    ),
]
TypeName = Annotated[Label, Meta(description="Only devices of this type.")]
TagName = Annotated[Label, Meta(description="Only devices with this tag.")]
State = Annotated[Lifecycle, Meta(description="The new state.")]
Configuration = Annotated[Json, Meta(description="The desired state, a merge patch (RFC 7396)."), In("body")]


class Position(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """WGS 84 degrees."""

    lat: Annotated[float, Meta(ge=-90, le=90)]
    lon: Annotated[float, Meta(ge=-180, le=180)]


Place = Annotated[Position, Meta(description="Its position: WGS 84 degrees, `lat` and `lon`.")]


def device_response(caller: Caller, device: Device) -> DeviceResponse:
    """A device as an answer."""
    fleet = caller.fleet
    presence = fleet.presence.of(device.id)
    return to_response(
        DeviceResponse,
        device,
        connectivity=presence.connectivity,
        last_seen=presence.last_seen,
        asleep_until=presence.asleep_until,
        groups=list(fleet.groups.of(device.id)),
    )


@call(
    "GET /devices", Permission.DEVICES_READ, scope=BY_CALL, cli="device list",
    columns=("id", "type", "lifecycle", "connectivity", "last_seen", "tags"),
)  # fmt: skip
async def list_devices(
    caller: Caller,
    *,
    type: TypeName | None = None,
    tag: TagName | None = None,
    where: Where | None = None,
    limit: Limit = 100,
    cursor: Cursor | None = None,
) -> Page[DeviceResponse]:
    """Lists devices in the order of their ids: of a type, with a tag, or selected by a query.

    A page may be short and have a ``next`` when a query selects few of many.

    Raises:
        QuerySyntaxError: the query cannot be read.
    """
    wanted: list[Clause] = [] if type is None else [Compare(("type",), "=", type)]
    wanted += [] if tag is None else [Has(("tags",), tag)]
    wanted += [] if where is None else [parse_new(where)]
    after = decode(cursor)
    clause = And(tuple(wanted)) if len(wanted) > 1 else next(iter(wanted), None)
    found = await caller.fleet.search.page(caller.narrowed(clause), after=after, limit=limit)
    return Page([device_response(caller, device) for device in found.devices], encode(found.after))


@call(
    "POST /queries", Permission.DEVICES_READ, scope=BY_CALL, no_cli="`fleetcore device list --where` asks the same",
)  # fmt: skip
async def query_devices(
    caller: Caller, where: Where, *, limit: Limit = 100, cursor: Cursor | None = None
) -> Page[DeviceResponse]:
    """Lists the devices that a query selects, by id: for a query that is too long for a URL.

    Raises:
        QuerySyntaxError: the query cannot be read.
    """
    return await list_devices(caller, where=where, limit=limit, cursor=cursor)


@call("POST /queries", Permission.DEVICES_READ, scope=BY_CALL, cli="device count", selected_by="count")
async def count_devices(caller: Caller, where: Where | None = None) -> DeviceCountResponse:
    """Counts the devices, or those that a query selects.

    Raises:
        QuerySyntaxError: the query cannot be read.
    """
    clause = caller.narrowed(None if where is None else parse_new(where))
    return DeviceCountResponse(count=await caller.fleet.search.count(clause))


@call(
    "POST /devices/{device_id}/explain", Permission.DEVICES_READ, scope=on("device_id"),
    cli="device why DEVICE_ID WHERE",
)  # fmt: skip
async def explain_query(caller: Caller, device_id: DeviceId, where: Where) -> ExplanationResponse:
    """Shows whether a query selects a device, which clause decided (→), and the values that each clause saw.

    Raises:
        NotFound: there is no such device.
        QuerySyntaxError: the query cannot be read.
    """
    found = await caller.fleet.search.explain(parse_new(where), device_id)
    return ExplanationResponse(device=device_id, selected=found.truth is True, why=found.lines())


@call("POST /devices", Permission.DEVICES_WRITE, cli="device register ID", status=201)
async def create_device(
    caller: Caller,
    id: NewDeviceId,
    type: Type = "device",
    *,
    model: Model | None = None,
    name: Name | None = None,
    tags: Tags = (),
    capabilities: Capabilities = (),
    attributes: Attributes | None = None,
    location: Place | None = None,
    gateway: Gateway | None = None,
    key_id: KeyId | None = None,
    reason: Reason = "",
) -> DeviceResponse:
    """Registers a device.

    This needs the permission for the whole fleet: a new device is not in any scope yet.

    Raises:
        Conflict: a device of that id exists.
        NotFound: the gateway is not registered.
    """
    made = await caller.fleet.devices.register(
        id, type, model=model, name=name, tags=tags, capabilities=capabilities, attributes=attributes,
        location=None if location is None else Location(lat=location.lat, lon=location.lon),
        gateway=gateway, key_id=key_id, actor=caller.actor, reason=reason,
    )  # fmt: skip
    return device_response(caller, made)


@call("GET /devices/{device_id}", Permission.DEVICES_READ, scope=on("device_id"), cli="device show DEVICE_ID")
async def get_device(caller: Caller, device_id: DeviceId) -> DeviceResponse:
    """Shows a device with its connectivity.

    Raises:
        NotFound: there is no such device.
    """
    return device_response(caller, caller.subject or await caller.fleet.devices.get(device_id))


@call(
    "PATCH /devices/{device_id}", Permission.DEVICES_WRITE, scope=on("device_id"), cli="device set DEVICE_ID NAME=VALUE"
)
async def update_device(
    caller: Caller,
    device_id: DeviceId,
    *,
    model: Model | UnsetType | None = UNSET,
    name: Name | UnsetType | None = UNSET,
    tags: Tags | UnsetType = UNSET,
    capabilities: Capabilities | UnsetType = UNSET,
    attributes: Attributes | UnsetType = UNSET,
    location: Place | UnsetType | None = UNSET,
    gateway: Gateway | UnsetType | None = UNSET,
    key_id: KeyId | UnsetType | None = UNSET,
    home: Home | UnsetType | None = UNSET,
    if_version: IfVersion | None = None,
    reason: Reason = "",
) -> DeviceResponse:
    """Changes a device's registered data; members that are not given stay, None clears. ``attributes`` are merged.

    ``home`` is the mirror to whose hub the device is connected: it reports there, and gets its commands there.

    Raises:
        NotFound: there is no such device, no such gateway, or no such mirror.
        VersionConflict: the device is not at ``if_version``.
    """
    if isinstance(home, str) and home not in caller.fleet.mirrors:
        there = ", ".join(sorted(caller.fleet.mirrors)) or "none"
        raise NotFound(f"There is no mirror {home!r}", remedy=f"The mirrors of this fleet: {there}", mirror=home)
    members: dict[str, Any] = present(
        model=model, name=name, tags=tags, capabilities=capabilities, location=location, gateway=gateway,
        key_id=key_id, home=home, patch=attributes,
    )  # fmt: skip
    for word in members.keys() & {"tags", "capabilities"}:
        members[word] = tuple(members[word])
    if isinstance(location, Position):
        members["location"] = Location(lat=location.lat, lon=location.lon)
    changed = await caller.fleet.devices.change(
        device_id, if_version=if_version, actor=caller.actor, reason=reason, **members
    )
    return device_response(caller, changed)


@call(
    "POST /devices/{device_id}/lifecycle", Permission.DEVICES_WRITE, scope=on("device_id"),
    cli="device move DEVICE_ID STATE",
    also={
        "device suspend DEVICE_ID": {"state": "suspended"},
        "device quarantine DEVICE_ID": {"state": "quarantined"},
        "device activate DEVICE_ID": {"state": "active"},
        "device retire DEVICE_ID": {"state": "retired"},
    },
    confirm="Retires {device_id} for good: its credentials are revoked and its sessions end.",
    confirm_when={"state": "retired"},
)  # fmt: skip
async def set_lifecycle(
    caller: Caller, device_id: DeviceId, state: State, *, if_version: IfVersion | None = None, reason: Reason = ""
) -> DeviceResponse:
    """Suspends, quarantines, activates or retires a device.

    A suspended device is refused. Readings of a quarantined device are stored and flagged, and it gets no commands and
    no firmware. Retiring is permanent: the device's credentials are revoked and its sessions end.

    Raises:
        NotFound: there is no such device.
        IllegalTransition: the lifecycle has no such transition from its state.
        VersionConflict: the device is not at ``if_version``.
    """
    moved = await caller.fleet.lifecycles.move(
        device_id, state, if_version=if_version, actor=caller.actor, reason=reason
    )
    return device_response(caller, moved)


@call(
    "DELETE /devices/{device_id}", Permission.DEVICES_WRITE, scope=on("device_id"), status=204,
    no_cli="`device retire` moves it to retired",
)  # fmt: skip
async def retire_device(
    caller: Caller, device_id: DeviceId, *, if_version: IfVersion | None = None, reason: Reason = ""
) -> None:
    """Retires a device: its credentials are revoked, its data stays.

    Raises:
        NotFound: there is no such device.
        VersionConflict: the device is not at ``if_version``.
    """
    await caller.fleet.lifecycles.move(
        device_id, Lifecycle.RETIRED, if_version=if_version, actor=caller.actor, reason=reason
    )


@call(
    "DELETE /devices/{device_id}", Permission.DEVICES_ERASE, scope=on("device_id"), selected_by="purge", status=204,
    cli="device erase DEVICE_ID",
    confirm="Retires {device_id} and erases it with its readings and its state, for good.",
)  # fmt: skip
async def erase_device(
    caller: Caller, device_id: DeviceId, *, if_version: IfVersion | None = None, reason: Reason = ""
) -> None:
    """Retires a device and erases it with its readings and its state, for good; the audit log stays.

    Raises:
        NotFound: there is no such device.
        VersionConflict: the device is not at ``if_version``.
    """
    await caller.fleet.lifecycles.move(
        device_id, Lifecycle.RETIRED, if_version=if_version, actor=caller.actor, reason=reason
    )
    await caller.fleet.erasing.erase(device_id, actor=caller.actor, reason=reason)


@call(
    "POST /devices/{device_id}/provision", Permission.TWINS_WRITE, scope=on("device_id"),
    needs_too=[Permission.DEVICES_WRITE], cli="device provision DEVICE_ID CONFIGURATION",
)  # fmt: skip
async def provision_device(
    caller: Caller, device_id: DeviceId, configuration: Configuration, *, reason: Reason = ""
) -> ProvisionedResponse:
    """Writes the desired configuration and moves a registered device to provisioned; issues no credential.

    The same configuration again changes nothing; another one makes a new version.

    Raises:
        NotFound: there is no such device.
    """
    fleet = caller.fleet
    device = await fleet.devices.get(device_id)
    twin = await fleet.twins.desire(device_id, configuration, actor=caller.actor, reason=reason)
    if device.lifecycle is Lifecycle.REGISTERED:
        device = await fleet.devices.move(device_id, Lifecycle.PROVISIONED, actor=caller.actor, reason=reason)
    return ProvisionedResponse(device=device_id, lifecycle=device.lifecycle, desired_version=twin.desired.version)


@call(
    "GET /devices/{device_id}/history", Permission.DEVICES_READ, scope=on("device_id"), cli="device history DEVICE_ID",
    columns=("time", "actor", "action", "changed", "reason"),
)  # fmt: skip
async def list_device_history(
    caller: Caller, device_id: DeviceId, *, limit: Limit = 100, cursor: Cursor | None = None
) -> Page[ChangeResponse]:
    """Lists who changed what of a device, when and why, the oldest first, without values.

    Events that the caller may not see are left out, so a page may be short and have a ``next``.

    Raises:
        NotFound: there is no such device.
    """
    rows = await caller.fleet.audit.page(object=device_id, after=decode(cursor), limit=limit)
    seen = [to_response(ChangeResponse, row) for row in await caller.rows(rows.items)]
    return Page(seen, encode(rows.after))


@call(
    "GET /devices/{device_id}/location", Permission.DEVICES_READ, scope=on("device_id"), cli="location show DEVICE_ID"
)
async def get_location(caller: Caller, device_id: DeviceId) -> PositionResponse:
    """Shows the newest position of a device.

    Raises:
        NotFound: there is no such device, or it has no position.
    """
    found = await caller.fleet.location.of(device_id)
    if found is None:
        raise missing("position of", device_id)
    return to_response(PositionResponse, found)
