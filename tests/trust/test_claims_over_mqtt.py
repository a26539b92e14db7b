"""Enrolment over MQTT by a claim certificate: with mosquitto's own programs as the devices of a batch, in both versions."""

import asyncio
import contextlib
import json

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from fleetcore_mqtt.client import MqttDeviceClient

from fleetcore.errors import NotAuthorised, Refused
from fleetcore.interfaces import DeviceSecrets, EnrollRequest
from fleetcore.testing.patience import PATIENCE_S
from fleetcore.testing.simulator import SimulatedDevice
from fleetcore.wire import messages
from fleetcore.wire.identity import make_csr, make_key

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
                *("mosquitto_rr", "-W", str(int(PATIENCE_S)), "-t", f"fleet/v1/{self.name}/request/{rid}"),
                *("-e", f"fleet/v1/{self.name}/reply/{rid}", "-m", text),
            ),
            timeout_s=PATIENCE_S,
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
            *self.words("mosquitto_pub", "-d", "-t", topic, "-m", message, **credential), timeout_s=PATIENCE_S
        )
        return code, err.decode()


class Device:
    """A device of a line, in Python."""

    def __init__(self, served, line, name, version):
        self.served, self.name, self.version = served, name, version.removeprefix("mqttv").replace("311", "3.1.1")
        self.csr = make_csr(name, make_key()[1])
        self.der = x509.load_pem_x509_csr(self.csr).public_bytes(Encoding.DER)
        self.secrets = DeviceSecrets(
            device=name,
            certificate=(line.folder / "claim.pem").read_bytes(),
            key=(line.folder / "claim.key").read_bytes(),
            ca=served.ca.read_bytes(),
        )

    def open(self, endpoint, secrets):
        return MqttDeviceClient(endpoint, secrets, version=self.version)

    def claimant(self):
        return self.open(self.served.url("mqtt"), self.secrets)


@pytest.fixture
def line_of(served, tmp_path, program, version):
    async def make(batch="spring", quota=100, **options):
        made = await served.security.claims.create(batch, quota=quota, **options)
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
    assert [one["value"] for one in await served.manager.list_device_latest_readings("meter-1")] == [21.5]


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
    assert [one["value"] for one in await served.manager.list_device_latest_readings("meter-1")] == [2]


async def test_an_answer_that_was_lost_comes_again(line_of):
    line = await line_of(quota=1)
    csr = await line.csr("meter-1")

    first = await line.enroll("meter-1", csr=csr)
    again = await line.enroll("meter-1", "r2", csr=csr)

    assert again["body"]["certificate"] == first["body"]["certificate"]
    full = await line.enroll("meter-2", "r3")
    assert full["error"]["code"] == "quota_exceeded"


async def test_fifty_devices_enrol_by_one_claim_at_the_same_time_and_nobody_is_thrown_out(served, line_of, version):
    line = await line_of(quota=50)
    connected = [Device(served, line, f"meter-{number}", version) for number in range(50)]
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(one.claimant()) for one in connected]
        requests = [EnrollRequest(csr=one.csr, parameters={"serial": one.name}) for one in connected]
        replies = await asyncio.gather(
            *(client.enroll(request) for client, request in zip(clients, requests, strict=True))
        )
        after = await asyncio.gather(*(client.request(messages.TIME) for client in clients))

    assert [(reply.status, (reply.body or {}).get("device")) for reply in replies] == [
        (201, one.name) for one in connected
    ]
    assert {reply.status for reply in after} == {200}
    assert len(await served.manager.list_devices(limit=100)) == 50


async def test_the_device_client_takes_both_steps_and_a_simulated_device_goes_on_with_what_it_got(
    served, line_of, version
):
    line = await line_of()
    begun, simulated = Device(served, line, "meter-1", version), Device(served, line, "meter-2", version)
    async with begun.claimant() as client:
        one = await client.enroll(EnrollRequest(csr=begun.der, at_once=True))
        two = await client.enroll(EnrollRequest(csr=begun.csr))
        ca = await client.request(messages.CA_GET)
        refused = [
            await client.send(messages.TELEMETRY, {"power": 1}),
            await client.request(messages.TIME, subject="meter-2"),
        ]
        with pytest.raises(Refused):
            client.artifact("0" * 64)

    assert (one.status, "ownership_token" in one.body) == (201, False)
    assert two.error["code"] == "already_exists"
    assert [reply.error["code"] for reply in refused] == ["not_authorised", "not_authorised"]
    assert ca.body["ca"] == served.security.authority.ca_pem().decode()
    device = SimulatedDevice(simulated.secrets, simulated.open, served.url("mqtt"), served.fleet.clock)
    await device.enroll(parameters={"serial": "2"})
    await device.connect()
    await device.disconnect()
    assert (await served.manager.get_device("meter-2"))["lifecycle"] == "active"


