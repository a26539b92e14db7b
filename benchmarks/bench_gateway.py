"""A gateway: catching up after an outage, live readings meanwhile, its memory, and ingest beside a busy function.

The core and the gateway's agent are processes of their own, over WebSocket with TLS on loopback. The backlog is that of
50 leaves in commits of five readings, as leaves send them. Catch-up is compared with the core's ingest of the same
readings in messages of a thousand, encoded beforehand, over the same kind of connection.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from fleetcore_edge.functions.wanted import TRUST
from fleetcore_edge.uplink.credentials import Credentials
from fleetcore_edge.uplink.lanes import BACKLOG, LIVE
from fleetcore_edge.uplink.state import STATE
from fleetcore_websocket.client import WebSocketDeviceClient
from fleetcore_websocket.plugin import open_client

from benchmarks import gateway_child
from benchmarks.children import Child, child
from benchmarks.measure import Row, at_least
from fleetcore import IoTFleetManager
from fleetcore.interfaces.protocol import DeviceSecrets
from fleetcore.model.store import Commit, SeriesRequest
from fleetcore.model.telemetry import TelemetryBatch
from fleetcore.runtime.clock import SystemClock
from fleetcore.testing.ports import free_port
from fleetcore.testing.simulator import SimulatedDevice
from fleetcore.wire import messages

_LEAVES = [f"leaf-{number:02d}" for number in range(50)]
_PER_COMMIT, _PER_MESSAGE, _AT_ONCE = 5, 1000, 8
_HOUR_MS = 3_600_000
_EVERY_S = 0.02
_QUIET_S = 5.0
_TOML = """\
[fleet]
name = "site"
data = "."
hosts = ["localhost", "127.0.0.1"]
[protocols.websocket]
listen = "wss://127.0.0.1:{port}"
"""
_UPLINK = """\
[services.uplink]
url = "{url}"
http = "{http}"
gateway = "gw-1"
model = "G-1"
"""


def run(*, quick: bool = False) -> list[Row]:
    """The rows of this benchmark."""
    rounds, readings = (1, 100_000) if quick else (3, 300_000)
    caught, ingested, delays = [], [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder, child("gateway_child", {"folder": f"{folder}/core"}) as core:
            rate, own, late = asyncio.run(_catch_up(core, Path(folder) / "gateway", readings))
        caught.append(rate)
        ingested.append(own)
        delays += late
    with tempfile.TemporaryDirectory() as folder, child("gateway_child", {"folder": f"{folder}/core"}) as core:
        beside = asyncio.run(_functions(core, Path(folder) / "gateway", 10.0 if quick else 60.0))
    p99 = float(np.percentile(delays, 99)) / 1000
    return [
        at_least(
            "a gateway's backlog, commits of 5 readings of 50 leaves, to its core", caught,
            "the core's ingest of the same over WebSocket", ingested, "readings/s", 0.6,
        ),
        Row(name="a new reading from leaf to core meanwhile, p99", value=p99, unit="s", goal="≤ 2 s", met=p99 <= 2),
        *beside,
    ]  # fmt: skip


class Site:
    """A gateway's folder and its agent."""

    def __init__(self, core: Child, folder: Path) -> None:
        self.core, self.folder, self._port = core, folder, free_port()
        self.devices: dict[str, SimulatedDevice] = {}

    async def prepare(self, leaves: Sequence[str], enrolled: Sequence[str], backlog: int) -> None:
        """Enrols the gateway at the core and leaves at the gateway, and fills its store."""
        told, clock = self.core.told, SystemClock()
        self.folder.mkdir(mode=0o700)
        (self.folder / "fleet.toml").write_text(_TOML.format(port=self._port))
        self.device = SimulatedDevice(
            DeviceSecrets(device=gateway_child.GATEWAY, ca=told["ca"].encode()), open_client, told["websocket"], clock
        )
        await self.device.enroll(told["token"])
        secrets = self.device.secrets
        assert secrets.certificate is not None
        assert secrets.key is not None
        credentials = Credentials(self.folder / "uplink", gateway_child.GATEWAY, clock)
        credentials.keep(secrets.certificate, secrets.key)
        credentials.keep_ca(told["ca"].encode())
        (self.folder / "uplink" / TRUST).write_text(json.dumps(told["trust"]))
        async with IoTFleetManager(self.folder, create=True) as manager:
            fleet = await manager.open()
            await fleet.serve()
            ca, url = fleet.security.authority.ca_pem(), fleet.protocols["websocket"].endpoints()[0]
            for name in leaves:
                if name in enrolled:
                    device = SimulatedDevice(DeviceSecrets(device=name, ca=ca), open_client, url, clock)
                    await device.enroll(await fleet.security.enrollment_tokens.create(device=name))
                    self.devices[name] = device
                else:
                    await manager.create_device(name, type="leaf")
            at = await fleet.storage.position()
            await fleet.storage.commit(Commit(cursors={LIVE: at, BACKLOG: at, STATE: at}))
            series = [each.index for each in await fleet.storage.intern([SeriesRequest(n, "level") for n in _LEAVES])]
            begin = clock.now_ms() - _HOUR_MS
            commits = [
                fleet.storage.commit(Commit(readings=_some(series, begin, at))) for at in range(0, backlog, _PER_COMMIT)
            ]
            await asyncio.gather(*commits)
        more = _UPLINK.format(url=told["websocket"], http=told["http"])
        with (self.folder / "fleet.toml").open("a") as file:
            file.write(more)

    @contextmanager
    def running(self) -> Iterator["subprocess.Popen[bytes]"]:
        """The agent, once it says that it is ready."""
        words = [sys.executable, "-m", "fleetcore", "edge", "run", "--data", str(self.folder)]
        with (self.folder / "log").open("wb") as log:
            process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log)
        assert process.stdout is not None
        try:
            while (line := process.stdout.readline().strip()) != b"ready":
                if process.poll() is not None:
                    raise RuntimeError((self.folder / "log").read_text() + line.decode())
            yield process
        finally:
            process.terminate()
            process.wait(30)
            process.stdout.close()


