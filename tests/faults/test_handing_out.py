"""What happens to a device while a command to it is on its way into the store, and what the store's time costs."""

import asyncio

import pytest

from fleetcore import IoTFleetManager
from fleetcore.model.command import FINISHED, CommandState
from fleetcore.model.credential import LocalCredential
from fleetcore.model.device import Lifecycle
from fleetcore.testing.clock import MovableClock
from fleetcore.wire import messages


@pytest.fixture
def clock():
    return MovableClock()


@pytest.fixture
async def fleet(clock):
    async with IoTFleetManager(clock=clock) as manager:
        await manager.register_device("d", "sensor")
        yield await manager.open()


async def connected(fleet):
    """A session of the device, and what it is handed."""
    got = []
    session = await fleet.plane.authenticate(LocalCredential("d"), protocol="test")
    fleet.plane.listen(session, got.append)
    await fleet.plane.wait_idle()
    return session, got


@pytest.mark.parametrize("turns", range(8))
@pytest.mark.parametrize("respond", ["result", "none"])
async def test_a_command_whose_device_is_cut_off_meanwhile_goes_out_when_it_is_back(fleet, respond, turns):
    session, got = await connected(fleet)
    began, commit = asyncio.Event(), fleet.storage.commit

    async def watched(change):
        if any(put.kind == "command" for put in change.puts):
            began.set()
        return await commit(change)

    fleet.storage.commit = watched
    sending = asyncio.ensure_future(fleet.commands.send("d", "blink", respond=respond))
    await began.wait()
    for _ in range(turns):
        await asyncio.sleep(0)
    session.end("replaced")
    sent = await sending
    await fleet.plane.wait_idle()
    _, again = await connected(fleet)

    assert [downlink.body["id"] for downlink in [*got, *again]] == [sent.id]


async def test_a_device_that_is_suspended_meanwhile_gets_nothing_and_its_command_waits(fleet):
    await fleet.lifecycles.move("d", Lifecycle.PROVISIONED)
    await fleet.lifecycles.move("d", Lifecycle.ACTIVE)
    _, got = await connected(fleet)

    _, sent = await asyncio.gather(
        fleet.lifecycles.move("d", Lifecycle.SUSPENDED), fleet.commands.send("d", "blink", respond="none")
    )
    await fleet.plane.wait_idle()

    assert (got, (await fleet.commands.get(sent.id)).state) == ([], CommandState.QUEUED)


async def test_a_command_that_expires_while_it_is_stored_is_not_handed_out(fleet, clock):
    _, got = await connected(fleet)
    commit = fleet.storage.commit

    async def slow(change):
        done = await commit(change)
        if any(put.kind == "command" for put in change.puts):
            await clock.advance(5)
        return done

    fleet.storage.commit = slow
    await fleet.commands.send("d", "open-valve", deliver_within_s=2, execute_within_s=2)
    await fleet.plane.wait_idle()

    assert got == []


async def test_beyond_ten_lanes_a_command_waits_until_another_has_ended(fleet):
    _, got = await connected(fleet)
    await fleet.commands.snapshot("d")
    commands = [await fleet.commands.send("d", "x", lane=f"l{number}") for number in range(12)]
    await fleet.plane.wait_idle()
    given = [downlink.body["id"] for downlink in got]

    await fleet.commands.result("d", commands[0].id, messages.CommandResult(status="succeeded"))
    await fleet.plane.wait_idle()

    assert given == [command.id for command in commands[:10]]
    assert [downlink.body["id"] for downlink in got[10:]] == [commands[10].id]


async def test_a_lane_keeps_its_order_where_a_supersede_key_is_taken_meanwhile(fleet):
    await fleet.commands.send("d", "busy", lane="a")
    await fleet.commands.hand_out("d")
    _, got = await connected(fleet)
    got.clear()

    commands = await asyncio.gather(
        fleet.commands.send("d", "k-a", lane="a", supersede="k"),  # takes the key first
        fleet.commands.send("d", "k-b", lane="b", supersede="k"),  # meets it, and tries again
        fleet.commands.send("d", "later", lane="b"),
    )
    await fleet.plane.wait_idle()
    lane = [command for command in [await fleet.commands.get(one.id) for one in commands] if command.lane == "b"]

    given = [downlink.body["sequence"] for downlink in got if downlink.body["lane"] == "b"]
    assert given == sorted(given)
    assert sum(command.state not in FINISHED | {CommandState.QUEUED} for command in lane) == 1
