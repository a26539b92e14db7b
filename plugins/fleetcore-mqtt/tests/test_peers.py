"""Programs that others wrote against the endpoint over mutual TLS: mosquitto_pub, mosquitto_sub, paho, openssl."""

import asyncio
import getpass
import json
from contextlib import contextmanager

import pytest
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from fleetcore.model.message import Downlink, Rejected
from fleetcore.testing.patience import PATIENCE_S
from fleetcore.testing.ports import free_port
from fleetcore.wire import messages


def tls_options(pki, endpoint, device):
    own = pki.device(device)
    certificate, key = own.certificate_path, own.key_path
    port = endpoint.endpoints[0].rpartition(":")[2]
    return ["-h", "127.0.0.1", "-p", port, "--cafile", pki.path, "--cert", certificate, "--key", key, "-i", device]


@pytest.fixture(params=["mqttv311", "mqttv5"])
def version(request):
    return request.param


@pytest.mark.peer("mosquitto_pub")
async def test_mosquitto_pub_hands_over_its_lines(tls_endpoint, plane, pki, version, program):
    options = [*tls_options(pki, tls_endpoint, "dev1"), "-V", version, "-q", "1", "-t", "fleet/v1/dev1/telemetry"]

    async with program("mosquitto_pub", *options, "-m", '{"t": 21.5}') as process:
        output, _ = await asyncio.wait_for(process.communicate(), PATIENCE_S)

    assert (process.returncode, output) == (0, b"")
    assert [(identity, m.payload) for identity, m in plane.received] == [("dev1", b'{"t": 21.5}')]


@pytest.mark.peer("mosquitto_pub")
async def test_five_hundred_lines_of_mosquitto_pub_arrive_in_order(tls_endpoint, plane, pki, version, program):
    options = [*tls_options(pki, tls_endpoint, "dev1"), "-V", version, "-q", "1", "-t", "fleet/v1/dev1/telemetry"]
    lines = b"".join(b'{"n": %d}\n' % n for n in range(500))
    process = await asyncio.create_subprocess_exec(
        "mosquitto_pub", *map(str, options), "-l", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )

    await asyncio.wait_for(process.communicate(lines), PATIENCE_S)

    assert [json.loads(body)["n"] for body in plane.bodies] == list(range(500))


@pytest.mark.peer("mosquitto_pub")
async def test_mosquitto_pub_as_another_device_changes_nothing(tls_endpoint, plane, pki, version, program):
    options = [*tls_options(pki, tls_endpoint, "dev1"), "-V", version, "-q", "1", "-t", "fleet/v1/dev3/telemetry"]

    async with program("mosquitto_pub", *options, "-m", "{}") as process:
        # Its exit status is 0 all the same: only what was received counts.
        await asyncio.wait_for(process.communicate(), PATIENCE_S)

    assert (plane.received, [denial[:2] for denial in plane.denials]) == ([], [("dev1", "dev3")])


@pytest.mark.peer("mosquitto_sub")
async def test_mosquitto_sub_gets_what_is_unfinished_and_what_comes(tls_endpoint, plane, pki, version, program, until):
    plane.command("dev1", {"id": "c1"})
    options = [*tls_options(pki, tls_endpoint, "dev1"), "-V", version, "-q", "1", "-C", "2", "-v"]

    async with program("mosquitto_sub", *options, "-t", "fleet/v1/dev1/#") as process:
        await until(lambda: plane.listening)
        plane.push(Downlink(type=messages.FIRMWARE, subject="dev1", body={"offer": None}))
        output, _ = await asyncio.wait_for(process.communicate(), PATIENCE_S)

    assert output.decode().splitlines() == [
        'fleet/v1/dev1/commands {"id":"c1"}',
        'fleet/v1/dev1/firmware {"offer":null}',
    ]


@pytest.mark.peer("mosquitto_sub")
async def test_mosquitto_sub_cannot_listen_to_another_device(tls_endpoint, plane, pki, version, program):
    options = [*tls_options(pki, tls_endpoint, "dev1"), "-V", version, "-q", "1"]

    async with program("mosquitto_sub", *options, "-t", "fleet/v1/dev3/commands") as process:
        output, _ = await asyncio.wait_for(process.communicate(), PATIENCE_S)

    assert b"denied" in output.lower() or b"rejected" in output.lower()


@pytest.mark.peer("mosquitto_sub")
async def test_the_will_of_a_killed_mosquitto_sub_is_published(tls_endpoint, plane, pki, version, program, until):
    options = [*tls_options(pki, tls_endpoint, "dev1"), "-V", version, "-t", "fleet/v1/dev1/commands"]
    will = ["--will-topic", "fleet/v1/dev1/status", "--will-payload", '{"state":"offline"}', "--will-qos", "1"]

    async with program("mosquitto_sub", *options, *will) as process:
        await until(lambda: plane.listening)
        process.kill()
        await until(lambda: plane.received)

    assert plane.bodies == [b'{"state":"offline"}']


@pytest.mark.peer("mosquitto_sub")
async def test_revocation_ends_a_running_mosquitto_sub(tls_endpoint, plane, pki, program, until):
    options = [*tls_options(pki, tls_endpoint, "dev1"), "-V", "mqttv5", "-t", "fleet/v1/dev1/commands"]

    async with program("mosquitto_sub", *options) as process:
        await until(lambda: plane.listening)
        plane.revoke("dev1")
        await asyncio.wait_for(process.communicate(), PATIENCE_S)

    assert not plane.sessions


