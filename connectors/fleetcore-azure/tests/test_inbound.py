"""Commands from the hub: by desired properties, by cloud-to-device messages, and what cannot be read."""

import asyncio
import json
from contextlib import aclosing

import pytest

from fleetcore.errors import CredentialsRejected, Unavailable
from fleetcore.interfaces.cloud import CloudCommand, MirrorItem
from fleetcore.model.mirror import EntityKey
from fleetcore.runtime.clock import SystemClock
from fleetcore.testing.cloud_contract import certified, registration, twin
from fleetcore.testing.patience import PATIENCE_S
from fleetcore.testing.throwaway_ca import ThrowawayCa


@pytest.fixture(params=["desired", "c2d"])
async def cloud(opened, request):
    async with opened(clock=SystemClock(), commands_by=request.param, commands_poll_s=0.01) as cloud:
        cloud.by = request.param
        await cloud.apply([registration("sensor-1"), registration("a.b")])
        yield cloud


def give(cloud, front, device, id, given):
    if cloud.by == "c2d":
        if isinstance(given, dict) and "name" in given:
            given = {"command": given.pop("name"), **given}
        front.hub.command(device, json.dumps(given).encode(), id)
    else:
        front.hub.edit(device, desired={"fleetcore": {"commands": {id: given}}})


async def test_commands_are_taken_off_the_hub_when_they_are_kept(cloud, front):
    give(cloud, front, "sensor-1", "one", {"name": "reboot", "args": {"delay_s": 5}})
    give(cloud, front, "a.b", "two", {"name": "blink"})

    async with asyncio.timeout(PATIENCE_S), aclosing(cloud.inbound(None)) as arriving:
        arrived = await anext(arriving)
        give(cloud, front, "sensor-1", "three", {"name": "locate"})
        later = await anext(arriving)

    assert [(each.device, each.name, each.args) for each in arrived.events] == [
        ("sensor-1", "reboot", {"delay_s": 5}),
        ("a.b", "blink", {}),
    ]
    assert [each.name for each in later.events] == ["locate"]
    assert all(abs(each.given - front.hub.now_s() * 1000) < 600_000 for each in arrived.events)
    assert (arrived.position, arrived.invalid) == (None, [])
    if cloud.by == "c2d":
        assert [each.id for each in arrived.events] == ["one", "two"], "the hub's own ids"
        assert [len(queue) for queue in front.hub.queues.values()] == [1, 0]
    else:
        assert front.hub.devices["a.b"].desired == {}, "nothing stays behind"


async def test_what_was_not_kept_comes_again_with_the_same_id_at_once(cloud, front):
    give(cloud, front, "sensor-1", "one", {"name": "reboot"})
    async with asyncio.timeout(PATIENCE_S):
        async with aclosing(cloud.inbound(None)) as arriving:
            first = await anext(arriving)
        async with aclosing(cloud.inbound(None)) as arriving:
            again = await anext(arriving)

    assert first.events == again.events
    assert isinstance(first.events[0], CloudCommand)


@pytest.mark.parametrize("given", ["no object", {}, {"name": 1}, {"name": "x", "args": [1]}, {"args": {}}])
async def test_what_cannot_be_read_is_said_and_taken_off(cloud, front, given):
    give(cloud, front, "sensor-1", "one", given)
    async with asyncio.timeout(PATIENCE_S), aclosing(cloud.inbound(None)) as arriving:
        arrived = await anext(arriving)
        give(cloud, front, "sensor-1", "two", {"name": "blink"})
        later = await anext(arriving)

    assert (list(arrived.events), len(arrived.invalid)) == ([], 1)
    assert [each.name for each in later.events] == ["blink"]


async def test_a_hub_that_is_down_or_closed_to_us_is_told(cloud, front):
    front.faults.down = True
    with pytest.raises(Unavailable):
        await anext(cloud.inbound(None))
    front.faults.heal()
    front.faults.refused = True
    with pytest.raises(CredentialsRejected):
        await anext(cloud.inbound(None))


async def test_a_name_that_is_used_again_is_another_command_and_one_written_meanwhile_stays(opened, front):
    async with opened(clock=SystemClock(), commands_by="desired", commands_poll_s=0.01) as cloud:
        cloud.by = "desired"
        await cloud.apply([registration("sensor-1"), twin("sensor-1", interval=1)])
        give(cloud, front, "sensor-1", "one", {"name": "reboot"})
        async with asyncio.timeout(PATIENCE_S), aclosing(cloud.inbound(None)) as arriving:
            first = await anext(arriving)
            give(cloud, front, "sensor-1", "one", {"name": "blink"})  # before the first one was taken off
            second = await anext(arriving)
            give(cloud, front, "sensor-1", "two", {"name": "locate"})
            await anext(arriving)

    assert [each.name for each in second.events] == ["blink"]
    assert first.events[0].id != second.events[0].id
    assert front.hub.devices["sensor-1"].desired["interval"] == 1


async def test_a_device_that_the_policy_may_not_speak_for_hinders_no_other(opened, front):
    async with opened(clock=SystemClock(), commands_by="c2d", commands_poll_s=0.01) as cloud:
        cloud.by = "c2d"
        await cloud.apply([registration("sensor-1"), registration("sensor-2")])
        body = certified(ThrowawayCa().another("sensor-1"))
        await cloud.apply([MirrorItem(key=EntityKey("certificate", "sensor-1"), body=body)])
        give(cloud, front, "sensor-2", "one", {"name": "blink"})

        async with asyncio.timeout(PATIENCE_S), aclosing(cloud.inbound(None)) as arriving:
            arrived = await anext(arriving)

    assert [each.device for each in arrived.events] == ["sensor-2"]


async def test_an_index_that_lags_brings_no_command_twice(opened, front):
    now = [1_000_000.0]
    front.hub.now_s = lambda: now[0]
    async with opened(clock=SystemClock(), commands_by="desired", commands_poll_s=0.01) as cloud:
        cloud.by = "desired"
        await cloud.apply([registration("sensor-1")])
        give(cloud, front, "sensor-1", "one", {"name": "reboot"})
        async with asyncio.timeout(PATIENCE_S), aclosing(cloud.inbound(None)) as arriving:
            first = await anext(arriving)
            front.hub.index_lag_s = 60.0  # what follows is not in the index
            calls = dict(front.calls)
            waiting = asyncio.ensure_future(anext(arriving))
            while front.calls["twins/query"] < calls["twins/query"] + 3:
                await asyncio.sleep(0.005)
            now[0] += 30
            give(cloud, front, "sensor-1", "two", {"name": "blink"})
            front.hub.index_lag_s = 0.0
            second = await waiting

    assert [each.name for each in (*first.events, *second.events)] == ["reboot", "blink"]


async def test_without_a_setting_nothing_comes(opened):
    async with opened() as cloud:
        assert not cloud.limits.commands
        assert [each async for each in cloud.inbound(None)] == []
