"""``fleetcore simulate`` against a server: what was sent and acknowledged, for people and for programs."""

import asyncio
import json

import pytest

from fleetcore.cli.serve import running


@pytest.mark.parametrize("output", ["table", "json"])
async def test_what_was_sent_and_acknowledged_is_told(data, process, output):
    file = data / "fleet.toml"
    file.write_text(file.read_text().replace("0.0.0.0:8443", "127.0.0.1:0").replace("0.0.0.0:8883", "127.0.0.1:0"))
    words = ["simulate", "--devices", "2", "--duration", "1", "--data", data, "-o", output]

    async with running(data):
        done = await asyncio.to_thread(process, *words)

    assert done.returncode == 0, done.stderr
    if output == "json":
        assert json.loads(done.stdout) == {"devices": 2, "sent": 2, "acknowledged": 2, "updated": 0}
    else:
        assert "2 devices sent 2 readings, 2 were acknowledged" in done.stdout


async def test_a_second_simulation_takes_the_devices_of_the_first_again(data, process):
    file = data / "fleet.toml"
    file.write_text(file.read_text().replace("0.0.0.0:8443", "127.0.0.1:0").replace("0.0.0.0:8883", "127.0.0.1:0"))
    words = ["simulate", "--devices", "2", "--duration", "1", "--data", data, "-o", "json"]

    async with running(data):
        done = [await asyncio.to_thread(process, *words) for _ in range(2)]

    assert [each.returncode for each in done] == [0, 0], done
    assert {each.stdout for each in done} == {done[0].stdout}


async def test_a_device_of_another_kind_is_not_taken(data, process):
    file = data / "fleet.toml"
    file.write_text(file.read_text().replace("0.0.0.0:8443", "127.0.0.1:0").replace("0.0.0.0:8883", "127.0.0.1:0"))
    register = ["device", "register", "sim-0001", "--type", "thermometer", "--data", data]

    async with running(data):
        await asyncio.to_thread(process, *register)
        done = await asyncio.to_thread(process, "simulate", "--devices", "1", "--duration", "1", "--data", data)

    assert done.returncode == 4
    assert "'sim-0001' exists and was not created by a simulation. Choose other names with --prefix" in done.stderr


async def test_leaves_behind_gateways_over_websocket_are_simulated_and_again(data, process):
    file = data / "fleet.toml"
    text = file.read_text().replace("0.0.0.0:8443", "127.0.0.1:0").replace("[protocols.mqtt]", "[protocols.websocket]")
    file.write_text(text.replace("mqtts://0.0.0.0:8883", "wss://127.0.0.1:0"))
    words = ["simulate", "--devices", "2", "--leaves", "3", "--duration", "1", "--data", data]

    async with running(data):
        done = [await asyncio.to_thread(process, *words) for _ in range(2)]

    for each in done:
        assert each.returncode == 0, each.stderr
        assert "2 devices and 6 leaves sent 8 readings, 8 were acknowledged" in each.stdout


async def test_without_a_protocol_for_gateways_no_leaves_are_simulated(data, process):
    file = data / "fleet.toml"
    text = file.read_text().replace("0.0.0.0:8443", "127.0.0.1:0")
    file.write_text(text.partition("[protocols.mqtt]")[0])

    async with running(data):
        done = await asyncio.to_thread(process, "simulate", "--leaves", "1", "--duration", "1", "--data", data)

    assert done.returncode == 5, done
    assert "gateway" in done.stderr
