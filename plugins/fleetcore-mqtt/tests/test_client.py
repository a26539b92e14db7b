"""The device's side against the endpoint, over mutual TLS: both versions, refusals, requests, downlinks and losses."""

import asyncio
import gc
import warnings

import pytest
from fleetcore_mqtt.client import MqttDeviceClient
from fleetcore_mqtt.plugin import fleetcore_protocols, open_client

from fleetcore.errors import ConfigError, NotAuthenticated, NotAuthorised, Refused, Unavailable
from fleetcore.interfaces import DeviceSecrets, EnrollRequest
from fleetcore.model.credential import CertificateCredential
from fleetcore.model.message import Downlink, Rejected
from fleetcore.testing.faults import CutProxy
from fleetcore.testing.patience import PATIENCE_S
from fleetcore.wire import messages


@pytest.fixture(params=["5", "3.1.1"])
def version(request):
    return request.param


@pytest.fixture
async def client(tls_endpoint, pki, version):
    async with MqttDeviceClient(tls_endpoint.endpoints[0], pki.secrets("dev1"), version=version) as opened:
        yield opened


async def test_what_is_sent_is_committed_when_send_returns(client, plane):
    reply = await client.send(messages.TELEMETRY, {"t": 21.5})

    assert reply.status == 204
    assert [(identity, message.payload) for identity, message in plane.received] == [("dev1", b'{"t":21.5}')]
    assert isinstance(plane.authentications[0][0], CertificateCredential)


async def test_two_hundred_sends_at_once_all_return(client, plane):
    replies = await asyncio.gather(*(client.send(messages.TELEMETRY, {"t": n}) for n in range(200)))

    assert {reply.status for reply in replies} == {204}
    assert len(plane.received) == 200


async def test_every_uplink_has_its_topic(client, plane):
    for operation in (
        messages.TELEMETRY,
        messages.LOCATION,
        messages.STATUS,
        messages.TWIN_REPORT,
        messages.TWIN_ACK,
        messages.FIRMWARE_STATUS,
    ):
        await client.send(operation, {"a": 1}, subject="leaf1")
    await client.send(messages.COMMAND_RESULT, {"status": "succeeded"}, target="c1")

    assert [(message.type, message.subject) for _, message in plane.received] == [
        (messages.TELEMETRY, "leaf1"),
        (messages.LOCATION, "leaf1"),
        (messages.STATUS, "leaf1"),
        (messages.TWIN_REPORT, "leaf1"),
        (messages.TWIN_ACK, "leaf1"),
        (messages.FIRMWARE_STATUS, "leaf1"),
        (messages.COMMAND_RESULT, "dev1"),
    ]


async def test_a_refusal_for_good_is_a_reply_with_its_code_or_an_errors_message(client, plane, version):
    plane.outcome = Rejected(code="time_in_future", reason="an hour ahead")

    reply = await client.send(messages.TELEMETRY, {"t": 1})

    if version == "5":
        assert reply.error == {
            "code": "time_in_future",
            "title": "The time lies too far in the future",
            "status": 422,
            "detail": "an hour ahead",
        }
    async with asyncio.timeout(PATIENCE_S):
        told = await anext(client.downlinks())
    assert (told.type, told.body["code"]) == (messages.ERRORS, "time_in_future")


async def test_the_message_id_goes_along_in_version_5(client, plane, version):
    await client.send(messages.TELEMETRY, b"{}", id="m-1")

    assert plane.received[0][1].id == ("m-1" if version == "5" else None)


async def test_a_client_says_that_another_one_has_taken_its_place(client, tls_endpoint, pki, version):
    assert client.ended == ""

    async with MqttDeviceClient(tls_endpoint.endpoints[0], pki.secrets("dev1"), version=version):
        async with asyncio.timeout(PATIENCE_S):
            async for _ in client.downlinks():
                pass

    # Version 3.1.1 cannot say it.
    assert client.ended == ("session_taken_over" if version == "5" else "")


async def test_a_request_is_answered(client, plane):
    plane.desire("dev1", 1, {"a": 1})

    twin = await client.request(messages.TWIN_GET)

    assert (twin.status, twin.body["desired"], twin.etag) == (200, {"a": 1}, "d1.r40")


async def test_a_request_about_another_device_is_refused(client):
    reply = await client.request(messages.TWIN_GET, subject="dev3")

    assert reply.error["code"] == "not_your_device"


async def test_downlinks_come_in_order_and_end_with_the_client(client, plane):
    for n in range(3):
        plane.push(Downlink(type=messages.COMMAND, subject="dev1", body={"id": n}))
    plane.push(Downlink(type=messages.COMMAND_CANCEL, subject="leaf1", body={}, target="c1"))
    got = []

    async with asyncio.timeout(PATIENCE_S):
        async for downlink in client.downlinks():
            got.append((downlink.type, downlink.subject, downlink.body, downlink.target))
            if len(got) == 4:
                await client.__aexit__(None, None, None)

    assert got == [
        *((messages.COMMAND, "dev1", {"id": n}, None) for n in range(3)),
        (messages.COMMAND_CANCEL, "leaf1", {}, "c1"),
    ]


