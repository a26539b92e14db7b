"""A server of a large fleet under messages, as ``fleetcore top`` finds it: its socket, and 1,000 devices that send.

``python -m benchmarks.top_child TASK`` reads its task as one JSON line, and answers each further line with its CPU time
and what it has accepted.
"""

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.bench_path import payloads
from fleetcore import IoTFleetManager
from fleetcore.frontends.control import serve_control
from fleetcore.interfaces.provider import Limits
from fleetcore.model.credential import LocalCredential
from fleetcore.model.device import Device, Lifecycle
from fleetcore.model.message import Inbound, Outcome
from fleetcore.model.store import Commit
from fleetcore.runtime.config import Config, FleetSection
from fleetcore.runtime.process import settle_memory
from fleetcore.wire.messages import TELEMETRY

_AT_ONCE = 2000
_START_MS = 1_767_225_600_000
#: Messages are delivered in so many portions a second.
_PORTIONS = 50


def _config(task: dict[str, Any]) -> Config:
    return Config(
        fleet=FleetSection(name="bench", data=task["folder"]),
        limits=Limits(rate_per_s=1e9, burst=1 << 30, future_ms=1 << 50),
    )


async def _fill(task: dict[str, Any]) -> None:
    """Devices by direct commits."""
    async with IoTFleetManager(config=_config(task)) as manager:
        fleet = await manager.open()
        for first in range(0, task["devices"], _AT_ONCE):
            some = [
                Device(
                    id=f"dev-{at:04d}", type="bench", lifecycle=Lifecycle.ACTIVE, created=_START_MS, updated=_START_MS
                )
                for at in range(first, min(first + _AT_ONCE, task["devices"]))
            ]
            await fleet.storage.commit(Commit(puts=tuple(fleet.devices.records.put(device) for device in some)))


async def _serve(task: dict[str, Any]) -> None:
    async with IoTFleetManager(config=_config(task)) as manager, serve_control(manager, Path(task["folder"])):
        fleet = await manager.open()
        data = payloads(task["per_s"] * 4, 3)
        sessions = {
            device: await fleet.plane.authenticate(LocalCredential(device), protocol="bench")
            for device in sorted({device for device, _ in data})
        }
        settle_memory()

        def done(_outcome: Outcome) -> None:
            pass

        async def send() -> None:
            at, began = 0, time.monotonic()
            while True:
                for _ in range(task["per_s"] // _PORTIONS):
                    device, payload = data[at % len(data)]
                    if not fleet.ingest.deliver(
                        sessions[device], Inbound(type=TELEMETRY, subject=device, payload=payload), done
                    ):
                        await fleet.ingest.ready()
                    at += 1
                await asyncio.sleep(max(0.0, began + at / task["per_s"] - time.monotonic()))

        sending = asyncio.create_task(send())
        print(json.dumps({}), flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps({"processor": time.process_time(), "accepted": fleet.path.accepted}), flush=True)
        sending.cancel()


def main() -> None:
    """Serves until its input ends."""
    task = json.loads(sys.stdin.readline())
    asyncio.run(_fill(task))
    asyncio.run(_serve(task))


if __name__ == "__main__":
    main()
