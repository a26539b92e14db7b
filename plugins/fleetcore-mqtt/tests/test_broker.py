"""The consumer behind a real Mosquitto with the generated configuration and mutual TLS, end to end."""

import asyncio
import json
import signal
import subprocess
import sys

import pytest
from click.testing import CliRunner
from fleetcore_mqtt import topics
from fleetcore_mqtt.broker_files import BrokerFiles, access_list
from fleetcore_mqtt.client import MqttDeviceClient
from fleetcore_mqtt.commands import mqtt
from fleetcore_mqtt.config import MqttConfig
from fleetcore_mqtt.link import Publication
from fleetcore_mqtt.plugin import open_mqtt
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from fleetcore.errors import ConfigError, CredentialsRejected, NotReady, Refused, Unavailable
from fleetcore.interfaces import DeviceSecrets
from fleetcore.model.credential import AssertedCredential
from fleetcore.model.message import Downlink, Rejected
from fleetcore.testing.patience import PATIENCE_S
from fleetcore.testing.ports import free_port
from fleetcore.wire import messages

pytestmark = pytest.mark.peer("mosquitto")


class Mosquitto:
    """A broker on a port of its own, restarted and signalled by the tests."""

    def __init__(self, folder, port):
        self.folder, self.port = folder, port
        self.url = f"mqtts://127.0.0.1:{port}"
        self.process = None

    async def start(self):
        command = ["mosquitto", "-c", str(self.folder / "mosquitto.conf")]
        self.process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    return

    async def stop(self, how=signal.SIGTERM):
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(how)
            await asyncio.wait_for(self.process.communicate(), PATIENCE_S)


