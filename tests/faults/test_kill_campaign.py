"""kill -9 of a server in the middle of a campaign of real devices: each device is updated and counted once."""

import asyncio
import contextlib
import random

from fleetcore.errors import Unavailable
from fleetcore.interfaces.waits import end_tasks
from fleetcore.runtime.clock import SystemClock
from fleetcore.testing.flash import MemoryFlash
from fleetcore.testing.patience import PATIENCE_S
from fleetcore.testing.simulator import SimulatedDevice

KINDS = ("http", "mqtt", "http", "mqtt 3.1.1", "http")
KILLS = 4
IMAGE = bytes(range(256)) * 2048


def a_device(server, kind, secrets):
    endpoint = server.http if kind == "http" else server.mqtt
    return SimulatedDevice(
        secrets, lambda _endpoint, held: server.client(kind, held), endpoint, SystemClock(), flash=MemoryFlash(),
        download=None if kind == "http" else (lambda _endpoint, held: server.client("http", held), server.http),
    )  # fmt: skip


async def lives(device):
    """Sends readings, and connects again whenever the server was away."""
    second = 0
    while True:
        with contextlib.suppress(Unavailable):
            await device.connect()
            while True:
                await device.send_second(second, SystemClock().now_ms())
                second += 1
                await asyncio.sleep(0.05)
        with contextlib.suppress(Unavailable):
            await device.disconnect()
        await asyncio.sleep(0.05)


async def test_a_campaign_goes_on_after_each_kill_9_and_counts_every_device_once(server, opened):
    chance = random.Random(5)
    devices = [a_device(server, kind, await server.device(f"d-{number}")) for number, kind in enumerate(KINDS)]
    image = await stored(server)
    living = [asyncio.create_task(lives(device)) for device in devices]
    names = [device.device for device in devices]
    campaign = {
        "id": "c", "release": "2.0.0", "devices": names, "sha256": image, "waves": ["1", "2"], "retries": 2,
        "retry_after_s": 0,
    }  # fmt: skip
    await server.caller.run("create_campaign", campaign)

    changes = 0
    for _ in range(KILLS):
        changes = await moved(server, beyond=changes)
        await asyncio.sleep(chance.random() / 10)
        await server.kill()
        await server.start()
    async with asyncio.timeout(PATIENCE_S):
        while (await server.caller.run("get_campaign", {"campaign": "c"}))["finished_at"] is None:
            await asyncio.sleep(0.05)
    await end_tasks(*living)
    for device in devices:
        await device.disconnect()
    await server.kill()

    async with opened(server.data) as manager:
        found = await manager.get_campaign("c")
        executions = await manager.list_executions("c")
        ways = [(await manager.why_execution("c", name))["decisions"] for name in names]
        assert (await manager.check_storage()).problems == []
    assert (found["state"], found["counts"]) == ("succeeded", {"succeeded": len(KINDS)})
    assert {each["device"]: each["state"] for each in executions} == dict.fromkeys(names, "succeeded")
    assert [[each["state"] for each in way].count("succeeded") for way in ways] == [1] * len(KINDS)
    assert [device.firmware for device in devices] == ["2.0.0"] * len(KINDS)


async def stored(server):
    """The digest of the image, which the server has."""
    file = server.data / "image.bin"
    file.write_bytes(IMAGE)
    code, out, err = await server.command("firmware", "upload", str(file), "-o", "json")
    assert code == 0, err
    return out.split('"sha256": "')[1][:64]


async def moved(server, *, beyond):
    """How many times the updates have moved, once that is more than before, or the campaign has ended."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found = await server.caller.run("list_executions", {"campaign": "c"})
            moves = sum(
                {"waiting": 0, "offered": 1, "downloading": 2, "downloaded": 3}.get(each["state"], 4)
                for each in found["items"]
            )
            if moves > beyond or moves == 4 * len(KINDS):
                return moves
            await asyncio.sleep(0.01)
