"""A fleet at AWS is imported, cut over to this fleet and back; its device, with curl and openssl, runs commands once."""

import hashlib
import json

import pytest
from fleetcore_aws.testing.control import Control
from fleetcore_aws.testing.front import HubBack
from fleetcore_aws.testing.front import serving as serving_aws
from fleetcore_aws.testing.hub import Hub, Shadow, Thing
from fleetcore_http.client import HttpDeviceClient
from fleetcore_mqtt.client import MqttDeviceClient

from fleetcore.interfaces.protocol import DeviceSecrets
from fleetcore.model.cutover import cutover_of
from fleetcore.runtime.clock import SystemClock
from fleetcore.testing.patience import until
from fleetcore.testing.simulator import SimulatedDevice

from .at_aws import AwsSide
from .conftest import Shell

pytestmark = [pytest.mark.peer("curl", "openssl")]

AWS = """
[clouds.aws]
region = "us-east-1"
endpoint = "{endpoint}"
threads = 4
write_every_s = 0
poll_s = 1
mirror = ["registry", "twins", "certificates"]
imports = true
shadow = ""
commands = ["*"]
commands_queue = "http://127.0.0.1/123456789012/commands"
queue_wait_s = 1
"""
NAME = "meter-1"


class Device:
    """At AWS it writes its shadow; here it speaks HTTP with the certificate that it has enrolled for."""

    def __init__(self, served, hub, folder):
        self.served, self.hub, self.shell = served, hub, Shell(served, folder)
        self.ran = []

    @property
    def shadow(self):
        return self.hub.shadows[NAME][""]

    def offered_at_aws(self, epoch):
        said = self.shadow.state["desired"].get("fleetcore", {}).get("cutover", {})
        return said.get("epoch") == epoch and said

    def report_at_aws(self, **cutover):
        shadow = self.shadow
        if cutover_of(shadow.state["reported"]) != cutover:  # at each look a new version would leave no time to write
            shadow.state["reported"]["fleetcore"] = {"cutover": cutover}
            shadow.version += 1

    async def key_digest(self):
        der = await self.shell.ok("openssl", "pkey", "-in", folder_key(self.shell), "-pubout", "-outform", "DER")
        return hashlib.sha256(der).hexdigest()

    async def enrols(self, csr):
        """By the key alone, as soon as the fleet lets it in."""
        base = self.served.url("http").replace("127.0.0.1", "localhost")
        out = await self.shell.ok(
            *("curl", "-sS", "--cacert", self.served.ca, "-w", "\n%{http_code}", "--data-binary", f"@{csr}"),
            *("-H", "Content-Type: application/pkcs10", f"{base}/device/v1/enroll"),
        )
        body, _, status = out.rpartition(b"\n")
        if int(status) == 201:
            (self.shell.folder / "cert.pem").write_text(json.loads(body)["certificate"])
        return int(status) == 201

    async def ask(self, path, *options):
        """A request to this fleet by mutual TLS: status and body."""
        base = self.served.url("http").replace("127.0.0.1", "localhost")
        out = await self.shell.ok(
            *("curl", "-sS", "--cacert", self.served.ca, "-w", "\n%{http_code}", *self.shell.identity, *options),
            f"{base}/device/v1{path}",
        )
        body, _, status = out.rpartition(b"\n")
        return int(status), json.loads(body) if body else None

    async def send(self, id, value):
        body = json.dumps({"id": id, "values": {"flow": value}})
        status, said = await self.ask("/telemetry", "-H", "Content-Type: application/json", "--data", body)
        assert status in {200, 202, 204}, said

    async def take_commands(self):
        status, listed = await self.ask("/commands")
        for command in listed["commands"] if status == 200 else ():
            self.ran.append((command["name"], "fleet"))
            result = ("-H", "Content-Type: application/json", "--data", '{"status": "succeeded"}')
            assert (await self.ask(f"/commands/{command['id']}/result", "-X", "POST", *result))[0] in {200, 204}

    async def offered_here(self, epoch):
        status, twin = await self.ask("/twin")
        assert status == 200, twin
        said = twin["desired"].get("fleetcore", {}).get("cutover", {})
        return said.get("epoch") == epoch and said


def folder_key(shell):
    return shell.folder / "key.pem"