@pytest.mark.parametrize("protocol", [paho.MQTTv5, paho.MQTTv311], ids=["5", "3.1.1"])
async def test_paho_is_answered_after_a_temporary_refusal(tls_endpoint, plane, pki, clock, counts, until, protocol):
    with _paho(tls_endpoint, pki, protocol) as client:
        await until(client.is_connected)
        plane.outcome = Rejected(code="storage_full", reason="full")
        info = client.publish("fleet/v1/dev1/telemetry", b'{"t": 1}', qos=1)
        await until(lambda: counts["mqtt_temporary_refusal"])
        assert not info.is_published()
        plane.outcome = None

        await clock.advance(1)

        await until(info.is_published)
        assert plane.bodies == [b'{"t": 1}']


@pytest.mark.parametrize("protocol", [paho.MQTTv5, paho.MQTTv311], ids=["5", "3.1.1"])
async def test_paho_sends_again_after_a_refusal_of_half_a_minute(
    tls_endpoint, plane, pki, clock, counts, until, protocol
):
    with _paho(tls_endpoint, pki, protocol) as client:
        await until(client.is_connected)
        plane.outcome = Rejected(code="storage_full", reason="full")
        info = client.publish("fleet/v1/dev1/telemetry", b'{"t": 1}', qos=1)
        await until(lambda: counts["mqtt_temporary_refusal"])
        opened = len(plane.authentications)

        await clock.advance(31)
        await until(lambda: len(plane.authentications) > opened)
        plane.outcome = None
        await clock.advance(1)

        await until(info.is_published)
        assert plane.bodies == [b'{"t": 1}']


@contextmanager
def _paho(endpoint, pki, protocol):
    more = {} if protocol == paho.MQTTv5 else {"clean_session": False}
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id="dev1", protocol=protocol, **more)
    client.tls_set_context(pki.secrets("dev1").tls())
    client.reconnect_delay_set(1, 1)
    client.connect_async("127.0.0.1", int(endpoint.endpoints[0].rpartition(":")[2]))
    client.loop_start()
    try:
        yield client
    finally:
        client.disconnect()
        client.loop_stop()


@pytest.mark.peer("mosquitto")
@pytest.mark.parametrize("version", ["mqttv311", "mqttv50"])
async def test_a_mosquitto_bridge_with_its_usual_notifications_forwards(
    tls_endpoint, plane, pki, version, program, until, tmp_path
):
    """Its will is below ``$SYS`` and retained, and so is what it publishes about itself."""
    own = pki.device("dev1")
    local = free_port()
    config = tmp_path / "bridge.conf"
    config.write_text(
        f"""user {getpass.getuser()}
listener {local} 127.0.0.1
allow_anonymous true
connection fleetcore
address 127.0.0.1:{tls_endpoint.endpoints[0].rpartition(":")[2]}
remote_clientid dev1
bridge_protocol_version {version}
bridge_cafile {pki.path}
bridge_certfile {own.certificate_path}
bridge_keyfile {own.key_path}
topic fleet/v1/dev1/telemetry out 1
topic fleet/v1/dev1/commands in 1
"""
    )
    async with program("mosquitto", "-c", config):
        await until(lambda: plane.listening)
        sending = ["mosquitto_pub", "-p", local, "-q", "1", "-r", "-t", "fleet/v1/dev1/telemetry", "-m", '{"t": 1}']
        async with program(*sending) as sender:
            await asyncio.wait_for(sender.communicate(), PATIENCE_S)
        await until(lambda: plane.bodies)
        listening = ["mosquitto_sub", "-p", local, "-t", "fleet/v1/dev1/commands", "-C", "1"]
        async with asyncio.timeout(PATIENCE_S), program(*listening) as listener:
            heard = asyncio.ensure_future(listener.communicate())
            while not heard.done():
                plane.push(Downlink(type=messages.COMMAND, subject="dev1", body={"id": "c1"}))
                await asyncio.wait({heard}, timeout=0.1)

    assert plane.bodies == [b'{"t": 1}']
    assert heard.result()[0] == b'{"id":"c1"}\n'


@pytest.mark.peer("openssl")
async def test_openssl_gets_no_session_ticket_and_a_certificate_that_verifies(tls_endpoint, pki, program):
    own = pki.device("dev1")
    certificate, key = own.certificate_path, own.key_path
    port = tls_endpoint.endpoints[0].rpartition(":")[2]
    process = await asyncio.create_subprocess_exec(
        *["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-CAfile", str(pki.path)],
        *["-cert", str(certificate), "-key", str(key), "-verify_return_error"],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )

    output, _ = await asyncio.wait_for(process.communicate(b"Q\n"), PATIENCE_S)

    assert b"Verify return code: 0 (ok)" in output
    assert b"New Session Ticket" not in output


async def test_a_certificate_of_another_root_gets_no_connection(tls_endpoint, plane, pki, tmp_path_factory):
    stranger = type(pki)(tmp_path_factory.mktemp("stranger"))
    port = int(tls_endpoint.endpoints[0].rpartition(":")[2])
    context = stranger.secrets("dev1").tls()
    context.load_verify_locations(cadata=pki.pem.decode())

    async def converse():
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        try:
            writer.write(b"\xc0\x00")
            await reader.readexactly(1)
        finally:
            writer.close()

    with pytest.raises((OSError, asyncio.IncompleteReadError)):
        await converse()

    assert plane.authentications == []


async def test_a_stalled_handshake_does_not_count_as_a_connection(tls_endpoint):
    port = int(tls_endpoint.endpoints[0].rpartition(":")[2])
    _reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"\x16\x03\x01")
    await asyncio.sleep(0.05)

    assert tls_endpoint.connections == 0
    writer.close()
