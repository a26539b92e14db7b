"""The registry: what a device's record may hold, and where it says that the device is."""

import asyncio
import math

import pytest

from fleetcore.errors import Refused, VersionConflict
from fleetcore.model.device import Lifecycle
from fleetcore.wire import messages


def nested(depth):
    return {"a": nested(depth - 1)} if depth else 1


BAD = [
    {"attributes": nested(11)},
    {"attributes": {"x": "y" * 65_536}},
    {"attributes": {f"k{number}": number for number in range(1_001)}},
    {"attributes": {"$x": 1}},
    {"attributes": {"a\0b": 1}},
    {"attributes": {"": 1}},
    {"attributes": {"x": math.nan}},
    {"attributes": {"x": 2**53}},
    {"attributes": {"x": ["a\0b"]}},
    {"attributes": {"x": "\ud800"}},
    {"attributes": [1]},
    {"name": "a\0b"},
    {"name": "\ud800"},
    {"name": 5},
    {"name": "n" * 1_025},
    {"model": "<script>"},
    {"tags": ["<script>"]},
    {"capabilities": ["\x1b[31m"]},
    {"gateway": "a"},
]


@pytest.mark.parametrize("members", BAD)
async def test_what_breaks_a_limit_is_refused_at_registration_and_at_a_change(fleet, members):
    await fleet.devices.register("b", "sensor")

    with pytest.raises(Refused):
        await fleet.devices.change("b", **members | ({"gateway": "b"} if "gateway" in members else {}))
    with pytest.raises(Refused):
        await fleet.devices.register("a", "sensor", **members)

    assert [one.id for one in await fleet.devices.list()] == ["b"]
    assert (await fleet.devices.get("b")).version == 1


async def test_what_is_only_odd_is_kept_as_it_is(fleet):
    odd = {"__proto__": {"a.b": 1}, "é": [2**53 - 1, None, "<script>"]}

    await fleet.devices.register("a", "sensor", name="=HYPERLINK(1)\x1b[0m", attributes=odd)

    assert (await fleet.devices.get("a")).attributes == odd


async def test_a_device_that_was_moved_by_hand_is_found_where_it_is_now(manager):
    await manager.register_device("a", "sensor", {"location": {"lat": 1, "lon": 2}})

    await manager.update_device("a", location={"lat": 50, "lon": 60})

    assert [one["id"] for one in await manager.list_devices(where="location within circle(50, 60, 1 km)")] == ["a"]
    assert (await manager.list_devices(where="location within circle(1, 2, 1 km)")).items == []
    assert (await manager.get_location("a"))["lat"] == 50


async def test_the_lifecycle_too_moves_only_from_the_version_that_was_read(fleet):
    await fleet.devices.register("a", "sensor")

    with pytest.raises(VersionConflict):
        await fleet.devices.move("a", Lifecycle.SUSPENDED, if_version=7)

    assert (await fleet.devices.move("a", Lifecycle.SUSPENDED, if_version=1)).version == 2


@pytest.mark.parametrize("decided", [Lifecycle.SUSPENDED, Lifecycle.QUARANTINED])
async def test_a_first_message_does_not_undo_what_was_decided_of_the_device_meanwhile(fleet, decided):
    await fleet.devices.register("a", "sensor")
    await fleet.devices.activate("a")
    await fleet.devices.move("a", decided)

    await fleet.devices.activate("a")

    assert (await fleet.devices.get("a")).lifecycle is decided


async def test_changes_at_once_without_a_version_all_hold(manager, fleet):
    await manager.register_device("b", "sensor")

    await asyncio.gather(*(manager.update_device("b", attributes={f"k{n}": n}) for n in range(50)))
    await asyncio.gather(*(manager.update_device("b", location={"lat": 1.0, "lon": float(n)}) for n in range(50)))
    await asyncio.gather(*(manager.set_attributes("b", {f"m{n}": n}) for n in range(50)))
    await asyncio.gather(*(manager.set_desired("b", {f"d{n}": n}) for n in range(50)))

    device = await manager.get_device("b")
    assert device["attributes"] == {f"{letter}{n}": n for letter in "km" for n in range(50)}
    assert len((await manager.get_twin("b"))["desired"]) == 50


async def test_attributes_of_an_update_are_merged_as_those_of_a_twin(manager, fleet):
    await manager.register_device("b", "sensor", {"floor": 1, "room": {"name": "hall", "door": 2}})

    await manager.update_device("b", attributes={"floor": None, "room": {"door": 3}})

    assert (await manager.get_device("b"))["attributes"] == {"room": {"name": "hall", "door": 3}}


async def test_of_two_positions_of_one_time_the_first_stands(fleet, clock):
    await fleet.devices.register("d-0", "sensor")
    at = clock.now_ms()
    for lat in (1.0, 2.0):
        await fleet.location.update("d-0", [messages.Position(lat=lat, lon=10.0, time=at)])

    assert (await fleet.location.of("d-0")).lat == 1.0