async def test_a_fleet_at_aws_comes_here_and_goes_back(serving, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    hub = Hub()
    hub.things[NAME] = Thing(type=None, attributes={"site": "north"})
    hub.shadows[NAME] = {"": Shadow(state={"desired": {"interval": 60}, "reported": {"interval": 60}}, version=4)}
    folder = tmp_path / "device"
    folder.mkdir()
    async with serving_aws(HubBack(hub)) as front, serving(AWS.format(endpoint=front.endpoint)) as served:
        manager, device = served.manager, Device(served, hub, folder)
        mirror = served.fleet.mirrors["aws"]

        async def ended(operation):
            await until(lambda: _is_over(manager, operation))
            return (await manager.get_operation(operation.id)).state

        # It is imported, and a command that is given at AWS is heard there alone.
        assert await ended(await manager.import_mirror("aws", type="meter")) == "succeeded"
        control = Control(front, queue="http://127.0.0.1/123456789012/commands")
        await control.command(NAME, "blink", {})
        device.ran.append(("blink", "aws"))
        await until(lambda: mirror.inbox.refused)
        waiting = await manager.send_command(NAME, "reboot")

        # It comes here: with the key that it tells at AWS it enrols, is confirmed, and runs what has waited for it.
        coming = await manager.start_cutover("fleet", [NAME])
        await until(lambda: "to" in (device.offered_at_aws(1) or {}))
        csr = await device.shell.key(NAME)
        device.report_at_aws(epoch=1, state="ready", key=await device.key_digest())
        await until(lambda: device.enrols(csr))
        # What it has buffered it sends as soon as it is let in; where the answer was lost, it sends it again later.
        await device.send("r-1", 1.5)
        await until(lambda: _confirmed(device, 1))
        await device.send("r-1", 1.5)
        await device.send("r-2", 1.5)
        assert await ended(coming) == "succeeded"
        await device.take_commands()
        await until(lambda: _state(manager, waiting, "succeeded"))

        # It goes back with the certificate that it has by now, which its mirror has registered at AWS.
        await until(lambda: hub.certificates)
        await until(lambda: _plans(manager))
        going = await manager.start_cutover("aws", [NAME], endpoint="mqtts://aws.example:8883")
        await until(lambda: _there(device, 2))

        async def arrives():
            device.report_at_aws(epoch=2, state="arrived")
            return (device.offered_at_aws(2) or {}).get("confirmed")

        await until(arrives)
        assert await ended(going) == "succeeded"
        late = await manager.send_command(NAME, "stop")
        await device.take_commands()
        await until(lambda: mirror.sender.idle)
        home = (await manager.get_device(NAME)).home
        left = (await manager.get_command(late.id)).state
        points = await manager.query_telemetry(NAME, "flow")
        control.close()

    assert device.ran == [("blink", "aws"), ("reboot", "fleet")]
    assert len(points) == 2, "a message counts once, by its id"
    assert (home, left) == ("aws", "queued")


async def test_a_simulated_device_goes_to_aws_and_comes_back_by_itself(serving, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    hub = Hub()
    async with serving_aws(HubBack(hub)) as front, serving(AWS.format(endpoint=front.endpoint)) as served:
        manager, http, mqtt = served.manager, served.url("http"), served.url("mqtt")
        await manager.register_device(NAME, "meter")
        token = await served.security.enrollment_tokens.create(device=NAME)
        device = SimulatedDevice(
            DeviceSecrets(device=NAME, ca=served.ca.read_bytes()), MqttDeviceClient, mqtt, SystemClock(),
            download=(HttpDeviceClient, http), hubs={"aws": AwsSide(hub, NAME)},
        )  # fmt: skip
        await device.enroll(token, client=HttpDeviceClient, endpoint=http)
        await device.connect()
        await until(lambda: hub.certificates)
        await until(lambda: _plans(manager))
        going = await manager.start_cutover("aws", [NAME], endpoint="mqtts://aws.example:8883")
        await until(lambda: _is_over(manager, going))
        await until(lambda: device.mover.side == "aws" and not device.is_connected)
        waiting = await manager.send_command(NAME, "reboot")
        coming = await manager.start_cutover("fleet", [NAME])
        await until(lambda: _is_over(manager, coming))
        await until(lambda: _state(manager, waiting, "succeeded"))
        home = (await manager.get_device(NAME)).home
        await device.disconnect()

    assert (home, device.mover.side, device.mover.confirmed) == (None, "fleet", 2)
    assert device.ran == [waiting.id]


async def _is_over(manager, operation):
    return (await manager.get_operation(operation.id)).state != "running"


async def _confirmed(device, epoch):
    return (await device.offered_here(epoch) or {}).get("confirmed")


async def _there(device, epoch):
    return "to" in (await device.offered_here(epoch) or {})


async def _state(manager, command, state):
    return (await manager.get_command(command.id)).state == state


async def _plans(manager):
    (plan,) = await manager.plan_cutover("aws", [NAME])
    return plan.action == "offer"
