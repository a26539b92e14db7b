"""Health with its parts, and why a device is as it is."""

import pytest

from fleetcore.errors import NotFound
from fleetcore.wire import messages


async def heard(fleet, clock, *devices):
    for device in devices:
        fleet.presence.opened(device)


async def test_no_data_is_not_healthy_and_what_a_device_does_not_have_is_left_out(fleet, clock):
    await fleet.devices.register("never", "sensor")
    await fleet.devices.register("well", "sensor")
    await heard(fleet, clock, "well")

    never, well = await fleet.health.device("never"), await fleet.health.device("well")

    assert (never.score, set(never.parts)) == (0.0, {"connectivity", "convergence", "anomalies", "firmware"})
    assert (well.score, well.parts["connectivity"]) == (100.0, 1.0)
    assert (await fleet.health.fleet()).score == 50.0


async def test_without_an_anomaly_the_part_is_whole_whoever_was_never_heard_of(fleet, clock):
    for device in ("never", "well"):
        await fleet.devices.register(device, "sensor")
    unheard = await fleet.health.fleet()
    await heard(fleet, clock, "well")

    health = await fleet.health.fleet()

    assert "anomalies" not in unheard.parts
    assert (health.parts["anomalies"], health.counts["devices_with_anomalies"]) == (1.0, 0)


async def test_a_low_battery_is_a_part_of_its_own(fleet, clock):
    await fleet.devices.register("a", "sensor")
    await heard(fleet, clock, "a")
    await fleet.twins.report("a", {"power": {"battery": 5}})

    health = await fleet.health.device("a")

    assert health.parts["power"] == 0.25
    assert health.score < 100


async def test_health_of_a_group_is_that_of_its_devices(fleet, clock):
    await fleet.devices.register("a", "sensor")
    await fleet.devices.register("b", "sensor")
    await heard(fleet, clock, "a")
    await fleet.groups.create("site")
    await fleet.groups.add("site", ["a"])

    assert (await fleet.health.of(fleet.groups.members("site"))).score == 100.0


async def test_retired_devices_count_for_nothing_and_an_empty_fleet_has_no_score(manager, fleet):
    assert (await fleet.health.fleet()).score is None
    await manager.register_device("a", "sensor")
    await manager.set_lifecycle("a", "retired")

    assert (await fleet.health.fleet()).score is None


async def test_why_names_what_is_not_as_it_should_be(manager, fleet, clock):
    await manager.register_device("a", "sensor", {"tags": ["x"]})
    await fleet.groups.create("tagged", query="tags has 'x'")
    await fleet.twins.desire("a", {"interval": 60})
    await heard(fleet, clock, "a")
    await fleet.twins.acknowledge("a", messages.TwinAck(version=1, refused={"/interval": {"code": "out_of_range"}}))
    await fleet.commands.send("a", "reboot")
    await clock.advance(3600)
    fleet.presence.closed("a")
    await fleet.wait_idle()

    why = await manager.diagnose_device("a")

    assert why["findings"] == [
        "it is offline",
        "its desired and reported states differ",
        "it refuses /interval",
        "it has not applied /interval for 60 min",
        "1 commands wait, the first is reboot (queued)",
    ]
    assert [one["group"] for one in why["groups"]] == ["tagged"]
    assert "twin.desired" in [one["action"] for one in why["changes"]]
    with pytest.raises(NotFound):
        await manager.diagnose_device("ghost")
