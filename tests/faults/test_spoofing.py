"""Who says that it is somebody else, in topic, path, header, client id or payload: refused by a code, on every endpoint.

Mallory has a valid certificate of her own and is a gateway with a leaf; honest and elsewhere's leaf are not hers.
"""

import base64
from contextlib import asynccontextmanager

import aiohttp
import pytest
from attrs import evolve
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from fleetcore_http.plugin import open_client

from fleetcore import IoTFleetManager
from fleetcore.errors import NotAuthenticated, NotAuthorised, NotFound, Unavailable
from fleetcore.interfaces import DeviceSecrets
from fleetcore.runtime.clock import SystemClock
from fleetcore.testing.simulator import SimulatedDevice
from fleetcore.wire import messages
from fleetcore.wire.shared_keys import SharedKey, shared_key

BY_CERTIFICATE = ("http", "mqtt", "mqtt 3.1.1", "websocket", "coap")
KINDS = (*BY_CERTIFICATE, "coap by key", "oscore")
FOREIGN = ("honest", "their-leaf", "nobody")
UPLINKS = {
    messages.TELEMETRY: {"heat": 666},
    messages.LOCATION: {"lat": 6.66, "lon": 6.66},
    messages.STATUS: {"state": "offline"},
    messages.TWIN_REPORT: {"owned": True},
    messages.TWIN_ACK: {"version": 1},
}


@pytest.fixture
async def fleet(in_process):
    """A server with honest, mallory, her leaf and another gateway's; ``server.of`` has their secrets."""
    async with in_process('[protocols.websocket]\nlisten = "wss://127.0.0.1:0"\n', coap=True) as server:
        server.of = {name: await server.device(name) for name in ("honest", "mallory")}
        token = (await server.manager.issue_device_token("mallory")).token
        server.of["mallory by key"] = evolve(server.of["mallory"], certificate=None, key=None, token=token)
        for gateway, leaf in (("mallory", "her-leaf"), ("elsewhere", "their-leaf")):
            await server.manager.register_gateway(gateway)
            await server.manager.register_device(leaf, "sensor", {"gateway": gateway})
        yield server


@asynccontextmanager
async def _honest_goes_on(server):
    """Honest is connected over MQTT meanwhile, and neither connection nor data of it are touched."""
    async with server.client("mqtt", server.of["honest"]) as honest:
        assert (await honest.send(messages.TELEMETRY, {"heat": 20})).error is None
        before = await server.manager.get_twin("honest")
        yield
        assert (await honest.send(messages.TELEMETRY, {"cold": 21})).error is None
    assert {one["metric"]: one["value"] for one in await server.manager.list_device_latest_readings("honest")} == {
        "heat": 20,
        "cold": 21,
    }
    assert (await server.manager.query_telemetry("honest", "heat")).value.tolist() == [20]
    after = await server.manager.get_twin("honest")
    assert (after["reported"], after["reported_version"]) == (before["reported"], before["reported_version"])
    with pytest.raises(NotFound):
        await server.manager.get_location("honest")
    assert {one["device"] for one in await server.manager.list_series()} <= {"honest", "mallory", "her-leaf"}


def _der(secrets):
    """A device's certificate as headers carry it: DER in base64."""
    leaf = x509.load_pem_x509_certificates(secrets.certificate)[0]
    return base64.b64encode(leaf.public_bytes(Encoding.DER)).decode()


def _mallorys(server, kind):
    return server.client(kind, server.of["mallory by key" if kind == "coap by key" else "mallory"])


async def _refusal(device, kind, reply):
    """The code of a refusal: on 3.1.1 it is told on ``errors`` alone."""
    if kind != "mqtt 3.1.1":
        return reply.error and reply.error["code"]
    async for downlink in device.downlinks():
        if downlink.type is messages.ERRORS:
            return downlink.body["code"]
    return None


@pytest.mark.parametrize("subject", FOREIGN)
@pytest.mark.parametrize("kind", KINDS)
async def test_no_uplink_is_taken_about_a_device_that_is_not_the_speakers(fleet, kind, subject):
    async with _honest_goes_on(fleet), _mallorys(fleet, kind) as mallory:
        for message_type, body in UPLINKS.items():
            reply = await mallory.send(message_type, body, subject=subject)

            assert await _refusal(mallory, kind, reply) == "not_your_device", type
            if kind == "http":
                assert reply.status == 403
        assert (await fleet.manager.get_status())["messages"]["rejected"] == {"not_your_device": len(UPLINKS)}


