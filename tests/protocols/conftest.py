"""A fleet that listens on all protocols, with a gateway that has enrolled; failures of the scenario show their values."""

import asyncio
import hashlib
import time
from contextlib import asynccontextmanager

import pytest
from attrs import evolve

from fleetcore import IoTFleetManager
from fleetcore.interfaces.protocol import DeviceSecrets
from fleetcore.interfaces.waits import end_tasks
from fleetcore.runtime.clock import SystemClock
from fleetcore.testing.clock import MovableClock
from fleetcore.testing.patience import PATIENCE_S
from fleetcore.testing.simulator import SimulatedDevice

pytest.register_assert_rewrite("tests.protocols.scenario", "tests.protocols.peers")

GATEWAY, LEAF, FOREIGN = "gw-1", "leaf-1", "dev-2"
IMAGE = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(IMAGE).hexdigest()
_TOML = """\
[fleet]
name = "four"
data = "."
hosts = ["localhost", "127.0.0.1"]
[protocols.mqtt]
listen = "mqtts://127.0.0.1:0"
[protocols.http]
listen = "https://127.0.0.1:0"
[protocols.coap]
listen = "coaps://127.0.0.1:0"
psk = true
[protocols.oscore]
kind = "coap"
listen = "coap://127.0.0.1:0"
oscore = true
[protocols.websocket]
listen = "wss://127.0.0.1:0"
"""


class Operator:
    """Calls the fleet, and moves its time."""

    def __init__(self, manager, clock):
        self._manager, self._clock = manager, clock

    async def __call__(self, call, /, **given):
        return await self._manager.call(call, **given)

    async def advance(self, seconds):
        await self._clock.advance(seconds)

    async def settle(self):
        """Returns once what is under way for devices is handed over."""
        fleet = await self._manager.open()
        await fleet.downlinks.wait_idle()
        await self._manager.wait_idle()

    async def listening(self):
        """Returns once the gateway is connected and has been told what waited."""
        fleet = await self._manager.open()
        async with asyncio.timeout(PATIENCE_S):
            while not fleet.downlinks._reaches(GATEWAY):
                await asyncio.sleep(0.01)


class Listener:
    """What a device is told, as it comes."""

    def __init__(self, device):
        self.told = []
        self._task = asyncio.ensure_future(self._listen(device))

    async def _listen(self, device):
        async for downlink in device.downlinks():
            self.told.append(downlink)

    def kinds(self):
        return sorted({downlink.type.name for downlink in self.told})

    async def until(self, *kinds):
        async with asyncio.timeout(PATIENCE_S):
            while not set(kinds) <= set(self.kinds()):
                await asyncio.sleep(0.01)

    async def close(self):
        await end_tasks(self._task)


@pytest.fixture
def clock():
    """The programs' certificates are judged by the machine's time, so the fleet's begins there."""
    return MovableClock(time.time_ns() // 1_000_000)


@pytest.fixture
async def served(tmp_path, clock):
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    (data / "fleet.toml").write_text(_TOML)
    async with IoTFleetManager(data, clock=clock, create=True) as manager:
        fleet = await manager.open()
        await fleet.serve()
        await manager.register_device(FOREIGN, "gateway")
        await manager.register_device(GATEWAY, "gateway")
        await manager.call("register_gateway", id=GATEWAY, may_register=True)
        await manager.create_device(LEAF, type="valve")
        await manager.attach_leaf(GATEWAY, LEAF)
        await fleet.campaigns.add_artifact(IMAGE)
        yield manager, fleet, data


@pytest.fixture
def operator(served, clock):
    manager, _, _ = served
    return Operator(manager, clock)


@pytest.fixture
async def secrets(served):
    """Of the gateway, which has enrolled over HTTP."""
    manager, fleet, _ = served
    http = fleet.protocols["http"]
    device = SimulatedDevice(
        DeviceSecrets(device=GATEWAY, ca=fleet.security.authority.ca_pem()),
        http.provider.client,
        http.adapter.endpoints[0],
        SystemClock(),
    )
    await device.enroll((await manager.create_enrollment_token(GATEWAY)).token)
    return device.secrets


@pytest.fixture
async def token(served):
    """A device token of the gateway."""
    manager, _, _ = served
    return (await manager.issue_device_token(GATEWAY)).token


@pytest.fixture
def gateway(served, secrets, token):
    """The gateway on a protocol: ``async with gateway("mqtt") as device``; ``"coap by key"``, ``"oscore"`` by token."""
    _, fleet, _ = served

    @asynccontextmanager
    async def connected(protocol):
        name, _, by = protocol.partition(" by ")
        opened = fleet.protocols[name]
        by_token = by == "key" or name == "oscore"
        shown = evolve(secrets, certificate=None, key=None, token=token) if by_token else secrets
        async with opened.provider.client(opened.adapter.endpoints[0], shown) as device:
            yield device

    return connected
