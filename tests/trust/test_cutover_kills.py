"""A cut-over from AWS and back whose server is killed after each of its commits, and whose device loses power."""

import asyncio
import contextlib
import itertools
import sys
from pathlib import Path

import pytest
from fleetcore_aws.testing.front import HubBack
from fleetcore_aws.testing.front import serving as serving_aws
from fleetcore_aws.testing.hub import Hub, Shadow, Thing
from fleetcore_http.client import HttpDeviceClient

from fleetcore import IoTFleetManager
from fleetcore.errors import FleetError
from fleetcore.interfaces.protocol import DeviceSecrets
from fleetcore.model.mirror import EntityKey
from fleetcore.runtime.clock import SystemClock
from fleetcore.testing.cutover_device import FleetSide, Mover
from fleetcore.testing.flash import MemoryFlash, PowerCut, PowerLoss
from fleetcore.testing.patience import PATIENCE_S, until
from fleetcore.testing.ports import free_port

from .at_aws import AwsSide

SERVER = Path(__file__).with_name("dying_server.py")
NAME = "meter-1"
TOML = """\
[fleet]
name = "trust"
data = "."
hosts = ["localhost", "127.0.0.1"]

[protocols.http]
listen = "https://127.0.0.1:{port}"

[clouds.aws]
region = "us-east-1"
endpoint = "{endpoint}"
threads = 2
write_every_s = 0
poll_s = 1
mirror = ["registry", "twins", "certificates"]
imports = true
shadow = ""
"""


class Device:
    """It loses power after one of the next few things that it writes to its flash, again and again."""

    def __init__(self, hub, ca):
        self.hub, self.ca, self.flash, self.losses = hub, ca, MemoryFlash(), 0
        self.lives = itertools.cycle(range(1, 5))
        self.mover = self.born()

    def born(self):
        flash = PowerCut(next(self.lives), after=True).flash(self.flash)
        secrets = DeviceSecrets(device=NAME, ca=self.ca)
        sides = {"aws": AwsSide(self.hub, NAME), "fleet": FleetSide(flash, {"https": HttpDeviceClient}, secrets)}
        return Mover(flash, SystemClock(), sides, side="aws", visit_s=0.5, look_s=0.05)

    async def step(self):
        try:
            await self.mover.step()
        except PowerLoss:
            self.losses += 1
            self.mover = self.born()
        except FleetError:
            pass  # the server is dead


@contextlib.asynccontextmanager
async def dying(folder, lives):
    """A server that is started again whenever it was killed; ``lives`` has an item for each."""

    async def live():
        while True:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, SERVER, folder),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            try:
                lives.append(await process.communicate())
            except asyncio.CancelledError:
                process.kill()
                await process.communicate()
                raise
            assert process.returncode == -9, lives[-1][1].decode()

    task = asyncio.create_task(live())
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def through(folder, device, side, epoch):
    """The device gets there while its server is killed all the time; how often it was."""
    lives = []
    async with asyncio.timeout(PATIENCE_S), dying(folder, lives) as server:
        while (device.mover.side, device.mover.confirmed) != (side, epoch):
            assert not server.done(), server.exception()
            await device.step()
            await asyncio.sleep(0.02)
    return len(lives)


@pytest.mark.timeout(600)
async def test_a_cut_over_survives_kills_of_server_and_device_at_each_step(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    hub = Hub()
    hub.things[NAME] = Thing(type=None, attributes={"site": "north"})
    hub.shadows[NAME] = {"": Shadow(state={"desired": {"interval": 60}, "reported": {"interval": 60}}, version=4)}
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)

    async def ended(manager, operation):
        await until(lambda: _over(manager, operation))
        return (await manager.get_operation(operation.id)).state

    async with serving_aws(HubBack(hub)) as front:
        port = free_port()
        (folder / "fleet.toml").write_text(TOML.format(endpoint=front.endpoint, port=port))
        (folder / "fleet.toml").chmod(0o600)
        here = f"https://127.0.0.1:{port}"
        async with IoTFleetManager(folder, create=True) as manager:
            await (await manager.open()).serve()
            await ended(manager, await manager.import_mirror("aws", type="meter"))
            ca = (await manager.open()).security.authority.ca_pem()
            coming = await manager.start_cutover("fleet", [NAME], endpoint=here, tries=1000)
        device = Device(hub, ca)
        kills = [await through(folder, device, "fleet", 1)]

        async with IoTFleetManager(folder) as manager:
            fleet = await manager.open()
            await fleet.serve()
            first = await ended(manager, coming)
            at_fleet = (await manager.get_device(NAME)).home
            await until(lambda: _certified(fleet))
            going = await manager.start_cutover("aws", [NAME], endpoint="mqtts://aws.example:8883", tries=1000)
        kills.append(await through(folder, device, "aws", 2))

        async with IoTFleetManager(folder) as manager:
            await (await manager.open()).serve()
            second = await ended(manager, going)
            at_aws = (await manager.get_device(NAME)).home
            epochs = [each.epoch for each in (await manager.list_cutovers()).items]

    assert (first, at_fleet, second, at_aws, epochs) == ("succeeded", None, "succeeded", "aws", [2])
    assert min(kills) >= 4, kills
    assert device.losses >= 2


async def _over(manager, operation):
    return (await manager.get_operation(operation.id)).state != "running"


async def _certified(fleet):
    kept = await fleet.mirrors["aws"].sender.states.get(EntityKey("certificate", NAME))
    return kept.digest
