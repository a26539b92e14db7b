"""Groups: made, changed, filled, removed."""

from typing import Any

from litestar import Response, delete, get, patch, post
from litestar.params import FromPath, JSONBody
from msgspec import UNSET, structs

from fleetcore.model.group import Group
from fleetcore.model.operator import Permission
from fleetcore.query.ast import Has
from fleetcore_api.access import Access
from fleetcore_api.models import shown, when
from fleetcore_api.models_seen import HealthOut
from fleetcore_api.models_state import Changed, GroupIn, GroupOut, GroupPatch, Member, MembersIn
from fleetcore_api.pages import Cursor, Limit, Page, answered, decode, encode, of_few
from fleetcore_api.parameters import Caller, IfMatch, Why, named
from fleetcore_api.preconditions import etag, expected
from fleetcore_api.routes.seen import show_health


def _show(access: Access, group: Group) -> GroupOut:
    return shown(GroupOut, group, devices=access.fleet.groups.count(group.id))


def _answer(access: Access, group: Group, status: int = 200, **headers: str) -> Response[GroupOut]:
    return Response(_show(access, group), status_code=status, headers={"ETag": etag(group.version), **headers})


@get("/groups", permission=Permission.GROUPS_READ)
async def list_groups(access: Caller, limit: Limit = 100, cursor: Cursor = None) -> Page[GroupOut]:
    """Groups by name: all, or those that are the caller's scopes."""
    groups = access.fleet.groups
    if access.rights.everywhere(Permission.GROUPS_READ):
        return answered(await groups.page(after=decode(cursor), limit=limit), lambda group: _show(access, group))
    mine = [groups.get(name) for name in sorted(access.rights.named_groups(Permission.GROUPS_READ)) if groups.has(name)]
    return of_few(mine, cursor, limit, lambda group: group.id, lambda group: _show(access, group))


@post("/groups", permission=Permission.GROUPS_WRITE, everywhere=True)
async def create_group(access: Caller, data: JSONBody[GroupIn]) -> Response[GroupOut]:
    """Makes a group; a dynamic one has its members when this is answered."""
    made = await access.fleet.groups.create(
        data.id,
        query=data.query,
        within=data.within,
        description=data.description,
        actor=access.actor,
        reason=data.reason,
    )
    return _answer(access, made, 201)


@get("/groups/{group:str}", permission=Permission.GROUPS_READ)
async def get_group(access: Caller, group: FromPath[str]) -> Response[GroupOut]:
    """One group."""
    access.group(named(group))
    return _answer(access, access.fleet.groups.get(named(group)))


@patch("/groups/{group:str}", permission=Permission.GROUPS_WRITE)
async def change_group(
    access: Caller, group: FromPath[str], data: JSONBody[GroupPatch], if_match: IfMatch = None
) -> Response[GroupOut]:
    """Changes a group's query, where it lies, or its description."""
    name = named(group)
    access.group(name)
    access.wide(Permission.GROUPS_WRITE, name)
    members: dict[str, Any] = {key: value for key, value in structs.asdict(data).items() if value is not UNSET}
    changed = await access.fleet.groups.change(name, if_version=expected(if_match), actor=access.actor, **members)
    return _answer(access, changed)


@delete("/groups/{group:str}", permission=Permission.GROUPS_WRITE, status_code=204)
async def remove_group(access: Caller, group: FromPath[str], if_match: IfMatch = None, reason: Why = "") -> None:
    """Removes a group; its devices stay."""
    access.group(named(group))
    access.wide(Permission.GROUPS_WRITE, named(group))
    await access.fleet.groups.remove(named(group), if_version=expected(if_match), actor=access.actor, reason=reason)


@get("/groups/{group:str}/members", permission=Permission.GROUPS_READ)
async def list_members(access: Caller, group: FromPath[str], limit: Limit = 100, cursor: Cursor = None) -> Page[Member]:
    """Devices in a group and in those that lie within it."""
    name = named(group)
    access.group(name)
    access.fleet.groups.get(name)
    inside = access.rights.selectable(Permission.DEVICES_READ).narrowed(Has(("groups",), name))
    found = await access.fleet.search.page(inside, after=decode(cursor), limit=limit)
    return Page(items=[_member(access, name, device) for device in found.ids], next=encode(found.after))


def _member(access: Access, group: str, device: str) -> Member:
    for one in access.fleet.groups.memberships(device):
        if one.group == group:
            return Member(device=device, since=when(one.since), why=one.why)
    return Member(device=device)


@post("/groups/{group:str}/members", permission=Permission.GROUPS_WRITE, status_code=200)
async def add_members(access: Caller, group: FromPath[str], data: JSONBody[MembersIn]) -> Changed:
    """Puts devices into a static group, all or none."""
    name = named(group)
    access.group(name)
    access.wide(Permission.GROUPS_WRITE, name)
    count = await access.fleet.groups.add(name, data.devices, actor=access.actor, reason=data.reason)
    return Changed(changed=count)


@delete("/groups/{group:str}/members/{device_id:str}", permission=Permission.GROUPS_WRITE, status_code=200)
async def take_out(access: Caller, group: FromPath[str], device_id: FromPath[str], reason: Why = "") -> Changed:
    """Takes a device out of a static group; 0 are changed where it was not in it."""
    name = named(group)
    access.group(name)
    access.wide(Permission.GROUPS_WRITE, name)
    await access.device(device_id)
    count = await access.fleet.groups.take_out(name, [device_id], actor=access.actor, reason=reason)
    return Changed(changed=count)


@get("/groups/{group:str}/health", permission=Permission.GROUPS_READ)
async def group_health(access: Caller, group: FromPath[str]) -> HealthOut:
    """The health of the group's devices that the caller may see."""
    access.group(named(group))
    members = access.fleet.groups.members(named(group))
    return show_health(await access.fleet.health.of(sorted(await access.allowed(members, Permission.DEVICES_READ))))


HANDLERS = [
    list_groups,
    create_group,
    get_group,
    change_group,
    remove_group,
    list_members,
    add_members,
    take_out,
    group_health,
]
