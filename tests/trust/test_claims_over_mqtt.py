"""Enrolment over MQTT by a claim certificate: with mosquitto's own programs as the devices of a batch, in both versions."""

import asyncio
import json

import pytest

from .conftest import Shell

pytestmark = [pytest.mark.peer("mosquitto_rr", "mosquitto_pub", "mosquitto_sub", "openssl")]


@pytest.fixture(params=["5", "3.1.1"])
def version(request):
    """As mosquitto's programs call it."""
    return {"5": "mqttv5", "3.1.1": "mqttv311"}[request.param]


class Line:
    """A factory's line: the batch's claim certificate in a folder, and devices that show it."""

    def __init__(self, served, folder, program, version, batch):
        self.served, self.folder, self.program, self.version = served, folder, program, version
        self.name = f"fleetcore:claim:{batch}"
        self.shell = Shell(served, folder)

    def words(self, name, *more, cert="claim.pem", key="claim.key"):
        return (
            *(name, "-V", self.version, "-h", "localhost", "-p", self.served.mqtt_port, "-q", "1"),
            *("--cafile", self.served.ca, "--cert", self.folder / cert, "--key", self.folder / key, *more),
        )

    async def csr(self, device):
        key, csr = self.folder / f"{device}.key", self.folder / f"{device}.csr"
        await self.shell.ok("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key)
        await self.shell.ok("openssl", "req", "-new", "-key", key, "-subj", f"/CN={device}", "-out", csr)
        return csr.read_text()

    async def ask(self, message, rid="r1"):
        """One request by mosquitto_rr: its reply."""
        text = message if isinstance(message, str) else json.dumps(message)
        code, out, err = await self.program(
            *self.words(
                *("mosquitto_rr", "-W", "20", "-t", f"fleet/v1/{self.name}/request/{rid}"),
                *("-e", f"fleet/v1/{self.name}/reply/{rid}", "-m", text),
            ),
            timeout_s=60,
        )
        assert code == 0, (code, err.decode())
        return json.loads(out)

    async def enroll(self, device, rid="r1", **body):
        """Enrols, and keeps the certificate where it was given."""
        if "csr" not in body and "ownership_token" not in body:
            body["csr"] = await self.csr(device)
        reply = await self.ask({"op": "enroll", "body": body}, rid)
        if reply["ok"]:
            (self.folder / f"{device}.pem").write_text(reply["body"]["certificate"])
        return reply

    async def publish(self, topic, message="{}", **credential):
        code, _, err = await self.program(
            *self.words("mosquitto_pub", "-d", "-t", topic, "-m", message, **credential), timeout_s=60
        )
        return code, err.decode()


@pytest.fixture
def line_of(served, tmp_path, program, version):
    async def make(batch="spring", quota=100, **options):
        made = await served.security.create_claim(batch, quota=quota, **options)
        folder = tmp_path / batch
        folder.mkdir()
        (folder / "claim.pem").write_text(made.certificate)
        (folder / "claim.key").write_text(made.key)
        return Line(served, folder, program, version, batch)

    return make


async def test_a_device_enrols_and_then_speaks_for_itself(served, line_of):
    line = await line_of(device_type="meter")

    reply = await line.enroll("meter-1", parameters={"serial": "7"})

    assert (reply["ok"], reply["status"], reply["body"]["device"]) == (True, 201, "meter-1")
    await line.publish("fleet/v1/meter-1/telemetry", '{"power": 21.5}', cert="meter-1.pem", key="meter-1.key")
    assert [one["value"] for one in await served.manager.latest_telemetry("meter-1")] == [21.5]


async def test_the_two_steps(served, line_of):
    line = await line_of(models=["m-4"])

    begun = await line.enroll("meter-1")
    early = await line.publish("fleet/v1/meter-1/telemetry", '{"power": 1}', cert="meter-1.pem", key="meter-1.key")
    token = begun["body"]["ownership_token"]
    foreign = await line.enroll("meter-1", "r2", ownership_token=token, parameters={"model": "m-5"})
    done = await line.enroll("meter-1", "r3", ownership_token=token, parameters={"model": "m-4"})

    assert begun["body"]["state"] == "pending_activation"
    assert early[0] != 0
    assert (foreign["ok"], foreign["error"]["code"]) == (False, "not_authorised")
    assert done["body"]["certificate"] == begun["body"]["certificate"]
    code, _ = await line.publish("fleet/v1/meter-1/telemetry", '{"power": 2}', cert="meter-1.pem", key="meter-1.key")
    assert code == 0
    assert [one["value"] for one in await served.manager.latest_telemetry("meter-1")] == [2]
