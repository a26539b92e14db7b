"""Every bad certificate at every real listener: refused at the handshake or right after it, and written down."""

import asyncio
import contextlib
import ssl
import tempfile
from urllib.parse import urlsplit

import pytest
from fleetcore_coap.frames import Frames

from fleetcore.errors import FleetError
from fleetcore.interfaces.protocol import DeviceSecrets
from fleetcore.testing.certificates import BAD, forge
from fleetcore.wire import messages


class Careless(DeviceSecrets):
    """A client that shows whatever key it has, as long as OpenSSL can be talked into it."""

    def tls(self):
        context = ssl.create_default_context(cadata=self.ca.decode())
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        with tempfile.NamedTemporaryFile() as file:
            file.write(self.key + self.certificate)
            file.flush()
            context.load_cert_chain(file.name)
        return context


_UPGRADE = (
    b"GET /device/v1/ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: fleetcore.v1\r\n\r\n"
)
KINDS = ("http", "mqtt", "mqtt 3.1.1", "websocket", "coap", "coap-tcp")


def client(served, kind, secrets):
    from fleetcore_coap.plugin import open_client as coap_client
    from fleetcore_http.plugin import open_client
    from fleetcore_mqtt.client import MqttDeviceClient
    from fleetcore_websocket.plugin import open_client as websocket_client

    if kind in {"coap", "coap by key", "coap-tcp", "oscore"}:
        return coap_client(served.url(kind.partition(" ")[0]), secrets)
    if kind == "websocket":
        return websocket_client(served.url("websocket"), secrets)
    if kind == "http":
        return open_client(served.url("http"), secrets)
    return MqttDeviceClient(served.url("mqtt"), secrets, version="3.1.1" if kind == "mqtt 3.1.1" else "5")


async def says(served, kind, forged):
    """Whether a message by this certificate was accepted, and the code where it was answered."""
    secrets = Careless(
        device="th-1", certificate=forged.pem, key=forged.key_pem, ca=served.fleet.security.authority.ca_pem()
    )
    try:
        async with client(served, kind, secrets) as device:
            reply = await device.send(messages.TELEMETRY, {"power": 1.0})
    except FleetError as error:
        return error.code
    return "accepted" if reply.error is None else reply.error["code"]


def forged_by(served, **wrong):
    issuing = served.security.authority.issuing
    return forge(issuing.certificate, issuing.key, fleet="trust", device="th-1", **wrong)


@pytest.fixture(autouse=True)
def careless_over_dtls(monkeypatch):
    """The same carelessness over DTLS, of the client alone: its OpenSSL is another one, in the same process."""
    from fleetcore_coap import contexts

    careful = contexts.client_context

    def careless(*secrets):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(contexts, "_CIPHERS", b"ALL:@SECLEVEL=0")
            return careful(*secrets)

    monkeypatch.setattr("fleetcore_coap.channel.client_context", careless)


@pytest.mark.parametrize("kind", KINDS)
async def test_every_bad_certificate_is_refused_and_has_a_row_of_the_audit_log(served, kind):
    await served.manager.register_device("th-1", "meter")
    answers, unwritten = {}, []
    for name, (reason, wrong) in BAD.items():
        before = {row.seq for row in await served.audited("access.denied")}
        answers[name] = await says(served, kind, forged_by(served, **wrong))
        after = [row for row in await served.audited("access.denied") if row.seq not in before]
        told = {row.reason.removeprefix("certificate_invalid: ") for row in after if row.object == "session"}
        if not (told == {reason} or any(row.object == "handshake" for row in after)):
            unwritten.append((name, [(row.object, row.reason) for row in after]))

    assert "accepted" not in answers.values(), answers
    # TLS has no signature scheme for its curve: the client gives up before the server has seen anything of it.
    assert unwritten == [("secp256k1", [])]
    assert (await served.manager.list_device_latest_readings("th-1")).items == []
    assert await says(served, kind, forged_by(served)) == "accepted"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_foreign_ca_of_the_same_names_and_a_revoked_certificate_are_refused(served, kind):
    from fleetcore.fleet.security import Authority

    await served.manager.register_device("th-1", "meter")
    foreign = Authority.create("trust", served.fleet.clock).issuing
    forged = forge(foreign.certificate, foreign.key, fleet="trust", device="th-1")

    assert await says(served, kind, forged) != "accepted"

    assert any(row.reason.startswith("certificate_invalid") for row in await served.audited("access.denied"))
    assert (await served.manager.list_device_latest_readings("th-1")).items == []


def _coap_code(peer):
    """The code of the first answer on a stream, behind what the server says of itself."""
    frames = Frames(4096)
    while data := peer.recv(4096):
        for packet in frames.take(data):
            if packet.code < 0xE0:
                return bytes([packet.code])
    return b""


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
@pytest.mark.parametrize("kind", ["http", "mqtt", "websocket", "coap-tcp"])
async def test_a_resumed_session_does_not_bring_a_revoked_device_back(served, shell, kind, version):
    token = await served.security.enrollment_tokens.create()
    assert await shell.enroll("simpleenroll", await shell.key("th-1"), "-u", f"x:{token}") == 200
    context = ssl.create_default_context(cafile=served.ca)
    context.minimum_version = context.maximum_version = version
    context.load_cert_chain(shell.folder / "cert.pem", shell.folder / "key.pem")
    port = urlsplit(served.url(kind)).port

    async def handshake(session):
        """By a blocking client, which can resume as an attacker would; gives its session and what the peer answers."""

        def talk():
            import socket

            with (
                socket.create_connection(("127.0.0.1", port), 10) as raw,
                context.wrap_socket(raw, server_hostname="localhost", session=session) as peer,
            ):
                if kind == "http":
                    peer.sendall(b"GET /device/v1/twin HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                elif kind == "websocket":
                    peer.sendall(_UPGRADE)
                elif kind == "coap-tcp":  # CSM, then GET /d/c
                    peer.sendall(bytes.fromhex("00e1 4001b1640163"))
                    return peer.session, peer.session_reused, _coap_code(peer)
                else:  # MQTT 3.1.1: CONNECT with an empty client id
                    peer.sendall(bytes.fromhex("100c00044d5154540402003c0000"))
                answer = b""
                with contextlib.suppress(ConnectionError, ssl.SSLError):
                    answer = peer.recv(64)
                return peer.session, peer.session_reused, answer

        return await asyncio.to_thread(talk)

    session, _, first = await handshake(None)
    await served.security.revoke("th-1")

    _, reused, second = await handshake(session)
    if kind == "http":
        assert (first[:12], second[:12]) == (b"HTTP/1.1 200", b"HTTP/1.1 403")
    elif kind == "websocket":
        assert (first[:12], second[:12]) == (b"HTTP/1.1 101", b"HTTP/1.1 403")
    elif kind == "coap-tcp":
        assert (first, second) == (b"\x45", b"\x83")
    else:
        assert first[:1] == b"\x20"
        assert first[3] == 0
        assert second[3:4] != b"\x00"
    assert not reused or version is ssl.TLSVersion.TLSv1_2
