"""A core and a gateway's own fleet, each with real listeners, and the link between them, which tests cut."""

import asyncio
import os
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from fleetcore_edge.functions.wanted import TRUST
from fleetcore_edge.uplink.credentials import Credentials
from fleetcore_websocket.plugin import open_client

from fleetcore import IoTFleetManager
from fleetcore.interfaces.protocol import DeviceSecrets
from fleetcore.model.store import Commit, SeriesRequest
from fleetcore.model.telemetry import TelemetryBatch
from fleetcore.runtime.backup import restore
from fleetcore.testing.faults.network import CutProxy
from fleetcore.testing.patience import PATIENCE_S
from fleetcore.testing.ports import free_port
from fleetcore.testing.signers import Signers
from fleetcore.testing.simulator import SimulatedDevice
from fleetcore.wire.strict_json import dumps

GATEWAY = "gw-1"
MODULES = Path(__file__).parents[2] / "plugins" / "fleetcore-edge" / "functions"
#: Far after the machine's time, by which certificates and functions are judged here.
ALWAYS = 4 * 10**12
_TOML = """\
[fleet]
name = "{name}"
data = "."
hosts = ["localhost", "127.0.0.1"]
[protocols.websocket]
listen = "wss://127.0.0.1:0"
[protocols.http]
listen = "https://127.0.0.1:0"
"""
_UPLINK = """\
[services.uplink]
url = "{url}"
gateway = "{gateway}"
model = "G-1"
http = "{http}"
live_commits = 20
batch_s = 0.01
"""


async def until(look, wanted=True):
    """Waits until ``look()`` gives what is wanted."""
    async with asyncio.timeout(PATIENCE_S):
        while (found := await look()) != wanted:
            await asyncio.sleep(0.02)
    return found


class Agent:
    """``fleetcore edge run`` on a gateway's folder."""

    def __init__(self, folder):
        self.folder, self._process = folder, None

    def command(self):
        return (sys.executable, "-m", "fleetcore", "edge", "run", "--data", str(self.folder))

    def environment(self):
        return dict(os.environ)

    async def start(self):
        with (self.folder / "log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self.command(), stdout=asyncio.subprocess.PIPE, stderr=log, env=self.environment()
            )
        async with asyncio.timeout(PATIENCE_S):
            while (line := await self._process.stdout.readline()).strip() != b"ready":
                assert line, (self.folder / "log").read_text()[-3000:]

    async def kill(self):
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
        await self._process.wait()


class Neighbour:
    """A further gateway of the core: its folder, its wire, and its agent, which is a process."""

    def __init__(self, name, folder, wire):
        self.name, self.folder, self.wire, self.agent = name, folder, wire, Agent(folder)

    async def store(self, device, metric, times, values):
        """Stores readings in the gateway's own store while its agent does not run."""
        async with IoTFleetManager(self.folder, create=not (self.folder / "fleet.db").exists()) as manager:
            await manager.create_device(device, type="pump")
            storage = (await manager.open()).storage
            (series,) = await storage.intern([SeriesRequest(device, metric)])
            batch = TelemetryBatch.of(np.full(len(times), series.index), times, values)
            await storage.commit(Commit(readings=batch))


