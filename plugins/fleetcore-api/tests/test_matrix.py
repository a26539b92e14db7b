"""Every route by every role, from the route table itself: who may is not refused, who may not is, and a foreign id is 404."""

from pathlib import Path

import pytest
from fleetcore_api.app import ROUTES
from fleetcore_api.routes import metrics

from fleetcore.model.operator import ROLES, Permission, Role

#: Bodies by which a request gets past its form; what it then finds does not matter here.
BODIES = {
    "register_device": {"id": "new", "type": "x"},
    "create_group": {"id": "new"},
    "add_members": {"devices": ["mine"]},
    "send_command": {"name": "x"},
    "send_bulk": {"name": "x", "where": "id = 'none'"},
    "query": {"where": "id = 'mine'"},
    "create_token": {"principal": "x"},
    "collect": {"metric": "temp", "value": 1.0},
    "patch_layer": {"patch": {"a": 1}},
    "register_gateway": {"id": "gw"},
    "attach_leaf": {"device": "mine"},
    "start_import": {"rows": [{"id": "new2"}]},
    "grant_role": {"principal": "x", "role": "viewer"},
}
QUERIES = {
    "readings": {"metric": "temp"},
    "buckets": {"metric": "temp", "bucket_s": 60},
    "twin_past": {"at": "2026-01-01T00:00:00Z"},
}
#: Routes below a device: a foreign one does not exist.
OF_DEVICES = [one for one in ROUTES if any("/devices/{device_id" in path for path in one.paths)]
HANDLERS = [*(one for one in ROUTES if one.handler_name != "events"), *metrics.HANDLERS]


def method(handler):
    return next(iter(handler.http_methods))


def path(handler, device="mine"):
    (template,) = handler.paths
    filled = template.replace("{device_id:str}", device).replace("{group:str}", "lab").replace("{number:int}", "7")
    while "{" in filled:
        head, _, rest = filled.partition("{")
        filled = head + "unknown" + rest.partition("}")[2]
    return filled


async def call(client, base, handler, device="mine"):
    prefix = "" if handler in metrics.HANDLERS else "/api/v1"
    name = handler.handler_name
    body = None if method(handler) in ("GET", "DELETE") else BODIES.get(name, {})
    return await client.request(
        method(handler),
        base + prefix + path(handler, device),
        json=body,
        params=QUERIES.get(name),
        headers={"If-Match": "*"},
    )


def test_every_route_names_what_it_needs():
    for handler in HANDLERS:
        assert isinstance(handler.opt.get("permission"), Permission), handler.handler_name


@pytest.mark.parametrize("role", [*Role, None], ids=lambda role: role or "no-role")
async def test_a_role_may_what_the_table_says_and_nothing_else(manager, fleet, served, as_role, role):
    await manager.register_device("mine", "x")
    await fleet.groups.create("lab")
    client = await as_role(*([role] if role else []))
    allowed = ROLES[role] if role else frozenset()

    wrong = []
    # What removes comes last, so that the others find what they name.
    for handler in sorted(HANDLERS, key=lambda one: method(one) == "DELETE"):
        status = (await call(client, served.url, handler)).status_code
        refused = status == 403
        if refused is (handler.opt["permission"] in allowed) or status >= 500 or status == 401:
            wrong.append((handler.handler_name, status))

    assert wrong == []


@pytest.mark.parametrize("role", Role)
async def test_to_a_role_within_a_scope_a_foreign_device_does_not_exist(manager, served, as_role, role):
    await manager.register_device("mine", "x")
    await manager.register_device("theirs", "x")
    client = await as_role(role, scope="id = 'mine'")

    for handler in OF_DEVICES:
        foreign = await call(client, served.url, handler, "theirs")
        unknown = await call(client, served.url, handler, "nobody")

        wanted = 404 if handler.opt["permission"] in ROLES[role] else 403
        assert (foreign.status_code, unknown.status_code) == (wanted, wanted), handler.handler_name
        assert foreign.text.replace("theirs", "") == unknown.text.replace("nobody", ""), handler.handler_name


@pytest.mark.parametrize("role", Role)
async def test_what_is_the_whole_fleets_is_closed_to_a_role_within_a_scope(served, as_role, role):
    client = await as_role(role, scope="id = 'mine'")

    for handler in HANDLERS:
        if handler.opt.get("everywhere"):
            assert (await call(client, served.url, handler)).status_code == 403, handler.handler_name


def test_the_page_shows_the_table_of_roles():
    page = (Path(__file__).parents[3] / "docs" / "reference" / "api.md").read_text(encoding="utf-8")

    for permission in Permission:
        (row,) = (line for line in page.splitlines() if line.startswith(f"| `{permission}` |"))
        shown = [bool(cell.strip()) for cell in row.split("|")[2:-1]]
        assert shown == [permission in ROLES[role] for role in Role], permission