@pytest.fixture
async def mosquitto(pki, tmp_path):
    port = free_port()
    crl = tmp_path / "crl.pem"
    crl.write_bytes(pki.revoke().read_bytes())
    server = pki.server_identity()
    options = {
        "--out": tmp_path / "broker",
        "--port": port,
        "--ca": pki.path,
        "--cert": server.certificate_path,
        "--key": server.key_path,
        "--crl": crl,
        "--service": pki.service_identity().certificate_path,
    }
    arguments = [str(each) for pair in options.items() for each in pair]
    result = CliRunner().invoke(mqtt, ["broker-config", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    broker = Mosquitto(tmp_path / "broker", port)
    await broker.start()
    yield broker
    await broker.stop()


@pytest.fixture
async def consumer(mosquitto, plane, context):
    async with open_mqtt(MqttConfig(url=mosquitto.url), context, plane, plane) as opened:
        yield opened


async def test_a_device_behind_the_broker_is_vouched_for_by_it(consumer, mosquitto, plane, pki, until):
    async with MqttDeviceClient(mosquitto.url, pki.secrets("dev1")) as device:
        await device.send(messages.TELEMETRY, {"t": 1}, id="m1")
        await device.send(messages.TELEMETRY, {"t": 2}, subject="leaf1")
        await until(lambda: len(plane.received) == 2)

    assert [(identity, m.subject, m.payload, m.id) for identity, m in plane.received] == [
        ("dev1", "dev1", b'{"t":1}', "m1"),
        ("dev1", "leaf1", b'{"t":2}', None),
    ]
    assert [credential for credential, *_ in plane.authentications] == [AssertedCredential("dev1", "127.0.0.1")]


async def test_the_broker_drops_what_a_device_says_as_another(consumer, mosquitto, plane, pki, until):
    client = MqttDeviceClient(mosquitto.url, pki.secrets("dev1"))
    async with client as device:
        refused = await device._publish("fleet/v1/dev3/telemetry", b"{}")
        await device.send(messages.TELEMETRY, {"t": 1})
        await until(lambda: plane.received)

    assert refused.error["code"] == "not_authorised"
    assert [m.subject for _, m in plane.received] == ["dev1"]


async def test_a_device_that_sets_retain_is_heard_behind_the_broker(consumer, mosquitto, plane, pki, program, until):
    own = pki.device("dev1")
    command = ["mosquitto_pub", "-h", "127.0.0.1", "-p", mosquitto.port, "--cafile", pki.path, "-i", "dev1", "-r"]
    command += ["--cert", own.certificate_path, "--key", own.key_path, "-q", "1", "-m", '{"t": 1}']

    async with program(*command, "-t", "fleet/v1/dev1/telemetry") as sender:
        await asyncio.wait_for(sender.communicate(), PATIENCE_S)
    await until(lambda: plane.received)

    assert (sender.returncode, plane.bodies) == (0, [b'{"t": 1}'])


async def test_a_device_cannot_use_anothers_client_id(consumer, mosquitto, plane, pki, until):
    async with MqttDeviceClient(mosquitto.url, pki.secrets("dev3")) as victim:
        thief = paho.Client(CallbackAPIVersion.VERSION2, client_id="dev3", protocol=paho.MQTTv5)
        thief.tls_set_context(pki.secrets("dev1").tls())
        await asyncio.to_thread(thief.connect, "127.0.0.1", mosquitto.port)
        thief.loop_start()
        await asyncio.sleep(0.2)

        reply = await victim.send(messages.TELEMETRY, {"t": 1})

        thief.disconnect()
        thief.loop_stop()
    assert reply.status == 204


async def test_without_a_certificate_there_is_no_connection(consumer, mosquitto, pki):
    with pytest.raises(Unavailable):
        async with MqttDeviceClient(mosquitto.url, DeviceSecrets(device="dev1", ca=pki.pem)):
            pass


async def test_downlinks_requests_and_errors_reach_the_device(consumer, mosquitto, plane, pki, until):
    async with MqttDeviceClient(mosquitto.url, pki.secrets("dev1")) as device:
        plane.push(Downlink(type=messages.COMMAND, subject="dev1", body={"id": "c1"}, expires_ms=30_000))
        downlinks = device.downlinks()
        async with asyncio.timeout(PATIENCE_S):
            command = await anext(downlinks)
            twin = await device.request(messages.TWIN_GET)
            await device.send(messages.TELEMETRY, b"!unreadable")
            refused = await anext(downlinks)

    assert (command.type, command.body) == (messages.COMMAND, {"id": "c1"})
    assert twin.body["reported"] == {"subject": "dev1"}
    assert (refused.type, refused.body["code"]) == (messages.ERRORS, "payload_unreadable")


async def test_a_downlink_of_a_leaf_goes_below_its_registered_gateway_though_it_was_not_heard(
    consumer, mosquitto, plane, pki
):
    async with MqttDeviceClient(mosquitto.url, pki.secrets("dev1")) as gateway:
        plane.push(Downlink(type=messages.COMMAND, subject="leaf1", body={"id": "c1"}))

        async with asyncio.timeout(PATIENCE_S):
            got = await anext(gateway.downlinks())
    assert (got.subject, got.body) == ("leaf1", {"id": "c1"})


async def test_a_downlink_of_a_leaf_that_speaks_for_itself_goes_to_itself(consumer, mosquitto, plane, pki, until):
    plane.leaves = {"dev2": "dev1"}
    async with MqttDeviceClient(mosquitto.url, pki.secrets("dev2")) as leaf:
        await leaf.send(messages.STATUS, {"state": "online"})
        # Where a device was heard counts once its message is accepted, a turn after the plane has it.
        await until(lambda: consumer._heard_below == {"dev2": "dev2"})

        plane.push(Downlink(type=messages.COMMAND, subject="dev2", body={"id": "c1"}))

        async with asyncio.timeout(PATIENCE_S):
            got = await anext(leaf.downlinks())
    assert (got.subject, got.body) == ("dev2", {"id": "c1"})


async def test_who_claims_to_be_anothers_gateway_does_not_get_its_commands(consumer, mosquitto, plane, pki, until):
    async with (
        MqttDeviceClient(mosquitto.url, pki.secrets("dev1")) as victim,
        MqttDeviceClient(mosquitto.url, pki.secrets("dev3")) as stranger,
    ):
        await victim.send(messages.STATUS, {"state": "online"})
        await stranger.send(messages.STATUS, {"state": "online"}, subject="dev1")
        await until(lambda: plane.denials)

        plane.push(Downlink(type=messages.COMMAND, subject="dev1", body={"id": "c1"}))

        async with asyncio.timeout(PATIENCE_S):
            got = await anext(victim.downlinks())
    assert (got.subject, got.body) == ("dev1", {"id": "c1"})


async def test_the_registry_refuses_what_the_broker_still_lets_through(consumer, mosquitto, plane, pki, until):
    async with MqttDeviceClient(mosquitto.url, pki.secrets("dev1")) as device:
        await device.send(messages.TELEMETRY, {"t": 1})
        await until(lambda: plane.received)
        plane.revoke("dev1")

        await device.send(messages.TELEMETRY, {"t": 2})
        async with asyncio.timeout(PATIENCE_S):
            told = await anext(device.downlinks())

    assert told.body["code"] == "device_revoked"
    assert len(plane.received) == 1
    assert [(each.identity, each.rejected.code) for each in plane.refusals] == [("", "device_revoked")]


async def test_what_waits_for_its_commit_survives_a_restart_of_the_broker(
    consumer, mosquitto, plane, pki, until, context
):
    def telemetry(received):
        """Values in order. A broker that stops before it has read a DISCONNECT passes on the device's will as well."""
        return [json.loads(message.payload)["n"] for _, message in received if message.type is messages.TELEMETRY]

    def waiting():
        return telemetry(received for received, _ in plane.waiting)

    plane.hold()
    async with MqttDeviceClient(mosquitto.url, pki.secrets("dev1")) as device:
        for n in range(5):
            await device.send(messages.TELEMETRY, {"n": n})
        await until(lambda: len(waiting()) == 5)

    assert consumer.trouble == ""
    await mosquitto.stop()
    await until(lambda: consumer.connections == 0)
    assert mosquitto.url in consumer.trouble
    lost = plane.lose()
    await mosquitto.start()
    await until(lambda: len(waiting()) == 5)

    assert waiting() == [0, 1, 2, 3, 4]
    for _, finish in lost:
        finish()  # the answers of the old connection must acknowledge nothing
    plane.commit()
    await until(lambda: consumer._link._unacked == 0)
    # The broker does not say when it has read the acknowledgements; what it passes on was sent to it after them.
    async with MqttDeviceClient(mosquitto.url, pki.secrets("dev1")) as device:
        consumer._link.publish(Publication(topic="fleet/v1/dev1/commands", payload=b'{"id": "c"}'))
        async with asyncio.timeout(PATIENCE_S):
            await anext(device.downlinks())
    await mosquitto.stop()
    await until(lambda: consumer.connections == 0)
    await mosquitto.start()
    await until(lambda: consumer.connections == 1)
    await asyncio.sleep(0.3)

    assert sorted(telemetry(plane.received)) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


async def test_an_answer_of_an_old_connection_does_not_acknowledge_on_the_new_one(
    consumer, mosquitto, plane, pki, until
):
    plane.hold()
    async with MqttDeviceClient(mosquitto.url, pki.secrets("dev1")) as device:
        await device.send(messages.TELEMETRY, {"n": 1})
        await until(lambda: plane.waiting)
    await mosquitto.stop(signal.SIGKILL)
    (mosquitto.folder / "mosquitto.db").unlink(missing_ok=True)
    await until(lambda: consumer.connections == 0)
    old = plane.lose()
    await mosquitto.start()
    await until(lambda: consumer.connections == 1)
    async with MqttDeviceClient(mosquitto.url, pki.secrets("dev1")) as device:
        await device.send(messages.TELEMETRY, {"n": 2})
        await until(lambda: plane.waiting)

    for _, finish in old:
        finish()
    await asyncio.sleep(0.2)

    assert consumer._link._unacked == 1


async def test_a_temporary_refusal_is_tried_again_and_acknowledged_then(consumer, mosquitto, plane, pki, until, clock):
    plane.outcome = Rejected(code="storage_full", reason="full")
    async with MqttDeviceClient(mosquitto.url, pki.secrets("dev1")) as device:
        await device.send(messages.TELEMETRY, {"n": 1})
        await until(lambda: consumer._held)
        await device.send(messages.TELEMETRY, {"n": 2})
        await asyncio.sleep(0.2)
        assert plane.received == []
        plane.outcome = None

        async with asyncio.timeout(PATIENCE_S):
            while len(plane.received) < 2:
                await clock.advance(1)
                await asyncio.sleep(0.02)

    await until(lambda: consumer._link._unacked == 0)
    assert [json.loads(body)["n"] for body in plane.bodies] == [1, 2]


async def test_one_device_over_its_rate_does_not_hold_up_another(consumer, mosquitto, plane, pki, until):
    slow = Rejected(code="rate_limited", reason="slow down")
    plane.judge = lambda identity, _: slow if identity == "dev1" else None
    async with (
        MqttDeviceClient(mosquitto.url, pki.secrets("dev1")) as noisy,
        MqttDeviceClient(mosquitto.url, pki.secrets("dev2")) as quiet,
    ):
        for n in range(10):
            await noisy.send(messages.TELEMETRY, {"n": n})
        await quiet.send(messages.TELEMETRY, {"n": 0})

        await until(lambda: plane.received)

    assert plane.received[0][0] == "dev2"


async def test_a_full_plane_leaves_the_messages_at_the_broker(consumer, mosquitto, plane, pki, until):
    plane.fill()
    async with MqttDeviceClient(mosquitto.url, pki.secrets("dev1")) as device:
        await device.send(messages.TELEMETRY, {"n": 0})
        await until(lambda: plane.received)
        await asyncio.gather(*(device.send(messages.TELEMETRY, {"n": n}) for n in range(1, 51)))
        await asyncio.sleep(0.3)
        held_back = len(plane.received)
        plane.make_room()

        await until(lambda: len(plane.received) == 51)

    assert held_back <= 5, "only what was under way when the plane was full"


async def test_no_more_than_the_bound_is_unacknowledged(mosquitto, plane, context, pki, until):
    plane.hold()
    async with (
        open_mqtt(MqttConfig(url=mosquitto.url, broker_unacked=10), context, plane, plane),
        MqttDeviceClient(mosquitto.url, pki.secrets("dev1")) as device,
    ):
        await asyncio.gather(*(device.send(messages.TELEMETRY, {"n": n}) for n in range(60)))
        await until(lambda: len(plane.waiting) == 10)
        await asyncio.sleep(0.2)  # and no more of them
        at_most = len(plane.waiting)
        while len(plane.received) < 60:
            plane.commit()
            await asyncio.sleep(0.02)

    assert at_most == 10


async def gets_in(mosquitto, secrets):
    try:
        async with MqttDeviceClient(mosquitto.url, secrets):
            return True
    except Unavailable:
        return False


async def test_a_revoked_certificate_is_refused_by_the_broker_after_its_signal(consumer, mosquitto, pki, tmp_path):
    (tmp_path / "crl.pem").write_bytes(pki.revoke("dev2").read_bytes())
    mosquitto.process.send_signal(signal.SIGHUP)

    async with asyncio.timeout(PATIENCE_S):  # Mosquitto says nowhere that it has read the list
        while await gets_in(mosquitto, pki.secrets("dev2")):
            await asyncio.sleep(0.05)

    async with MqttDeviceClient(mosquitto.url, pki.secrets("dev1")) as device:
        assert (await device.send(messages.TELEMETRY, {})).status == 204


async def test_draining_waits_for_what_was_read(consumer, mosquitto, plane, pki, until):
    plane.hold()
    async with MqttDeviceClient(mosquitto.url, pki.secrets("dev1")) as device:
        await device.send(messages.TELEMETRY, {"n": 1})
        await until(lambda: plane.waiting)
        draining = asyncio.ensure_future(consumer.drain())
        await asyncio.sleep(0.05)
        assert not draining.done()

        plane.commit()

        await asyncio.wait_for(draining, PATIENCE_S)


async def test_no_broker_is_not_ready(plane, context):
    with pytest.raises(NotReady):
        async with open_mqtt(MqttConfig(url=f"mqtts://127.0.0.1:{free_port()}"), context, plane, plane):
            pass


async def test_a_broker_that_refuses_our_credentials_is_a_matter_for_a_person(plane, context, endpoint):
    with pytest.raises(CredentialsRejected):
        async with open_mqtt(MqttConfig(url=endpoint.endpoints[0]), context, plane, plane):
            pass


@pytest.mark.parametrize("url", ["mqtt://broker.example:1883", "amqp://x", "mqtts://"])
async def test_an_address_that_cannot_be_used_is_a_mistake(plane, context, url):
    with pytest.raises(ConfigError):
        async with open_mqtt(MqttConfig(url=url), context, plane, plane):
            pass


def test_the_access_list_has_two_explicit_lists_and_no_wildcard_for_all(tmp_path):
    lines = access_list("fleetcore:consumer").splitlines()

    assert "pattern write fleet/v1/%u/telemetry" in lines
    assert "pattern write fleet/v1/%u/leaf/+/commands/+/result" in lines
    assert "pattern read fleet/v1/%u/twin/desired" in lines
    assert "user fleetcore:consumer" in lines
    assert "topic read fleet/v1/+/request/+" in lines
    assert not [line for line in lines if "#" in line[1:]]
    assert len([line for line in lines if line.startswith("pattern write")]) == 2 * len(topics.WRITE)


@pytest.mark.parametrize("name", ["a\ntopic readwrite #", "x\0"])
def test_no_name_can_write_a_line_of_its_own(tmp_path, name):
    with pytest.raises(Refused):
        BrokerFiles(
            out=tmp_path, port=1, ca=tmp_path, certificate=tmp_path, key=tmp_path, crl=None, service=name
        ).render()


def test_a_missing_file_is_named(tmp_path):
    result = CliRunner().invoke(mqtt, ["broker-config", "--data", str(tmp_path), "--out", str(tmp_path / "o")])

    assert result.exit_code == 3
    assert "ca.pem" in result.output


def test_importing_the_plugin_loads_no_heavy_library():
    code = "import fleetcore_mqtt.plugin, sys; print([m for m in ('paho', 'mqtt5', 'click') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
