"""A reader of the live stream that does not keep up: state is coalesced, the rest is dropped and counted, and bounded."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest

from fleetcore import IoTFleetManager
from fleetcore.calls.caller import owner
from fleetcore.calls.live import Conversation
from fleetcore.calls.live.subscription import LiveLimits
from fleetcore.interfaces.waits import end_tasks
from fleetcore.model.store import Commit, Event
from fleetcore.testing.patience import PATIENCE_S


@pytest.fixture
async def manager():
    async with IoTFleetManager() as manager:
        for number in range(3):
            await manager.register_device(f"t-{number}", "truck")
        yield manager


@asynccontextmanager
async def conversing(manager, *subscriptions, **limits):
    """A conversation that is followed, with its reader's end, which reads when it is told to."""
    fleet = await manager.open()
    conversation = Conversation(owner(fleet, "test"), LiveLimits(**limits))
    await conversation.begin()
    following = asyncio.ensure_future(conversation.follow())
    told = conversation.told()
    assert (await anext(told))["op"] == "hello"
    for asked in subscriptions:
        await conversation.take(json.dumps({"op": "subscribe", **asked}).encode())

    async def read():
        async with asyncio.timeout(PATIENCE_S):
            return await anext(told)

    async def seen():
        position = await fleet.storage.position()
        async with asyncio.timeout(PATIENCE_S):
            while conversation.position < position:
                await asyncio.sleep(0.01)

    try:
        yield read, seen
    finally:
        await end_tasks(following)
        await told.aclose()


async def test_of_a_device_that_changes_faster_than_it_is_read_the_newest_state_is_told_once(manager):
    async with conversing(manager, {"id": "s", "to": "state", "parts": ["tags"]}) as (read, seen):
        while (await read())["op"] != "ready":
            pass
        for number in range(50):
            await manager.update_device("t-0", tags=[str(number)])
        await manager.update_device("t-1", tags=["last"])
        await seen()
        told = [await read(), await read()]

    assert [(frame["device"], frame["state"]["tags"]) for frame in told] == [("t-0", ["49"]), ("t-1", ["last"])]


async def test_events_beyond_the_bound_are_dropped_and_counted_and_the_newest_stay(manager):
    fleet = await manager.open()
    async with conversing(manager, {"id": "e", "to": "events"}, waiting=10) as (read, seen):
        for number in range(50):
            event = Event(type="device.changed", subject="t-0", time=0, reason=str(number), data={"members": []})
            await fleet.storage.commit(Commit(events=(event,)))
        await seen()
        dropped = await read()
        told = [await read() for _ in range(10)]

    assert (dropped["op"], dropped["count"]) == ("dropped", 40)
    assert [event.reason for frame in told for event in frame["events"]] == [str(number) for number in range(40, 50)]
    assert dropped["position"] < told[0]["position"]


async def test_of_readings_beyond_the_bound_the_newest_of_each_series_stays(manager):
    async with conversing(manager, {"id": "r", "to": "readings"}, waiting=10) as (read, seen):
        for number in range(30):
            for device in ("t-0", "t-1"):
                await manager.collect_telemetry(device, "n", number, time=1_760_000_000_000 + number)
        await seen()
        dropped, told = await read(), await read()

    newest = {}
    for reading in told["readings"]:
        newest[reading["device"]] = reading["value"]
    assert newest == {"t-0": 29.0, "t-1": 29.0}
    assert dropped["op"] == "dropped"
    assert "position" not in dropped  # a reader that resumed from it would miss those that stayed
    assert dropped["count"] + len(told["readings"]) == 60
    assert len(told["readings"]) <= 10


async def test_a_subscription_that_selects_too_much_ends_with_the_reason_and_the_others_go_on(manager):
    many, few = {"id": "many", "to": "state"}, {"id": "few", "to": "state", "where": "id = 't-0'"}
    async with conversing(manager, many, few, selected=2) as (read, _):
        frames = [await read()]
        while frames[-1]["op"] != "ready":
            frames.append(await read())
        (failed,) = [frame for frame in frames if frame["op"] == "ended"]

    assert (failed["id"], failed["error"].code) == ("many", "limit_exceeded")
    assert frames[-1]["id"] == "few"


async def test_a_subscription_that_is_behind_catches_up_in_order_beside_the_others(manager):
    fleet = await manager.open()
    begun = await fleet.storage.position()
    for number in range(250):
        event = Event(type="device.changed", subject="t-0", time=0, reason=str(number), data={"members": []})
        await fleet.storage.commit(Commit(events=(event,)))
    old, new = {"id": "old", "to": "events", "after": begun}, {"id": "new", "to": "events"}
    async with conversing(manager, old, new) as (read, seen):
        await seen()
        event = Event(type="device.changed", subject="t-0", time=0, reason="250", data={"members": []})
        await fleet.storage.commit(Commit(events=(event,)))
        found = {"old": [], "new": []}
        while sum(map(len, found.values())) < 252:
            frame = await read()
            if frame["op"] == "events":
                found[frame["id"]] += [event.reason for event in frame["events"]]

    assert found == {"old": [str(number) for number in range(251)], "new": ["250"]}


async def test_a_reader_without_news_is_told_where_it_stands(manager):
    async with conversing(manager, {"id": "e", "to": "events", "types": ["nothing."]}) as (read, _):
        await manager.update_device("t-0", tags=["unseen"])
        fleet = await manager.open()
        before = await fleet.storage.position()
        frame = await read()

    assert frame["op"] == "at"
    assert 0 < frame["position"] <= max(before, await fleet.storage.position())
