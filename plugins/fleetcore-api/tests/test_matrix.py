"""Every call over HTTP by every role: what a role allows is not refused, the rest is, and a foreign id is 404."""

from pathlib import Path

import pytest

from fleetcore.calls.fleet_table import core
from fleetcore.model.operator import ROLES, Permission, Role

#: Bodies by which a request gets past its form; what it then finds does not matter here.
BODIES = {
    "create_device": {"id": "new", "type": "x"},
    "create_group": {"id": "new"},
    "add_to_group": {"devices": ["mine"]},
    "send_command": {"name": "x"},
    "query_devices": {"where": "id = 'mine'"},
    "explain_query": {"where": "id = 'mine'"},
    "create_token": {"principal": "x"},
    "collect_telemetry": {"metric": "temp", "value": 1.0},
    "set_layer": {"patch": {"a": 1}},
    "register_gateway": {"id": "gw"},
    "attach_leaf": {"device": "mine"},
    "check_import": {"rows": [{"id": "new2"}]},
    "import_devices": {"rows": [{"id": "new2"}]},
    "grant_role": {"principal": "x", "role": "viewer"},
    "check_certificate": {"pem": "x"},
    "set_lifecycle": {"state": "active"},
}
QUERIES = {
    "list_readings": {"metric": "temp"},
    "list_buckets": {"metric": "temp", "bucket_s": 60},
    "get_past_twin": {"at": "2026-01-01T00:00:00Z"},
}
#: Calls that HTTP serves, but for the stream of events, which does not end.
CALLS = [call for call in core() if call.path and not call.is_stream]
#: Calls on one device: a foreign one does not exist.
OF_DEVICES = [call for call in CALLS if "/devices/{device_id" in call.path]


def path_of(call, device="mine"):
    """The path with names in it."""
    filled = call.path.replace("{device_id}", device).replace("{group}", "lab").replace("{number}", "7")
    while "{" in filled:
        head, _, rest = filled.partition("{")
        filled = head + "unknown" + rest.partition("}")[2]
    return filled


def needed(call):
    """The permissions that a call asks for."""
    return {call.declared.permission, *call.declared.needs_too}


async def ask(client, call, device="mine"):
    """Asks for a call."""
    body = {} if call.method in ("GET", "DELETE") else {"json": BODIES.get(call.name, {})}
    if call.stream:
        body = {"content": b"x", "headers": {"Content-Type": "application/octet-stream"}}
    headers = {"If-Match": "*", **body.pop("headers", {})}
    params = {
        **QUERIES.get(call.name, {}),
        **({call.declared.selected_by: "true"} if call.declared.selected_by else {}),
    }
    return await client.request(call.method, path_of(call, device), params=params, headers=headers, **body)


@pytest.mark.parametrize("role", [*Role, None], ids=lambda role: role or "no-role")
async def test_a_role_may_what_the_table_says_and_nothing_else(manager, fleet, served, as_role, role):
    await manager.register_device("mine", "x")
    await fleet.groups.create("lab")
    client = await as_role(*([role] if role else []))
    allowed = ROLES[role] if role else frozenset()

    wrong = []
    # What removes comes last, so that the others find what they name.
    for call in sorted(CALLS, key=lambda call: call.method == "DELETE"):
        status = (await ask(client, call)).status_code
        refused = status == 403
        if refused is (needed(call) <= allowed) or status >= 500 or status == 401:
            wrong.append((call.name, status))
    metrics = (await client.get(served.url + "/metrics")).status_code

    assert wrong == []
    assert (metrics == 403) is (Permission.SERVER_READ not in allowed)


@pytest.mark.parametrize("role", Role)
async def test_to_a_role_within_a_scope_a_foreign_device_does_not_exist(manager, as_role, role):
    await manager.register_device("mine", "x")
    await manager.register_device("theirs", "x")
    client = await as_role(role, scope="id = 'mine'")

    for call in OF_DEVICES:
        foreign, unknown = await ask(client, call, "theirs"), await ask(client, call, "nobody")

        wanted = 404 if call.declared.permission in ROLES[role] else 403
        assert (foreign.status_code, unknown.status_code) == (wanted, wanted), call.name
        assert foreign.text.replace("theirs", "") == unknown.text.replace("nobody", ""), call.name


@pytest.mark.parametrize("role", Role)
async def test_what_is_the_whole_fleets_is_closed_to_a_role_within_a_scope(served, as_role, role):
    client = await as_role(role, scope="id = 'mine'")

    for call in CALLS:
        if call.declared.scope.kind == "everywhere":
            assert (await ask(client, call)).status_code == 403, call.name
    assert (await client.get(served.url + "/metrics")).status_code == 403


def test_the_page_shows_the_table_of_roles():
    page = (Path(__file__).parents[3] / "docs" / "reference" / "api.md").read_text(encoding="utf-8")

    for permission in Permission:
        (row,) = (line for line in page.splitlines() if line.startswith(f"| `{permission}` |"))
        shown = [bool(cell.strip()) for cell in row.split("|")[2:-1]]
        assert shown == [permission in ROLES[role] for role in Role], permission
