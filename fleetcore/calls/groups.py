"""Groups: devices under one name, selected by hand or by a query."""

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from fleetcore.calls.caller import Caller, answered
from fleetcore.calls.cursors import decode, encode, page_of
from fleetcore.calls.responses.groups import ChangedResponse, GroupResponse, MemberResponse, MembershipResponse
from fleetcore.calls.table import BY_CALL, call, on
from fleetcore.calls.types import (
    UNSET,
    Cursor,
    DeviceId,
    IfVersion,
    Label,
    Limit,
    Names,
    Page,
    Reason,
    UnsetType,
    present,
    to_response,
)
from fleetcore.model.group import Group
from fleetcore.model.operator import Permission
from fleetcore.query.ast import Has

GroupName = Annotated[str, Meta(min_length=1, max_length=128, description="The group's name."), Names("list_groups")]
NewGroupName = Annotated[Label, Meta(description="The new group's name.")]
Query = Annotated[str, Meta(max_length=4096, description="Makes it dynamic: the query selects its devices.")]
Within = Annotated[
    Sequence[Label], Meta(max_length=100, description="Groups that contain it: its devices are theirs too.")
]
Description = Annotated[str, Meta(max_length=1024, description="The purpose of the group.")]
DeviceIds = Annotated[Sequence[DeviceId], Meta(min_length=1, max_length=10_000, description="The devices, by id.")]


def _group(caller: Caller, group: Group) -> GroupResponse:
    return to_response(GroupResponse, group, devices=caller.fleet.groups.count(group.id))


@call(
    "GET /groups", Permission.GROUPS_READ, scope=BY_CALL, cli="group list",
    columns=("id", "query", "within", "devices", "description"),
)  # fmt: skip
async def list_groups(caller: Caller, *, limit: Limit = 100, cursor: Cursor | None = None) -> Page[GroupResponse]:
    """Lists the groups by name: all, or those in the caller's scope."""
    groups = caller.fleet.groups
    if caller.has_everywhere():
        return answered(await groups.page(after=decode(cursor), limit=limit), lambda group: _group(caller, group))
    names = sorted(caller.rights.named_groups(Permission.GROUPS_READ))
    mine = [groups.get(name) for name in names if groups.has(name)]
    return page_of(mine, cursor, limit, lambda group: group.id, lambda group: _group(caller, group))


@call("POST /groups", Permission.GROUPS_WRITE, cli="group create ID", status=201)
async def create_group(
    caller: Caller,
    id: NewGroupName,
    *,
    query: Query | None = None,
    within: Within = (),
    description: Description = "",
    reason: Reason = "",
) -> GroupResponse:
    """Makes a group: static, or dynamic with a query; a dynamic group has its devices when this returns.

    Raises:
        Conflict: a group of that name exists.
        QuerySyntaxError: the query cannot be read.
    """
    made = await caller.fleet.groups.create(
        id, query=query, within=tuple(within), description=description, actor=caller.actor, reason=reason
    )
    return _group(caller, made)


@call("GET /groups/{group}", Permission.GROUPS_READ, scope=on("group"), cli="group show GROUP")
async def get_group(caller: Caller, group: GroupName) -> GroupResponse:
    """Shows a group and the number of its devices.

    Raises:
        NotFound: there is no such group.
    """
    return _group(caller, caller.fleet.groups.get(group))


@call("PATCH /groups/{group}", Permission.GROUPS_WRITE, scope=on("group"), cli="group change GROUP")
async def update_group(
    caller: Caller,
    group: GroupName,
    *,
    query: Query | UnsetType = UNSET,
    within: Within | UnsetType = UNSET,
    description: Description | UnsetType = UNSET,
    if_version: IfVersion | None = None,
    reason: Reason = "",
) -> GroupResponse:
    """Changes a group's query, the groups that contain it, or its description; members that are not given stay.

    Raises:
        NotFound: there is no such group.
        VersionConflict: the group is not at ``if_version``.
    """
    caller.everywhere(group)
    members = present(query=query, within=within, description=description)
    changed = await caller.fleet.groups.change(
        group, if_version=if_version, actor=caller.actor, reason=reason, **members
    )
    return _group(caller, changed)


@call(
    "DELETE /groups/{group}", Permission.GROUPS_WRITE, scope=on("group"), cli="group remove GROUP", status=204,
    confirm="Removes the group {group}; its devices stay.",
)  # fmt: skip
async def remove_group(
    caller: Caller, group: GroupName, *, if_version: IfVersion | None = None, reason: Reason = ""
) -> None:
    """Removes a group; its devices stay.

    Raises:
        NotFound: there is no such group.
        VersionConflict: the group is not at ``if_version``.
    """
    caller.everywhere(group)
    await caller.fleet.groups.remove(group, if_version=if_version, actor=caller.actor, reason=reason)


@call(
    "GET /groups/{group}/members", Permission.GROUPS_READ, scope=on("group"), cli="group members GROUP",
    columns=("device", "since", "why"),
)  # fmt: skip
async def list_group_members(
    caller: Caller, group: GroupName, *, limit: Limit = 100, cursor: Cursor | None = None
) -> Page[MemberResponse]:
    """Lists the devices in a group and in the groups within it, in the order of their ids.

    Raises:
        NotFound: there is no such group.
    """
    caller.fleet.groups.get(group)
    inside = caller.narrowed(Has(("groups",), group), Permission.DEVICES_READ)
    found = await caller.fleet.search.page(inside, after=decode(cursor), limit=limit)
    return Page([_member(caller, group, device) for device in found.ids], encode(found.after))


def _member(caller: Caller, group: str, device: str) -> MemberResponse:
    for membership in caller.fleet.groups.memberships(device):
        if membership.group == group:
            return to_response(MemberResponse, membership)
    return MemberResponse(device=device)


@call("POST /groups/{group}/members", Permission.GROUPS_WRITE, scope=on("group"), cli="group add GROUP DEVICES")
async def add_to_group(caller: Caller, group: GroupName, devices: DeviceIds, *, reason: Reason = "") -> ChangedResponse:
    """Adds devices to a static group, all or none; returns how many were not in it.

    Raises:
        NotFound: there is no such group, or no such device.
        Refused: the group is dynamic.
    """
    caller.everywhere(group)
    count = await caller.fleet.groups.add(group, devices, actor=caller.actor, reason=reason)
    return ChangedResponse(changed=count)


@call(
    "DELETE /groups/{group}/members/{device_id}", Permission.GROUPS_WRITE, scope=on("group"),
    cli="group take-out GROUP DEVICE_ID",
)  # fmt: skip
async def remove_from_group(
    caller: Caller, group: GroupName, device_id: DeviceId, *, reason: Reason = ""
) -> ChangedResponse:
    """Removes a device from a static group; returns 0 if it was not in it.

    Raises:
        NotFound: there is no such group, or no such device.
        Refused: the group is dynamic.
    """
    caller.everywhere(group)
    await caller.device(device_id)
    count = await caller.fleet.groups.take_out(group, [device_id], actor=caller.actor, reason=reason)
    return ChangedResponse(changed=count)


@call(
    "GET /devices/{device_id}/groups", Permission.DEVICES_READ, scope=on("device_id"), cli="group of DEVICE_ID",
    columns=("group", "since", "why"),
)  # fmt: skip
async def list_device_groups(caller: Caller, device_id: DeviceId) -> Page[MembershipResponse]:
    """Lists the groups that a device is in directly, each with since when and why.

    Raises:
        NotFound: there is no such device.
    """
    return Page(
        [to_response(MembershipResponse, membership) for membership in caller.fleet.groups.memberships(device_id)]
    )
