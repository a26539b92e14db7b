"""Writes a data folder as the current release does, to be kept for every later one: ``python tests/records/write.py``.

Run it once when the schema's version changes, before the first release that has it; never again, or the record would
no longer be what the release wrote. Beside ``schema-N.tar.gz`` stands ``schema-N.json``: what was in it.
"""

import asyncio
import json
import sys
import tarfile
import tempfile
from pathlib import Path

from fleetcore import IoTFleetManager
from fleetcore.builtin.sqlite.schema import VERSION
from fleetcore.calls.types import to_builtins
from fleetcore.cli.root import run
from fleetcore.model.credential import LocalCredential
from fleetcore.model.message import Inbound
from fleetcore.wire import messages
from fleetcore.wire.records import to_plain
from fleetcore.wire.times import format_time

HERE = Path(__file__).parent
START_MS = 1_780_000_000_000
#: What depends on when one looks.
VARYING = {"connectivity", "last_seen", "time"}


async def fill(data):
    """A little of everything that a folder can hold."""
    async with IoTFleetManager(data) as manager:
        await manager.register_device(
            "th-1", "thermometer", {"tags": ["roof"], "location": {"lat": 52.52, "lon": 13.405}, "note": "grün"}
        )
        await manager.register_device("gone-1", "thermometer")
        await manager.register_gateway("gw-1")
        await manager.register_device("leaf-1", "probe")
        await manager.attach_leaf("gw-1", "leaf-1")
        await manager.update_device("th-1", model="T-1000", reason="read off its label")
        await manager.set_lifecycle("gone-1", "retired", reason="broken")
        await manager.set_desired("th-1", {"interval": 60})
        await manager.issue_device_token("th-1")
        artifact = await manager.upload_artifact(b"firmware " * 100)
        await manager.update_firmware(
            "fw-1",
            "2.0.0",
            ["th-1"],
            "https://updates.example.com/2",
            sha256=artifact["sha256"],
            size=artifact["size_bytes"],
        )
        command = await manager.send_command("th-1", "reboot", {"delay_s": 5})
        fleet = await manager.open()
        session = await fleet.plane.authenticate(LocalCredential("th-1"), protocol="local")
        # Sealed, in the log, text, a truth value, a correction by seq, a message id, and one that is refused.
        await fill_series(fleet, session, range(2000))
        await fleet.storage.maintain(fleet.clock.now_ms() + 86_400_000)
        await fill_series(fleet, session, range(2000, 2100))
        for body, message in (
            ({"time": START_MS, "values": {"state": "ok", "door": True}}, "message-1"),
            ([{"metric": "temperature", "value": 99.5, "time": START_MS, "seq": 7}], None),
            ({"time": START_MS + 5_000_000, "values": {"temperature": 400.0}}, None),
            (b"no json", None),
        ):
            await say(fleet, session, body, message)
        await manager.wait_idle()
        return await look(manager, command["id"])


async def look(manager, command):
    """What the folder holds, as the façade shows it."""
    device, twin = map(to_builtins, (await manager.get_device("th-1"), await manager.get_twin("th-1")))
    # What the store needs of a command is in its record alone.
    stored, shown = await manager.commands.get(command), await manager.get_command(command)
    return {
        "device": {name: device[name] for name in device.keys() - VARYING},
        "devices": sorted(one["id"] for one in await manager.list_devices()),
        "gone": (await manager.get_device("gone-1"))["lifecycle"],
        "temperature": summary(await manager.query_telemetry("th-1", "temperature")),
        "latest": [to_builtins(one) for one in await manager.list_device_latest_readings("th-1")],
        "twin": {name: twin[name] for name in twin.keys() - VARYING},
        "command": {**to_builtins(shown), "version": stored.version, "result_hash": stored.result_hash},
        "campaign": {
            **to_builtins(await manager.get_campaign("fw-1")),
            "executions": [
                {**to_plain(one), "changed": format_time(one.changed)}
                async for one in manager.campaigns.executions.iterate()
            ],
        },
        "anomalies": [to_builtins(one) async for one in manager.iter_anomalies()],
        "dead_letters": [to_builtins(one) async for one in manager.iter_dead_letters()],
        "location": to_builtins(await manager.get_location("th-1")),
    }


def summary(series):
    """What a whole series says, in little room."""
    return {"count": len(series), "sum": round(sum(series.value), 3), "ends": series.value[[0, -1]].tolist()}


async def fill_series(fleet, session, numbers):
    """One message of 100 readings at a time."""
    for first in numbers[::100]:
        await say(
            fleet, session, [{"metric": "temperature", "value": 20 + i % 50 / 10, "time": START_MS + i * 1000, "seq": 1}
                             for i in range(first, first + 100)],
        )  # fmt: skip


async def say(fleet, session, body, message=None):
    """One telemetry message through the device plane's door."""
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    await fleet.ingest.submit(session, Inbound(type=messages.TELEMETRY, subject="th-1", payload=payload, id=message))


def main():
    """See the module."""
    target = HERE / f"schema-{VERSION}.tar.gz"
    if target.exists():
        sys.exit(f"{target.name} is a record already; it must stay as it was written")
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        run(["init", str(data), "--name", "record"])
        with (data / "fleet.toml").open("a") as file:
            file.write('\n[detectors.too-hot]\nkind = "threshold"\nabove = 300.0\n')
        known = asyncio.run(fill(data))
        (data / "lock").unlink()
        with tarfile.open(target, "w:gz") as tar:
            tar.add(data, "data")
    (HERE / f"schema-{VERSION}.json").write_text(json.dumps(known, indent=1, ensure_ascii=False, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