class Site:
    """The core, its gateway, and the wire between them; ``more`` goes into the core's fleet.toml."""

    def __init__(self, folder, more=""):
        self.folder, self._more, self._stack, self.signers = folder, more, AsyncExitStack(), Signers()
        self.core = self.gateway = self.wire = None

    async def __aenter__(self):
        await self._stack.__aenter__()
        self.core = await self._stack.enter_async_context(
            self._serving("core", _TOML.format(name="plant") + self._more)
        )
        core = await self.core.open()
        await self.core.create_device(GATEWAY, type="gateway", model="G-1")
        await self.core.call("register_gateway", id=GATEWAY, may_register=True)
        await self.core.set_firmware_root(self.signers.trust(expires=ALWAYS))
        url = core.protocols["websocket"].endpoints()[0]
        self.wire = await self._stack.enter_async_context(CutProxy("127.0.0.1", urlsplit(url).port))
        await self._enrol(core, url, GATEWAY, self.folder / "gateway")
        return self

    async def __aexit__(self, *error):
        await self.stop()
        await self._stack.__aexit__(*error)

    async def neighbour(self, name):
        """A further gateway, whose agent has not started yet."""
        core = await self.core.open()
        await self.core.call("register_gateway", id=name, may_register=True)
        url = core.protocols["websocket"].endpoints()[0]
        wire = await self._stack.enter_async_context(CutProxy("127.0.0.1", urlsplit(url).port))
        folder = self.folder / name
        await self._enrol(core, url, name, folder)
        uplink = _UPLINK.format(
            url=f"wss://localhost:{wire.port}/device/v1/ws", http=core.protocols["http"].endpoints()[0], gateway=name
        )
        (folder / "fleet.toml").write_text(_TOML.format(name="site") + uplink)
        return Neighbour(name, folder, wire)

    async def _enrol(self, core, url, gateway, folder):
        """A gateway's folder with its credentials for the core."""
        device = SimulatedDevice(
            DeviceSecrets(device=gateway, ca=core.security.authority.ca_pem()), open_client, url, core.clock
        )
        await device.enroll(await core.security.enrollment_tokens.create(device=gateway))
        folder.mkdir(mode=0o700)
        credentials = Credentials(folder / "uplink", gateway, core.clock)
        credentials.keep(device.secrets.certificate, device.secrets.key)
        credentials.keep_ca(device.secrets.ca)
        (folder / "uplink" / TRUST).write_bytes(dumps(self.signers.trust(expires=ALWAYS)))

    @asynccontextmanager
    async def _serving(self, name, toml):
        folder = self.folder / name
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / "fleet.toml").write_text(toml) if not (folder / "fleet.toml").exists() else None
        async with IoTFleetManager(folder, create=not (folder / "fleet.db").exists()) as manager:
            await (await manager.open()).serve()
            yield manager

    async def restore(self, backup):
        """The core ends, and is restored from a backup."""
        self.cut()
        await self.core.close()
        folder = self.folder / "restored"
        restore(backup, folder)
        self.core = await self._stack.enter_async_context(IoTFleetManager(folder))
        fleet = await self.core.open()
        await fleet.serve()
        self.wire.lead_to("127.0.0.1", urlsplit(fleet.protocols["websocket"].endpoints()[0]).port)
        self.mend()

    def cut(self):
        """The gateway's uplink is cut."""
        self.wire.refuse()
        self.wire.cut()

    def mend(self):
        self.wire.heal()

    async def start(self, *, listen=False, http=True):
        """The gateway's fleet runs: with ``listen`` at the same port after each start, without ``http`` by WebSocket alone."""
        path = f"wss://localhost:{self.wire.port}/device/v1/ws"
        self._running = AsyncExitStack()
        toml = _TOML.format(name="site")
        if listen:
            toml = toml.replace("wss://127.0.0.1:0", f"wss://127.0.0.1:{free_port()}")
        at = (await self.core.open()).protocols["http"].endpoints()[0]
        uplink = _UPLINK.format(url=path, http=at, gateway=GATEWAY)
        toml += uplink if http else uplink.replace(f'http = "{at}"\n', "")
        self.gateway = await self._running.enter_async_context(self._serving("gateway", toml))
        self.uplink = (await self.gateway.open()).services["uplink"]

    async def stop(self):
        if self.gateway is not None:
            self.gateway = None
            await self._running.aclose()

    async def leaf(self, name):
        """A leaf that has enrolled at the gateway."""
        fleet = await self.gateway.open()
        url = fleet.protocols["websocket"].endpoints()[0]
        device = SimulatedDevice(
            DeviceSecrets(device=name, ca=fleet.security.authority.ca_pem()), open_client, url, fleet.clock
        )
        await device.enroll(await fleet.security.enrollment_tokens.create(device=name))
        return device

    async def release(self, name, *, seq=1, module=None, function, **changes):
        """A function of the checked-in modules, released at the core."""
        content = (MODULES / f"{name}.wasm").read_bytes() if module is None else module
        fleet = await self.core.open()
        await fleet.campaigns.add_artifact(content)
        envelope = self.signers.manifest(
            content, name=name, seq=seq, version=f"{seq}.0.0", component=f"function.{name}", models=("G-1",),
            function=function, expires=ALWAYS, **changes,
        )  # fmt: skip
        await fleet.releases.add(envelope)

    async def function(self, name):
        """What the gateway reports of a function at the core."""
        reported = (await self.core.call("get_twin", device_id=GATEWAY))["reported"]
        return reported.get("functions", {}).get(name)

    async def at_core(self, device, metric="temperature"):
        """The readings of a device that the core has: (time, value)."""
        fleet = await self.core.open()
        found = [each for each in await fleet.storage.series_of(device) if each.metric == metric]
        return [
            (time, value)
            for series in found
            async for data in fleet.storage.read(series.index, 0, 4 * 10**12)
            for time, value in zip(data.time.tolist(), data.value.tolist(), strict=True)
        ]


@pytest.fixture
async def site(tmp_path):
    async with Site(tmp_path) as made:
        yield made