async def test_telemetry_by_a_claim_certificate_is_refused_and_written_down(served, line_of, version):
    line = await line_of()
    await served.manager.register_device("meter-1", "meter")

    told = [await line.publish(f"fleet/v1/{who}/telemetry", '{"power": 1}') for who in ("meter-1", line.name)]

    if version == "mqttv5":
        assert all("rc135" in text or "Not authorized" in text for _, text in told), told
    assert (await served.manager.list_device_latest_readings("meter-1")).items == []
    (row,) = {(row.actor, row.object, row.reason) for row in await served.audited("access.denied")}
    assert row == (line.name, "publish", "not_authorised")


async def test_nothing_of_a_device_comes_of_a_claimants_connection(served, line_of, version):
    line = await line_of()
    async with Device(served, line, "meter-1", version).claimant() as client:
        sessions = len(served.fleet.device_sessions)
        reply = await client.request(messages.TWIN_GET)

    assert (sessions, reply.error["code"]) == (0, "not_authorised")
    assert (await served.manager.list_devices()).items == []
    assert {row.object for row in await served.audited("access.denied")} == {"twin.get"}


@pytest.mark.parametrize(
    "wanted",
    [
        "#",
        "fleet/v1/#",
        "fleet/v1/+/reply/+",
        "fleet/v1/meter-1/commands",
        "fleet/v1/{name}/#",
        "fleet/v1/{name}/+/+",
        "fleet/v1/{name}/reply/#",
        "fleet/v1/{name}/errors",
        "fleet/v1/{name}-2/reply/+",
        "fleet/v1/{name}/leaf/meter-1/reply/+",
        "$share/g/fleet/v1/{name}/reply/+",
    ],
)
async def test_a_claim_certificate_reads_its_replies_alone(served, line_of, wanted):
    line = await line_of()

    code, _, err = await line.program(
        *line.words("mosquitto_sub", "-W", str(int(PATIENCE_S)), "-t", wanted.format(name=line.name))
    )

    assert (code != 27, "denied" in err.decode()) == (True, True), err
    assert {row.object for row in await served.audited("access.denied")} == {"subscribe"}


async def test_a_disabled_batch_is_refused_and_what_is_open_by_it_ends(served, line_of, version):
    line, other = await line_of(), await line_of("autumn")
    gone, stays = (Device(served, one, "meter-1", version) for one in (line, other))
    async with gone.claimant() as client, stays.claimant() as good:
        await served.security.disable_claim("spring", reason="stolen")
        async with asyncio.timeout(PATIENCE_S):
            async for _ in client.downlinks():
                pass
        with pytest.raises(NotAuthorised):
            async with gone.claimant():
                pass
        assert (await good.request(messages.TIME)).status == 200
    rows = await served.audited("access.denied")
    assert {(row.actor, row.object, row.reason) for row in rows} == {(line.name, "session", "not_authorised")}


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("", "payload_unreadable"),
        ("{", "payload_unreadable"),
        ("[]", "payload_unreadable"),
        ('{"op": 1}', "payload_unreadable"),
        ('{"op": "enrol"}', "operation_unknown"),
        ('{"op": "enroll"}', "schema_invalid"),
        ('{"op": "enroll", "body": []}', "schema_invalid"),
        ('{"op": "enroll", "body": {"csr": 7}}', "schema_invalid"),
        ('{"op": "enroll", "body": {"csr": "\u00e9"}}', "schema_invalid"),
        ('{"op": "enroll", "body": {"csr": "no request"}}', "csr_invalid"),
        ('{"op": "enroll", "body": {"csr": "x", "csr": "y"}}', "payload_unreadable"),
        ('{"op": "enroll", "body": {"csr": "x", "parameters": [1]}}', "schema_invalid"),
        ('{"op": "enroll", "body": {"ownership_token": 7}}', "schema_invalid"),
        ('{"op": "enroll", "body": {"ownership_token": "no token"}}', "token_spent"),
        (
            '{"op": "enroll", "body": {"csr": "x", "parameters": ' + '{"a":' * 40 + "1" + "}" * 40 + "}}",
            "payload_unreadable",
        ),
        ('{"op": "certificate.renew", "body": {"csr": "x"}}', "not_authorised"),
        ('{"op": "leaf.register", "body": {"device": "x"}}', "not_authorised"),
        ('{"op": "telemetry", "body": {"power": 1}}', "not_authorised"),
    ],
)
async def test_a_request_that_makes_no_sense_is_told_why(served, line_of, caplog, message, code):
    line = await line_of()

    reply = await line.ask(message)

    assert (reply["ok"], reply["error"]["code"]) == (False, code)
    assert [record for record in caplog.records if record.exc_info] == []
    assert (await line.ask({"op": "time"}, "r2"))["ok"]
