"""What gateways have, promise and use: the call, the command, and reports that no machine gives."""

import asyncio
import json

import msgspec
import pytest

from fleetcore import IoTFleetManager
from fleetcore.cli.root import run

REPORT = {
    "functions": {
        "vibration": {"version": "1.0.0", "state": "running", "cpu_percent": 12.4, "memory_kib": 1500, "ms": 90},
        "filter": {"version": "2.0.0", "state": "failed", "code": "trapped", "memory_kib": 600},
    },
    "resources": {"cpu_cores": 2, "memory_mib": 512, "disk_mib": 4000, "free_disk_mib": 3100, "free_memory_mib": 200,
                  "load": 0.41},
    "uplink": {"connections": 3, "waiting": 17, "dropped": 5, "lost": 0},
}  # fmt: skip


async def reporting(folder, report, *, gateways=("gw-1",)):
    async with IoTFleetManager(folder, create=True) as manager:
        for name in gateways:
            await manager.register_gateway(name, model="G-1", cpu_percent=100, memory_mib=64)
            fleet = await manager.open()
            await fleet.twins.report(name, report)
        await manager.create_device("pump-1", type="pump")
        return [msgspec.to_builtins(each) async for each in manager.iter_gateway_usage()]


async def test_usage_adds_what_a_gateways_functions_report(tmp_path):
    (usage,) = await reporting(tmp_path / "data", REPORT)

    assert (usage["functions"], usage["running"], usage["in_sync"]) == (2, 1, False)
    assert usage["used"] == {"cpu_percent": 12, "memory_mib": 3, "disk_mib": 900}
    assert usage["capacity"] == {"cpu_percent": 100, "memory_mib": 64, "disk_mib": 4000}
    assert usage["promised"] == {"cpu_percent": 0, "memory_mib": 0, "disk_mib": 0}
    assert (usage["load"], usage["free_memory_mib"], usage["free_disk_mib"]) == (0.41, 200, 3100)
    assert (usage["waiting"], usage["dropped"], usage["lost"]) == (17, 5, 0)
    assert usage["connectivity"] == "never"


@pytest.mark.parametrize("value", [10**40, -5, 1e300, "many", True, None, [1], {"a": 1}])
async def test_a_report_of_nonsense_is_not_known_and_does_no_harm(tmp_path, value):
    report = {
        "functions": {"vibration": {"version": "1", "state": "running", "cpu_percent": value, "memory_kib": value}},
        "resources": dict.fromkeys(REPORT["resources"], value),
        "uplink": dict.fromkeys(REPORT["uplink"], value),
    }

    (usage,) = await reporting(tmp_path / "data", report)

    assert usage["used"] == {"cpu_percent": 0, "memory_mib": 0, "disk_mib": None}
    assert usage["capacity"] == {"cpu_percent": 100, "memory_mib": 64, "disk_mib": None}
    assert {usage[name] for name in ("load", "free_memory_mib", "waiting", "lost", "dropped")} == {None}


def test_edge_top_prints_gateways_in_lines(tmp_path, capsys):
    data = tmp_path / "data"
    asyncio.run(reporting(data, REPORT, gateways=("gw-1", "gw-2")))

    assert run(["edge", "top", "--data", str(data)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert run(["edge", "top", "--data", str(data), "--count", "2", "--every", "0.2", "-o", "json"]) == 0
    text = capsys.readouterr().out

    assert lines[0].split() == [
        "gateway",
        "state",
        "functions",
        "cpu",
        "%",
        "memory",
        "MiB",
        "load",
        "free",
        "MiB",
        "free",
        "disk",
        "MiB",
        "waiting",
        "lost",
    ]
    assert lines[1].split() == [
        "gw-1",
        "never",
        "1",
        "/",
        "2",
        "12",
        "/",
        "0",
        "/",
        "100",
        "3",
        "/",
        "0",
        "/",
        "64",
        "0.41",
        "200",
        "3100",
        "17",
        "0",
    ]
    assert len(lines) == 3
    first, end = json.JSONDecoder().raw_decode(text)
    assert [each["device"] for each in first] == ["gw-1", "gw-2"]
    assert json.loads(text[end:]) == first


def test_edge_top_of_a_fleet_without_gateways(tmp_path, capsys):
    asyncio.run(reporting(tmp_path / "data", REPORT, gateways=()))

    assert run(["edge", "top", "--data", str(tmp_path / "data")]) == 0

    assert capsys.readouterr().out == "nothing\n"
