"""The whole path from in-process deliveries to detection, against the bare script.

Both are measured in seconds of wall time for the same messages on the same disk, in turn; ours ends when every message
is acknowledged and the detector has seen every reading.
"""

import asyncio
import random
import tempfile
import time
from pathlib import Path

from benchmarks import bare_path
from benchmarks.measure import Row, at_most, in_turn
from fleetcore.interfaces.provider import Limits
from fleetcore.model.credential import LocalCredential
from fleetcore.model.message import Accepted, Inbound, Outcome
from fleetcore.runtime.app import Fleet
from fleetcore.runtime.config import Config, FleetSection, Instance
from fleetcore.runtime.process import settle_memory
from fleetcore.wire.messages import TELEMETRY
from fleetcore.wire.strict_json import dumps

_START_MS = 1_767_225_600_000
_DEVICES = 1000


def payloads(messages: int, readings: int) -> list[tuple[str, bytes]]:
    """Messages of ``readings`` values at one time, round robin over the devices, times rising."""
    chance = random.Random(7)
    names = [f"m{i}" for i in range(readings)]
    return [
        (
            f"dev-{i % _DEVICES:04d}",
            dumps(
                {
                    "time": _START_MS + (i // _DEVICES) * 1000,
                    "values": {name: round(20 + chance.gauss(0, 2), 2) for name in names},
                }
            ),
        )
        for i in range(messages)
    ]


async def _open(folder: Path) -> Fleet:
    config = Config(
        fleet=FleetSection(name="bench", data=str(folder)),
        limits=Limits(rate_per_s=1e9, burst=1 << 30, future_ms=1 << 40),
        detectors=(Instance(name="hot", kind="threshold", table={"above": 95.0}),),
    )
    return await Fleet.open(config)


async def _ours(data: list[tuple[str, bytes]], folder: Path) -> float:
    fleet = await _open(folder)
    try:
        devices = sorted({device for device, _ in data})
        for device in devices:
            await fleet.devices.register(device, "bench")
        sessions = {
            device: await fleet.plane.authenticate(LocalCredential(device), protocol="bench") for device in devices
        }
        first = dict(reversed(data))
        for device, payload in first.items():
            await fleet.ingest.submit(sessions[device], Inbound(type=TELEMETRY, subject=device, payload=payload))
        await fleet.wait_idle()
        acknowledged = 0

        def done(outcome: Outcome) -> None:
            nonlocal acknowledged
            assert isinstance(outcome, Accepted), outcome
            acknowledged += 1

        deliver, ready = fleet.ingest.deliver, fleet.ingest.ready
        settle_memory()
        begun = time.perf_counter()
        for device, payload in data:
            message = Inbound(type=TELEMETRY, subject=device, payload=payload)
            if not deliver(sessions[device], message, done):
                await ready()
        while acknowledged < len(data):
            await asyncio.sleep(0.001)
        await fleet.wait_idle()
        return time.perf_counter() - begun
    finally:
        await fleet.close()


def _measure(messages: int, readings: int, rounds: int) -> tuple[list[float], list[float]]:
    data = payloads(messages, readings)

    def ours() -> float:
        with tempfile.TemporaryDirectory() as folder:
            return asyncio.run(_ours(data, Path(folder))) / len(data) * 1e6

    def bare() -> float:
        with tempfile.TemporaryDirectory() as folder:
            return bare_path.run(data, 4096 if readings < 10 else 200, Path(folder)) / len(data) * 1e6

    found = in_turn({"ours": ours, "bare": bare}, rounds)
    return found["ours"], found["bare"]


def run(*, quick: bool = False) -> list[Row]:
    """The rows of this benchmark."""
    rounds = 3 if quick else 5
    ours, bare = _measure(30_000 if quick else 200_000, 3, rounds)
    hundred, hundred_bare = _measure(1_500 if quick else 10_000, 100, rounds)
    per_point = [item / 100 for item in hundred]
    return [
        at_most("whole path, message of 3 readings", ours, "bare script", bare, "µs/message", 3.0),
        at_most(
            "whole path, message of 100 readings", per_point, "bare script", [item / 100 for item in hundred_bare],
            "µs/point", 2.0,
        ),
    ]  # fmt: skip


if __name__ == "__main__":
    for row in run(quick=True):
        print(row)