@pytest.mark.parametrize("kind", KINDS)
async def test_nothing_is_told_about_a_device_that_is_not_the_askers(fleet, kind):
    await fleet.manager.set_desired("honest", {"secret": 42})
    async with _mallorys(fleet, kind) as mallory:
        for subject in FOREIGN:
            for message_type in (messages.TWIN_GET, messages.INBOX):
                reply = await mallory.request(message_type, subject=subject)

                assert reply.error is not None
                assert reply.error["code"] == "not_your_device", (subject, type)
                assert not reply.body


@pytest.mark.parametrize("kind", KINDS)
async def test_a_gateway_speaks_for_its_own_leaf_and_that_alone_is_let_through(fleet, kind):
    async with _mallorys(fleet, kind) as mallory:
        assert (await mallory.send(messages.TELEMETRY, {"heat": 5}, subject="her-leaf")).error is None

    assert [one["value"] for one in await fleet.manager.list_device_latest_readings("her-leaf")] == [5]
    assert (await fleet.manager.list_series("mallory")).items == []


TOPICS = {
    "fleet/v1/honest/telemetry": "not_your_device",
    "fleet/v1/honest/telemetry/senml": "not_your_device",
    "fleet/v1/honest/twin/reported": "not_your_device",
    "fleet/v1/honest/commands/c1/result": "not_your_device",
    "fleet/v1/elsewhere/leaf/their-leaf/telemetry": "not_your_device",
    "fleet/v1/mallory/twin/desired": "operation_unknown",
    "fleet/v1/honest/twin/desired": "operation_unknown",
    "fleet/v1/honest/commands": "operation_unknown",
    "fleet/v2/mallory/telemetry": "topic_invalid",
    "telemetry": "topic_invalid",
}


@pytest.mark.parametrize("kind", ["mqtt", "mqtt 3.1.1"])
async def test_a_topic_is_the_speakers_own_or_refused(fleet, kind):
    async with _honest_goes_on(fleet), _mallorys(fleet, kind) as mallory:
        for topic, code in TOPICS.items():
            # The client itself writes to its own topics only.
            reply = await mallory._publish(topic, b'{"heat": 666}')

            assert await _refusal(mallory, kind, reply) == code, topic


@pytest.mark.parametrize("kind", ["mqtt", "mqtt 3.1.1"])
async def test_anothers_client_id_or_user_name_is_refused_and_its_owner_stays_connected(fleet, kind):
    mallory = fleet.of["mallory"]
    token = (await fleet.manager.issue_device_token("mallory")).token
    async with _honest_goes_on(fleet):
        for secrets in (evolve(mallory, device="honest"), DeviceSecrets(device="honest", ca=mallory.ca, token=token)):
            with pytest.raises((NotAuthenticated, NotAuthorised)):
                async with fleet.client(kind, secrets):
                    pass


async def test_headers_that_name_another_change_nothing(fleet):
    mallory, honest = fleet.of["mallory"], fleet.of["honest"]
    der = _der(honest)
    headers = {
        "Client-Cert": f":{der}:",
        "X-Client-Cert": der,
        "X-Forwarded-Client-Cert": 'Subject="CN=honest";URI=urn:fleetcore:device:faults:honest',
        "X-SSL-Client-S-DN": "CN=honest",
        "X-Device-Id": "honest",
        "Authorization": f"Bearer {(await fleet.manager.issue_device_token('honest')).token}",
    }
    tls = aiohttp.TCPConnector(ssl=mallory.tls())
    async with _honest_goes_on(fleet), aiohttp.ClientSession(connector=tls) as http:
        for number, (name, value) in enumerate(headers.items()):
            body = {"time": 1_750_000_000_000 + number, "values": {"heat": number}}
            url = f"{fleet.http}/device/v1/telemetry?device=honest"
            async with http.post(url, json=body, headers={name: value}) as response:
                assert response.status == 204, name

    # The certificate of the connection is who speaks, whatever the headers say.
    mine = (await fleet.manager.query_telemetry("mallory", "heat")).value.tolist()
    assert mine == list(range(len(headers)))


async def test_without_a_certificate_no_header_is_a_credential(fleet):
    anybody = DeviceSecrets(device="honest", ca=fleet.of["honest"].ca)
    der = _der(fleet.of["honest"])
    tls = aiohttp.TCPConnector(ssl=anybody.tls())
    async with _honest_goes_on(fleet), aiohttp.ClientSession(connector=tls) as http:
        for headers in (
            {},
            {"Client-Cert": f":{der}:"},
            {"X-Client-Cert": der},
            {"Authorization": "Bearer honest"},
        ):
            async with http.post(f"{fleet.http}/device/v1/telemetry", json={"heat": 666}, headers=headers) as response:
                assert (response.status, (await response.json())["code"]) == (401, "not_authenticated")