def _some(series: Sequence[int], begin: int, at: int) -> TelemetryBatch:
    places = range(at, at + _PER_COMMIT)
    index = [series[place % len(series)] for place in places]
    return TelemetryBatch.of(index, [begin + 10 * place for place in places], [place * 0.25 for place in places])


async def _asked(core: Child, line: str = "") -> dict[str, Any]:
    return await asyncio.to_thread(core.ask, line)


async def _catch_up(core: Child, folder: Path, readings: int) -> tuple[float, float, list[float]]:
    """Readings a second of the backlog and of the core's own ingest, and the delays of new readings, ms."""
    site = Site(core, folder)
    await site.prepare([*_LEAVES, "live"], ["live"], readings)
    await _asked(core, " ".join(["register", *_LEAVES]))
    await _ingest(site, readings)
    own = await _arrived(core, readings)
    with site.running():
        live = site.devices["live"]
        await live.connect()
        sending = asyncio.create_task(_send(live))
        caught = await _arrived(core, readings)
        sending.cancel()
        await live.disconnect()
    return readings / caught["seconds"], readings / own["seconds"], caught["delays_ms"]


async def _arrived(core: Child, readings: int) -> dict[str, Any]:
    while (await _asked(core, "seen"))["old"] < readings:
        await asyncio.sleep(0.05)
    return await _asked(core)


async def _ingest(site: Site, readings: int) -> None:
    """Sends as many readings of the same leaves, an hour older."""
    begin, each = SystemClock().now_ms() - 2 * _HOUR_MS, readings // len(_LEAVES)
    bodies = [
        (leaf, json.dumps([{"metric": "level", "value": n * 0.25, "time": begin + 500 * n} for n in some]).encode())
        for at in range(0, each, _PER_MESSAGE)
        for some in [range(at, min(at + _PER_MESSAGE, each))]
        for leaf in _LEAVES
    ]
    room = asyncio.Semaphore(_AT_ONCE)
    async with WebSocketDeviceClient(site.core.told["websocket"], site.device.secrets) as client:

        async def send(leaf: str, body: bytes) -> None:
            async with room:
                reply = await client.send(messages.TELEMETRY, body, subject=leaf)
                assert reply.error is None, reply

        await asyncio.gather(*(send(leaf, body) for leaf, body in bodies))


async def _send(device: SimulatedDevice, took: list[float] | None = None) -> None:
    while True:
        begun = time.perf_counter()
        reply = await device.send({"live": 1.0, "time": time.time_ns() // 1_000_000}, 1)
        assert reply.error is None, reply
        if took is not None:
            took.append((time.perf_counter() - begun) * 1000)
        await asyncio.sleep(max(0.0, begun + _EVERY_S - time.perf_counter()))


async def _functions(core: Child, folder: Path, seconds: float) -> list[Row]:
    """Memory with 50 leaves and two functions; and ingest at the gateway with and without a busy function."""
    site = Site(core, folder)
    await site.prepare(_LEAVES, _LEAVES, 0)
    with site.running() as process:
        async with AsyncExitStack() as stack:
            for device in site.devices.values():
                await device.connect()
                stack.push_async_callback(device.disconnect)
            first = site.devices[_LEAVES[0]]
            alone = await _p99(first, seconds)
            await _asked(core, "deploy deadband live")
            await _asked(core, "deploy threshold live")
            both = await _p99(first, seconds)
            rows = [_memory(process.pid)]
            others = [site.devices[name] for name in _LEAVES[1:10]]
            busy = [asyncio.create_task(_flood(device)) for device in others]
            beside = await _p99(first, seconds)
            for task in busy:
                task.cancel()
            await asyncio.wait(busy)
    against = f"without functions ({alone:.3g} ms)"
    return [
        *rows[0],
        Row(name="a reading to the gateway's commit beside two functions, p99", value=both, unit="ms", against=against),
        Row(name="the same beside nine leaves that keep them busy", value=beside, unit="ms", against=against),
    ]


async def _p99(device: SimulatedDevice, seconds: float) -> float:
    took: list[float] = []
    sending = asyncio.create_task(_send(device, took))
    await asyncio.sleep(seconds)
    sending.cancel()
    return float(np.percentile(took, 99))


async def _flood(device: SimulatedDevice) -> None:
    while True:
        now = time.time_ns() // 1_000_000
        body = [{"metric": "live", "value": float(n % 90), "time": now - 100 + n} for n in range(100)]
        await device.send(body, 100)
        await asyncio.sleep(0.1)


def _memory(pid: int) -> list[Row]:
    private = resident = 0.0
    for each in _family(pid):
        found = {}
        for line in Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()[1:]:
            key, value, _ = line.split()
            found[key] = int(value) / 1024
        private += found["Private_Clean:"] + found["Private_Dirty:"]
        resident += found["Rss:"]
    name = "agent and runner, 50 leaves connected over TLS and two functions"
    return [
        Row(name=f"{name}: private memory", value=private, unit="MiB", goal="≤ 80", met=private <= 80),
        Row(name="the same, resident", value=resident, unit="MiB", goal="≤ 140", met=resident <= 140),
    ]


def _family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in _family(int(child)))]


if __name__ == "__main__":
    for row in run(quick=True):
        print(row)
