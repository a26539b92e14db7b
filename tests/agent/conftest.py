"""A core and a gateway's own fleet, each with real listeners, and the link between them, which tests cut."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from fleetcore_edge.functions.wanted import TRUST
from fleetcore_edge.uplink.credentials import Credentials
from fleetcore_websocket.plugin import open_client

from fleetcore import IoTFleetManager
from fleetcore.interfaces.protocol import DeviceSecrets
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
gateway = "gw-1"
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


class Site:
    """The core, its gateway, and the wire between them."""

    def __init__(self, folder):
        self.folder, self._stack, self.signers = folder, AsyncExitStack(), Signers()
        self.core = self.gateway = self.wire = None

    async def __aenter__(self):
        await self._stack.__aenter__()
        self.core = await self._stack.enter_async_context(self._serving("core", _TOML.format(name="plant")))
        core = await self.core.open()
        await self.core.create_device(GATEWAY, type="gateway", model="G-1")
        await self.core.call("register_gateway", id=GATEWAY, may_register=True)
        url = core.protocols["websocket"].endpoints()[0]
        self.wire = await self._stack.enter_async_context(CutProxy("127.0.0.1", urlsplit(url).port))
        await self._enrol(core, url)
        return self

    async def __aexit__(self, *error):
        await self.stop()
        await self._stack.__aexit__(*error)

    async def _enrol(self, core, url):
        """The gateway's folder with its credentials for the core."""
        device = SimulatedDevice(
            DeviceSecrets(device=GATEWAY, ca=core.security.authority.ca_pem()), open_client, url, core.clock
        )
        await device.enroll(await core.security.enrollment_tokens.create(device=GATEWAY))
        folder = self.folder / "gateway"
        folder.mkdir(mode=0o700)
        credentials = Credentials(folder / "uplink", GATEWAY, core.clock)
        credentials.keep(device.secrets.certificate, device.secrets.key)
        credentials.keep_ca(device.secrets.ca)
        await self.core.set_firmware_root(self.signers.trust(expires=ALWAYS))
        (folder / "uplink" / TRUST).write_bytes(dumps(self.signers.trust(expires=ALWAYS)))

    @asynccontextmanager
    async def _serving(self, name, toml):
        folder = self.folder / name
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / "fleet.toml").write_text(toml) if not (folder / "fleet.toml").exists() else None
        async with IoTFleetManager(folder, create=not (folder / "fleet.db").exists()) as manager:
            await (await manager.open()).serve()
            yield manager

    def cut(self):
        """The gateway's uplink is cut."""
        self.wire.refuse()
        self.wire.cut()

    def mend(self):
        self.wire.heal()

    async def start(self, *, listen=False):
        """The gateway's fleet runs; with ``listen`` at the same port after each start."""
        path = f"wss://localhost:{self.wire.port}/device/v1/ws"
        self._running = AsyncExitStack()
        toml = _TOML.format(name="site")
        if listen:
            toml = toml.replace("wss://127.0.0.1:0", f"wss://127.0.0.1:{free_port()}")
        toml = toml + _UPLINK.format(url=path, http=(await self.core.open()).protocols["http"].endpoints()[0])
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
