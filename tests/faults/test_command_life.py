"""kill -9 at every point of a command's life: before and after each commit that touches it.

The device keeps what it ran in a file of its own, as a real one would in its flash, and answers a repeat from there.
"""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from fleetcore import IoTFleetManager

LIFE = """
import asyncio, json, os, sys
from pathlib import Path
from fleetcore import IoTFleetManager
from fleetcore.model.credential import LocalCredential
from fleetcore.model.message import Accepted, Inbound
from fleetcore.runtime.clock import SystemClock
from fleetcore.wire import messages

data, ran, kill_at, later_s = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])

class Later(SystemClock):
    def now_ms(self):
        return super().now_ms() + later_s * 1000

def arm(storage):
    # Counts commits that touch a command; odd points kill before the commit, even ones after it.
    real, count = storage.commit, 0

    async def commit(change):
        nonlocal count
        if not any(put.kind == "command" for put in change.puts):
            return await real(change)
        count += 1
        if kill_at == 2 * count - 1:
            os.kill(os.getpid(), 9)
        done = await real(change)
        if kill_at == 2 * count:
            os.kill(os.getpid(), 9)
        return done

    storage.commit = commit

async def device_runs(fleet, session, command):
    known = [json.loads(line) for line in ran.read_text().splitlines()] if ran.exists() else []
    statuses = ["accepted", "running", "succeeded"]
    if not any(one["id"] == command["id"] for one in known):
        with ran.open("a") as flash:
            flash.write(json.dumps({"id": command["id"], "sequence": command["sequence"]}) + "\\n")
            flash.flush()
            os.fsync(flash.fileno())
    for status in statuses:
        body = json.dumps({"status": status}).encode()
        message = Inbound(type=messages.COMMAND_RESULT, subject="dev", payload=body, target=command["id"])
        outcome = await fleet.ingest.submit(session, message)
        assert isinstance(outcome, Accepted), outcome

async def main():
    manager = IoTFleetManager(data, clock=Later())
    fleet = await manager.open()
    arm(fleet.storage)
    if await fleet.devices.find("dev") is None:
        await fleet.devices.register("dev", "sensor")
    await fleet.commands.send("dev", "reboot", idempotency_key="once")
    session = await fleet.plane.authenticate(LocalCredential("dev"), protocol="test")
    for command in await fleet.commands.hand_out("dev", again=True):
        await device_runs(fleet, session, fleet.commands.wire(command))
    await manager.close()

asyncio.run(main())
"""

#: Queued, sent, accepted, running, succeeded: each before and after its commit.
POINTS = range(1, 11)


async def live(data, ran, kill_at, later_s=0):
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", LIFE, str(data), str(ran), str(kill_at), str(later_s)), stderr=asyncio.subprocess.PIPE
    )
    _, err = await process.communicate()
    return process.returncode, err.decode()


@pytest.mark.parametrize("point", POINTS)
async def test_a_command_runs_once_wherever_the_server_is_killed(tmp_path, point):
    data, ran = tmp_path / "data", tmp_path / "flash.jsonl"

    code, err = await live(data, ran, point)
    assert code == -9, err
    async with IoTFleetManager(data) as manager:
        between = await manager.list_device_commands("dev") if point > 1 else []
        for one in between:
            # Shown as delivered only after the device's own word, which the device gives after it ran.
            assert one["state"] in ("queued", "sent") or Path(ran).exists(), one
    # What was handed out this second may be under way still and is not sent again.
    code, err = await live(data, ran, 0, later_s=2)
    assert code == 0, err

    async with IoTFleetManager(data) as manager:
        (command,) = await manager.list_device_commands("dev")
        assert command["state"] == "succeeded"
        assert (await manager.verify_audit())["ok"]
    assert [json.loads(line)["id"] for line in ran.read_text().splitlines()] == [command["id"]]


async def test_an_expired_command_is_never_sent(tmp_path):
    from fleetcore.testing.clock import MovableClock

    clock = MovableClock()
    async with IoTFleetManager(tmp_path, clock=clock) as manager:
        fleet = await manager.open()
        await fleet.devices.register("dev", "sensor")
        late = await fleet.commands.send("dev", "x", deliver_within_s=60)
        await clock.advance(61)
        assert list(await fleet.commands.hand_out("dev")) == []
        await fleet.commands.tick()
        assert (await fleet.commands.get(late.id)).state == "expired"
        assert (await fleet.commands.get(late.id)).attempt == 0
