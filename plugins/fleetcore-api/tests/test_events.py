"""Who sees which event: the whole registry, as each role sees it, over a real stream."""

import asyncio
import json

import pytest

from fleetcore.calls.events import watch_events
from fleetcore.errors import NotFound, Refused
from fleetcore.model.events import CORE, SUBJECT, EventType, EventTypes, Subject
from fleetcore.model.operator import ROLES, Permission, Role
from fleetcore.model.store import Commit, Event
from fleetcore.runtime.plugins import PluginHost
from fleetcore.testing.patience import PATIENCE_S
from fleetcore.wire import messages

#: A value of each kind that a member of an event's data may have.
_SAMPLES = {str: "text", int: 1, float: 1.5, bool: True, dict: {}, list: []}
MINE, THEIRS = "mine-1", "theirs-1"
FOREIGN = "x.gone.happened"
#: Seen by every role that is let in at all; the stream is read up to it.
LAST = "device.changed"


def sample(kind, device, group):
    """An event of a kind about a device or a group, with all of its data."""
    data = {}
    for name, member in kind.data.items():
        first = getattr(member.kind, "__args__", (member.kind,))[0]
        data[name] = device if name == kind.device else _SAMPLES[first]
    named = {Subject.GROUP: group}.get(kind.subject, f"{kind.subject}-1")
    return Event(type=kind.name, subject=device if kind.device == SUBJECT else named, time=0, data=data)


@pytest.fixture
async def happened(fleet, manager):
    """Of every type an event about a device of the lab and one about another; and one of a type that is not declared."""
    for device in (MINE, THEIRS):
        await manager.register_device(device, "sensor")
    for group, device in (("lab", MINE), ("hall", THEIRS)):
        await manager.create_group(group)
        await manager.add_to_group(group, [device])
    await manager.wait_idle()
    before = await fleet.storage.position()
    everything = [
        *(sample(kind, device, group) for kind in CORE.values() for device, group in ((MINE, "lab"), (THEIRS, "hall"))),
        Event(type=FOREIGN, subject=MINE, time=0, data={"device": MINE}),
        Event(type=LAST, subject=MINE, time=0, reason="last", data={"members": []}),
    ]
    await fleet.storage.commit(Commit(events=tuple(everything)))
    return before


async def seen(client, after):
    """What a stream shows, up to the last of the events: type and subject of each, or the status of a refusal."""
    found = []
    async with (
        client.stream("GET", "/events", headers={"Last-Event-ID": str(after)}) as answer,
        asyncio.timeout(PATIENCE_S),
    ):
        if answer.status_code != 200:
            return answer.status_code
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                event = json.loads(line.removeprefix("data: "))
                if event["reason"] == "last":
                    return found
                if "type" in event:
                    found.append((event["type"], event["subject"], event["data"].get("device")))
    raise AssertionError("the stream ended")


def described(kind, device, group):
    event = sample(kind, device, group)
    return event.type, event.subject, event.data.get("device")


@pytest.mark.parametrize("role", Role)
async def test_a_role_for_the_whole_fleet_sees_exactly_what_its_permissions_name(as_role, happened, role):
    found = await seen(await as_role(role), happened)

    if Permission.DEVICES_READ not in ROLES[role]:
        assert found == 403
        return
    expected = [
        described(kind, device, group)
        for kind in CORE.values()
        if kind.permission in ROLES[role]
        for device, group in ((MINE, "lab"), (THEIRS, "hall"))
    ]
    if role is Role.ADMIN:
        expected.append((FOREIGN, MINE, MINE))
    assert sorted(found, key=str) == sorted(expected, key=str)


@pytest.mark.parametrize("role", [role for role in Role if Permission.DEVICES_READ in ROLES[role]])
async def test_a_role_within_a_scope_sees_the_events_of_its_devices_and_its_group_alone(as_role, happened, role):
    found = await seen(await as_role(role, scope="group:lab"), happened)

    expected = [
        described(kind, MINE, "lab")
        for kind in CORE.values()
        if kind.permission in ROLES[role] and (kind.device or kind.subject is Subject.GROUP)
    ]
    assert sorted(found, key=str) == sorted(expected, key=str)


async def test_a_viewer_is_told_nothing_of_claims_cas_keys_tokens_and_refusals(as_role, happened):
    found = {kind for kind, *_ in await seen(await as_role("viewer"), happened)}

    secret = {"claim.created", "ca.announced", "key.revoked", "enrollment_token.created", "manufacturer.proven"}
    secret |= {"certificate.issued", "token.issued", "operator_token.created", "role.granted", "access.denied"}
    assert secret <= CORE.keys()
    assert not found & (secret | {FOREIGN})
    assert {"device.registered", "command.sent", "campaign.running", "execution.succeeded"} <= found


async def test_a_token_with_fewer_permissions_than_its_principal_sees_less(as_role, happened):
    found = await seen(await as_role("admin", permissions=["devices:read", "security:read"]), happened)

    assert {kind.permission for kind in map(CORE.get, {name for name, *_ in found})} == {
        Permission.DEVICES_READ,
        Permission.SECURITY_READ,
    }