@pytest.mark.parametrize(("kind", "module"), [("coap by key", "channel"), ("oscore", "oscore.channel")])
async def test_anothers_token_is_proved_by_its_own_key_alone(fleet, kind, module):
    mallory = fleet.of["mallory by key"]
    mine = shared_key("mallory", mallory.token)
    theirs = shared_key("honest", (await fleet.manager.issue_device_token("honest")).token)
    async with _honest_goes_on(fleet):
        for identity in (theirs.token, "honest:" + mine.token.partition(":")[2], "honest", "their-leaf"):
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(f"fleetcore_coap.{module}.shared_key", lambda *_of: SharedKey(identity, mine.key))  # noqa: B023
                with pytest.raises(NotAuthenticated):
                    async with fleet.client(kind, mallory):
                        pass


async def _namesake(folder):
    """Honest's namesake in a fleet of the same name with another CA."""
    folder.mkdir(mode=0o700)
    listen = 'listen = "https://127.0.0.1:0"'
    (folder / "fleet.toml").write_text(f'[fleet]\nname = "faults"\ndata = "."\n[protocols.http]\n{listen}\n')
    async with IoTFleetManager(folder, create=True) as manager:
        other = await manager.open()
        await other.serve()
        await manager.register_device("honest", "sensor")
        secrets = DeviceSecrets(device="honest", ca=(folder / "pki" / "ca.pem").read_bytes())
        (endpoint,) = other.protocols["http"].adapter.endpoints
        device = SimulatedDevice(secrets, open_client, endpoint, SystemClock())
        await device.enroll((await manager.create_enrollment_token("honest")).token)
        return device.secrets


async def test_a_namesakes_certificate_of_another_ca_is_refused_by_all(fleet, tmp_path):
    namesake = await _namesake(tmp_path / "other")
    async with _honest_goes_on(fleet):
        for kind in BY_CERTIFICATE:
            with pytest.raises((Unavailable, NotAuthenticated, NotAuthorised)):
                async with fleet.client(kind, evolve(namesake, ca=fleet.of["honest"].ca)):
                    pass


PAYLOADS = {
    "a SenML base name": b'[{"bn": "urn:fleetcore:device:faults:honest/", "n": "heat", "v": 666}]',
    "a SenML name": b'[{"n": "urn:fleetcore:device:faults:honest/heat", "v": 666}]',
    "a leaf of another gateway": b'[{"bn": "urn:fleetcore:device:faults:their-leaf/", "n": "heat", "v": 666}]',
    "another fleet": b'[{"bn": "urn:fleetcore:device:other:mallory/", "n": "heat", "v": 666}]',
}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_name_in_the_payload_that_is_not_the_speakers_is_refused(fleet, kind):
    async with _honest_goes_on(fleet), _mallorys(fleet, kind) as mallory:
        for name, payload in PAYLOADS.items():
            reply = await mallory.send(messages.TELEMETRY, payload)

            assert await _refusal(mallory, kind, reply) == "not_your_device", name
        assert (await fleet.manager.list_series("mallory")).items == []


@pytest.mark.parametrize("kind", KINDS)
async def test_a_device_member_in_the_payload_means_nothing(fleet, kind):
    async with _honest_goes_on(fleet), _mallorys(fleet, kind) as mallory:
        for member in ("device", "device_id", "deviceId"):
            envelope = {member: "honest", "time": 1_750_000_000_000, "values": {"heat": 666}}
            refused = await mallory.send(messages.TELEMETRY, envelope)
            assert await _refusal(mallory, kind, refused) == "schema_invalid"
            flat = {member: "honest", "time": 1_750_000_000_000, "heat": 666}
            assert (await mallory.send(messages.TELEMETRY, flat)).error is None
        assert (await mallory.send(messages.TWIN_REPORT, {"device": "honest"})).error is None

    assert (await fleet.manager.query_telemetry("mallory", "heat")).value.tolist() == [666]
    assert (await fleet.manager.get_twin("mallory"))["reported"] == {"device": "honest"}


@pytest.mark.parametrize("kind", KINDS)
async def test_of_a_pack_with_own_and_foreign_names_the_own_are_stored_and_the_foreign_named(fleet, kind):
    pack = b'[{"n": "urn:fleetcore:device:faults:honest/heat", "v": 666}, {"n": "cold", "v": 2}]'
    async with _honest_goes_on(fleet), _mallorys(fleet, kind) as mallory:
        reply = await mallory.send(messages.TELEMETRY, pack)

        assert reply.error is None
        told = reply.body
        if kind.startswith("mqtt"):
            told = await anext(one.body async for one in mallory.downlinks() if one.type is messages.ERRORS)
        assert told["stored"] == 1
        assert [one["code"] for one in told["rejected"]] == ["not_your_device"]
    assert [one["metric"] for one in await fleet.manager.list_device_latest_readings("mallory")] == ["cold"]
