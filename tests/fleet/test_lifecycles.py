"""Retiring and placing are each one rule, done in one commit."""

import pytest

from fleetcore.errors import Conflict, IllegalTransition, VersionConflict
from fleetcore.model.command import CommandState
from fleetcore.model.credential import LocalCredential
from fleetcore.model.device import Lifecycle, Location
from fleetcore.model.operation import OperationState
from fleetcore.wire import messages

HERE = Location(lat=52.5, lon=13.4)


@pytest.fixture
async def device(fleet):
    await fleet.devices.register("a", "sensor")
    return "a"


async def commits_of(fleet, after):
    return [[event.type for event in entry.events] for entry in await fleet.storage.feed(after) if entry.events]


async def test_retiring_is_one_commit_and_ends_all_that_the_device_has(fleet, device):
    await fleet.security.device_tokens.issue(device)
    session = await fleet.plane.authenticate(LocalCredential(device), protocol="test")
    command = await fleet.commands.send(device, "reboot")
    campaign = await fleet.campaigns.create("c", "2.0.0", [device], "https://example.com/fw", sha256="ab" * 32, size=1)
    after = await fleet.storage.position()

    await fleet.lifecycles.move(device, Lifecycle.RETIRED, actor="ann", reason="scrapped")

    first, *_ = await commits_of(fleet, after)
    assert {"device.retired", "token.revoked", "operation.started"} <= set(first)
    assert session.ended == "device_retired"
    assert (await fleet.commands.get(command.id)).state is CommandState.CANCELLED
    assert (await fleet.campaigns.execution(campaign.id, device)).code == "device_retired"


async def test_the_rest_of_a_retirement_is_done_after_a_crash(fleet, device):
    command = await fleet.commands.send(device, "reboot")
    run, fleet.operations.run = fleet.operations.run, _not_at_all
    await fleet.lifecycles.move(device, Lifecycle.RETIRED)
    fleet.operations.run = run
    assert (await fleet.commands.get(command.id)).state is CommandState.QUEUED

    await fleet.operations.tick()

    assert (await fleet.commands.get(command.id)).state is CommandState.CANCELLED
    (operation,) = await fleet.operations.list(kind="retirement")
    assert operation.state is OperationState.SUCCEEDED


async def test_the_rest_of_a_retirement_cannot_be_stopped(fleet, device):
    run, fleet.operations.run = fleet.operations.run, _not_at_all
    await fleet.lifecycles.move(device, Lifecycle.RETIRED)
    fleet.operations.run = run
    (operation,) = await fleet.operations.list(kind="retirement")

    with pytest.raises(Conflict):
        await fleet.operations.cancel(operation.id)

    assert (await fleet.operations.get(operation.id)).state is OperationState.RUNNING


async def _not_at_all(_operation):
    return None


async def test_retiring_again_changes_nothing(fleet, device):
    await fleet.lifecycles.move(device, Lifecycle.RETIRED)
    before = await fleet.storage.position()

    again = await fleet.lifecycles.move(device, Lifecycle.RETIRED)

    assert again.lifecycle is Lifecycle.RETIRED
    assert await fleet.storage.position() == before


async def test_retiring_at_another_version_is_refused_and_leaves_the_credentials(fleet, device):
    token = await fleet.security.device_tokens.issue(device)

    with pytest.raises(VersionConflict):
        await fleet.lifecycles.move(device, Lifecycle.RETIRED, if_version=7)

    assert (await fleet.security.verify_token(token)).device == device
    assert (await fleet.devices.get(device)).lifecycle is Lifecycle.REGISTERED


async def test_a_retired_device_does_not_come_back(fleet, device):
    await fleet.lifecycles.move(device, Lifecycle.RETIRED)

    with pytest.raises(IllegalTransition):
        await fleet.lifecycles.move(device, Lifecycle.ACTIVE)


async def test_a_sequence_goes_on_after_a_device_was_erased(fleet, device):
    for _ in range(3):
        last = await fleet.commands.send(device, "reboot")
    await fleet.erasing.erase(device)
    await fleet.devices.register(device, "sensor")

    assert (await fleet.commands.send(device, "reboot")).sequence == last.sequence + 1


@pytest.mark.parametrize("way", ["register", "change", "import"])
async def test_a_position_that_is_set_is_part_of_the_change(fleet, way):
    if way == "change":
        await fleet.devices.register("p", "sensor")
    after = await fleet.storage.position()

    if way == "register":
        await fleet.devices.register("p", "sensor", location=HERE)
    elif way == "change":
        await fleet.devices.change("p", location=HERE)
    else:
        operation = await fleet.importing.start([{"id": "p", "location": {"lat": 52.5, "lon": 13.4}}])
        await fleet.operations.run(operation.id)

    placed = [types for types in await commits_of(fleet, after) if "location.updated" in types]
    assert len(placed) == 1
    assert {"device.registered", "device.changed"} & set(placed[0])
    found = await fleet.location.of("p")
    assert (found.lat, found.lon, found.source) == (52.5, 13.4, "manual")


async def test_a_position_from_the_future_stays(fleet, device, clock):
    await fleet.location.update(device, [messages.Position(lat=1, lon=1, time=clock.now_ms() + 60_000)])

    await fleet.devices.change(device, location=HERE)

    assert (await fleet.location.of(device)).lat == 1


async def test_an_erased_device_is_selected_by_no_query(fleet, device):
    for _ in range(4):  # then the registry's columns answer
        assert await fleet.search.ids("type = 'sensor'") == [device]

    await fleet.erasing.erase(device)

    assert await fleet.search.ids("type = 'sensor'") == []
    assert await fleet.search.count("type = 'sensor'") == 0


async def test_a_command_that_is_committed_behind_a_retirement_does_not_stay_queued(fleet, device):
    commit = fleet.storage.commit

    async def retiring_first(change):
        fleet.storage.commit = commit
        await fleet.lifecycles.move(device, Lifecycle.RETIRED)
        return await commit(change)

    await fleet.commands.send(device, "first")
    fleet.storage.commit = retiring_first
    with pytest.raises(Conflict, match="retired"):
        await fleet.commands.send(device, "second")

    assert await fleet.commands.list(device, unfinished=True) == []