async def test_the_history_of_a_device_tells_no_more_than_its_events(as_role, manager):
    await manager.register_device("th-1", "sensor")
    await manager.issue_device_token("th-1")
    await manager.wait_idle()

    async def actions(role):
        client = await as_role(role)
        history = (await client.get("/devices/th-1/history")).json()["items"]
        why = (await client.get("/devices/th-1/why")).json()["changes"]
        assert [row["action"] for row in why] == [row["action"] for row in history]
        return [row["action"] for row in history]

    assert await actions("viewer") == ["device.registered"]
    assert await actions("auditor") == ["device.registered", "token.issued"]


async def test_a_devices_part_in_a_campaign_is_seen_within_the_devices_scope(as_role, fleet, manager):
    from fleetcore.model.message import Accepted

    for device in (MINE, THEIRS):
        await manager.register_device(device, "sensor")
    await manager.create_group("lab")
    await manager.add_to_group("lab", [MINE])
    await manager.wait_idle()
    client = await as_role("viewer", scope="group:lab")
    after = await fleet.storage.position()

    await manager.update_firmware("c", "2", [MINE, THEIRS], "https://updates.example.com", sha256="0" * 64, size=1)
    for device in (THEIRS, MINE):
        assert await fleet.updates.offer(device) is not None
        body = {"execution": f"c:{device}", "state": "installing"}
        assert isinstance(await fleet.updates.status(device, messages.FirmwareStatus(**body)), Accepted)
    await manager.update_device(MINE, name="x", reason="last")

    assert await seen(client, after) == [
        ("execution.offered", f"c:{MINE}", MINE), ("execution.installing", f"c:{MINE}", MINE),
    ]  # fmt: skip


# --- plugins ---------------------------------------------------------------------------------------------------------

PLUGIN = """\
from fleetcore import hookimpl
from fleetcore.model.events import EventType, Subject
from fleetcore.model.operator import Permission


@hookimpl
def fleetcore_events():
    return [
        EventType(name="{name}", subject=Subject.PLUGIN, permission=Permission.GROUPS_READ, meaning="It rained.",
                  audited=False, {more})
    ]
"""


def host(tmp_path, name, more=""):
    file = tmp_path / "weather.py"
    file.write_text(PLUGIN.format(name=name, more=more))
    return PluginHost([file], discover=False)


async def test_what_a_plugin_declares_is_seen_by_its_permission(tmp_path, as_role, fleet, manager):
    fleet.events = host(tmp_path, "x.weather.rain").events()
    await manager.register_device(MINE, "sensor")
    after = await fleet.storage.position()

    await fleet.storage.commit(Commit(events=(Event(type="x.weather.rain", subject="roof", time=0),)))
    await manager.update_device(MINE, name="x", reason="last")

    assert await seen(await as_role("viewer"), after) == [("x.weather.rain", "roof", None)]


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("x.other.rain", ""),
        ("device.registered", ""),
        ("x.weather", ""),
        ("x.weather.rain", "changes=frozenset({'tags'})"),
        ("x.weather.rain", "facet='registry'"),
    ],
)
async def test_a_plugin_that_declares_what_is_not_its_own_is_named_and_has_no_types(tmp_path, name, more):
    plugins = host(tmp_path, name, more)

    types = plugins.events()

    assert {kind.name for kind in types} == CORE.keys()
    assert "fleetcore_events" in plugins.plugins["weather"].error
    assert "weather" in plugins.plugins["weather"].error


def test_a_plugins_types_are_checked_wherever_they_come_from():
    foreign = EventType(name="x.a.b", subject=Subject.PLUGIN, permission=None, meaning="Something.")

    with pytest.raises(Refused):
        EventTypes({"other": [foreign]})


async def test_a_stream_gets_on_while_the_tokens_of_others_change(as_role, fleet, caller_of):
    caller = await caller_of(await as_role("viewer"))
    after = await fleet.storage.position()
    devices = [await fleet.devices.prepared(f"d-{number}", "sensor") for number in range(5)]
    await fleet.storage.commit(fleet.devices.registrations(devices))
    stream = watch_events(caller, after=after, type=("device.",))

    seen = []
    for number in range(5):
        seen.append(await anext(stream))
        await fleet.operators.create_token(f"other-{number}")

    assert [event.subject for event in seen] == [device.id for device in devices]
    # Where to go on is told with the last event of the commit alone.
    assert [event.position for event in seen] == [None] * 4 + [after + 1]
    await stream.aclose()


@pytest.mark.parametrize("ahead", [1, 10**9])
async def test_a_position_where_the_fleet_never_was_is_not_waited_for(as_role, fleet, caller_of, ahead):
    stream = watch_events(await caller_of(await as_role("viewer")), after=await fleet.storage.position() + ahead)

    with pytest.raises(NotFound) as refused:
        await anext(stream)

    assert refused.value.ids["oldest"] == await fleet.storage.position() + 1
