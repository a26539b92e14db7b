"""The façade as CONTRACT states it: the script runs as it stands, in memory and on a folder."""

import asyncio
import subprocess
import sys
import textwrap

import pytest

from fleetcore import IoTFleetManager
from fleetcore.errors import Conflict, DataFolderInUse, NotFound, Refused, WrongLoop
from fleetcore.testing.patience import PATIENCE_S

SCRIPT = """
import asyncio, sys
from fleetcore import IoTFleetManager

async def main():
    manager = IoTFleetManager(*sys.argv[1:])
    device_id = await manager.register_device("sensor-001", "temperature-sensor", {
        "location": {"lat": 37.7749, "lon": -122.4194},
        "capabilities": ["temperature", "humidity"],
        "tags": ["outdoor", "production"]})
    await manager.provision_device(device_id, {"reporting_interval": 300, "temperature_unit": "celsius"})
    await manager.collect_telemetry(device_id, "temperature", 25.5, "celsius")
    await manager.update_firmware("fw-update-001", "2.0.0", [device_id], "https://updates.example.com/v2.0.0")
    health = await manager.get_fleet_health()
    print(f"Fleet health score: {health['health_score']}%")

asyncio.run(main())
"""


def run_script(*arguments):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(SCRIPT), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_the_contract_script_runs_in_memory_and_leaves_nothing_on_stderr():
    done = run_script()

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Fleet health score: ")


def test_the_contract_script_keeps_what_it_did_on_a_folder(tmp_path):
    done = run_script(tmp_path / "data")
    assert (done.returncode, done.stderr) == (0, "")

    with IoTFleetManager.sync(tmp_path / "data") as manager:
        device = manager.get_device("sensor-001")
        latest = manager.list_device_latest_readings("sensor-001")
        campaign = manager.get_campaign("fw-update-001")

    assert device["tags"] == ["outdoor", "production"]
    assert [(one["metric"], one["value"], one["unit"]) for one in latest] == [("temperature", 25.5, "celsius")]
    assert (campaign["state"], campaign["code"]) == ("draft", "artifact_unpinned")


async def test_registering_an_existing_id_is_a_conflict_also_in_another_case(manager):
    await manager.register_device("sensor-1", "sensor")

    for again in ("sensor-1", "SENSOR-1"):
        with pytest.raises(Conflict):
            await manager.register_device(again, "other")

    assert (await manager.get_device("sensor-1"))["type"] == "sensor"


@pytest.mark.parametrize("name", ["", "a/b", "+", "#", "é", "a\n", "-a", "a" * 65, "$SYS"])
async def test_an_id_outside_the_alphabet_is_refused(manager, name):
    with pytest.raises(Refused) as refused:
        await manager.register_device(name, "sensor")

    assert refused.value.code == "name_invalid"


async def test_another_loop_is_told_so(manager):
    await manager.get_fleet_health()

    with pytest.raises(WrongLoop):
        await asyncio.to_thread(lambda: asyncio.run(manager.get_fleet_health()))


async def test_an_empty_fleet_has_a_score_that_can_be_printed(manager):
    health = await manager.get_fleet_health()

    assert (health["health_score"], health.score, health.counts["devices"]) == (0.0, None, 0)


async def test_provisioning_again_with_the_same_configuration_is_no_new_version(manager):
    await manager.register_device("a", "sensor")
    first = await manager.provision_device("a", {"interval": 1})

    again = await manager.provision_device("a", {"interval": 1})
    other = await manager.provision_device("a", {"interval": 2})

    assert first["desired_version"] == again["desired_version"] == other["desired_version"] - 1


async def test_the_second_manager_on_a_folder_is_refused_with_the_remedy(tmp_path):
    async with IoTFleetManager(tmp_path / "data"):
        with pytest.raises(DataFolderInUse) as refused:
            await IoTFleetManager(tmp_path / "data").open()

    assert refused.value.remedy


async def test_what_does_not_exist_is_named(manager):
    with pytest.raises(NotFound) as missing:
        await manager.get_device("ghost")

    assert "ghost" in str(missing.value)


def test_the_public_names_are_importable():
    import fleetcore

    for name in ("IoTFleetManager", "SecurityManager", "EdgeComputing", "AnomalyDetector", "FleetError", "hookimpl"):
        assert getattr(fleetcore, name).__module__.startswith(("fleetcore", "pluggy"))


def test_the_version_answers_before_anything_is_imported():
    code = (
        "import sys; sys.argv=['fleetcore','--version']; from fleetcore.cli import main; main(); "
        "print('numpy' in sys.modules, 'click' in sys.modules)"
    )

    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=PATIENCE_S
    ).stdout

    assert out.split()[-2:] == ["False", "False"]


def test_the_blocking_facade_watches_too_and_stops_when_the_loop_over_it_does():
    with IoTFleetManager.sync() as manager:
        manager.register_device("a", "sensor")

        for event in manager.watch_events(after=0):
            if event["type"] == "device.registered":
                break

        assert event["subject"] == "a"
        assert manager.count_devices().count == 1


async def test_what_is_watched_is_the_callers_own(manager):
    fleet = await manager.open()
    before = await fleet.storage.position()
    await manager.register_device("a", "sensor", {"tags": ["x"]})

    async for event in manager.watch_events(after=before):
        event["data"]["evil"] = True
        break

    stored = [event for entry in await fleet.storage.feed(before) for event in entry.events]
    assert stored
    assert not any("evil" in event.data for event in stored)