async def test_a_lost_connection_ends_what_is_under_way(client, plane, until):
    plane.hold()
    sending = asyncio.ensure_future(client.send(messages.TELEMETRY, {"t": 1}))
    await until(lambda: plane.waiting)

    plane.revoke("dev1")

    with pytest.raises(Unavailable):
        await sending
    with pytest.raises(Unavailable):
        await client.send(messages.TELEMETRY, {"t": 1})


async def test_its_will_names_the_session_that_its_status_announced(client, plane, until):
    await client.send(messages.STATUS, {"state": "online"})
    client._paho.socket().close()

    await until(lambda: len(plane.received) == 2)

    online, offline = plane.bodies
    assert client.session.encode() in online
    assert client.session.encode() in offline
    assert b"offline" in offline


async def test_a_clean_exit_publishes_no_will(tls_endpoint, plane, pki, version, until):
    async with MqttDeviceClient(tls_endpoint.endpoints[0], pki.secrets("dev1"), version=version) as client:
        await client.send(messages.TELEMETRY, {"t": 1})

    await until(lambda: not plane.sessions)
    assert len(plane.received) == 1


async def test_a_revoked_device_is_refused_by_name(tls_endpoint, plane, pki):
    plane.revoke("dev2")

    with pytest.raises(NotAuthorised) as refused:
        async with MqttDeviceClient(tls_endpoint.endpoints[0], pki.secrets("dev2")):
            pass

    assert refused.value.code == "device_revoked"


async def test_a_token_opens_a_plain_connection_and_a_wrong_one_does_not(endpoint, plane, version):
    url = endpoint.endpoints[0]
    async with MqttDeviceClient(url, DeviceSecrets(device="dev1", token=plane.token("dev1")), version=version) as one:
        assert (await one.send(messages.TELEMETRY, {})).status == 204

    with pytest.raises(NotAuthorised if version == "none" else NotAuthenticated):
        async with MqttDeviceClient(url, DeviceSecrets(device="dev1", token="no"), version=version):
            pass


async def test_nobody_listening_is_unavailable(pki, unused_tcp_port):
    with pytest.raises(Unavailable):
        async with MqttDeviceClient(f"mqtts://127.0.0.1:{unused_tcp_port}", pki.secrets("dev1")):
            pass


async def test_what_mqtt_cannot_do_is_refused(client):
    with pytest.raises(Refused):
        await client.enroll(EnrollRequest(csr=b""))
    with pytest.raises(Refused):
        client.artifact("0" * 64)
    with pytest.raises(Refused):
        await client.send(messages.LEAF_REGISTER, {})


def test_the_offer_carries_config_client_and_demo():
    (offered,) = fleetcore_protocols()

    assert (offered.name, offered.client, offered.demo) == ("mqtt", open_client, {"listen": "mqtts://127.0.0.1:0"})


def test_an_unknown_version_is_a_mistake():
    with pytest.raises(ConfigError):
        MqttDeviceClient("mqtt://127.0.0.1:1", DeviceSecrets(device="dev1"), version="4")


async def test_a_server_that_goes_away_in_the_handshake_leaves_no_socket_open(pki):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()  # what other tests left is not this one's
    async with CutProxy("127.0.0.1", 9) as gone:
        gone.refuse()
        with warnings.catch_warnings(record=True) as left:
            warnings.simplefilter("always")

            for _ in range(3):
                with pytest.raises(Unavailable):
                    async with MqttDeviceClient(f"mqtts://127.0.0.1:{gone.port}", pki.secrets("dev1")):
                        pass
            gc.collect()

    assert gone.accepted == 3
    assert [str(one.message) for one in left] == []


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_a_connection_that_is_cut_before_the_acknowledgement_is_unavailable(
    endpoint, plane, version, until, reset
):
    port = int(endpoint.endpoints[0].rpartition(":")[2])
    async with CutProxy("127.0.0.1", port) as proxy:
        secrets = DeviceSecrets(device="dev1", token=plane.token("dev1"))
        async with MqttDeviceClient(f"mqtt://127.0.0.1:{proxy.port}", secrets, version=version) as client:
            proxy.cut_after(1, down=True, reset=reset)

            with pytest.raises(Unavailable):
                await client.send(messages.TELEMETRY, {"t": 1})

            await until(lambda: endpoint.connections == 0)
    # What was sent, and the will of a device that is gone.
    assert [message.type for _, message in plane.received] == [messages.TELEMETRY, messages.STATUS]
