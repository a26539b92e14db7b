"""A device plane in memory, a small CA, and clients that speak MQTT byte by byte.

The plane here is a whole implementation of the interface, with levers: what it answers, when it commits, whether it
is full. It decides by the same rule as the real one whose message it may be.
"""

import asyncio
import datetime as dt
import ipaddress
import json
import logging
import os
import shutil
import ssl
from collections import defaultdict
from contextlib import asynccontextmanager
from pathlib import Path

import mqtt5
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from fleetcore_mqtt.config import MqttConfig
from fleetcore_mqtt.plugin import open_mqtt

from fleetcore.errors import CODES, NotAuthenticated, NotAuthorised, NotFound
from fleetcore.interfaces import Context, DevicePlane, DeviceSecrets, Session
from fleetcore.model.credential import AssertedCredential, CertificateCredential, TokenCredential
from fleetcore.model.message import Accepted, Operation, Rejected, Reply
from fleetcore.testing.clock import MovableClock
from fleetcore.testing.patience import PATIENCE_S


def pytest_configure(config):
    config.addinivalue_line("markers", "peer(name): needs a real peer program")


def pytest_runtest_setup(item):
    for mark in item.iter_markers("peer"):
        if shutil.which(mark.args[0]) is None:
            if os.environ.get("FLEETCORE_REQUIRE") == "all":
                pytest.fail(f"{mark.args[0]} is not installed")
            pytest.skip(f"{mark.args[0]} is not installed")


class FakeSession(Session):
    def __init__(self, plane, identity):
        self.plane, self._identity = plane, identity
        self._ended = None
        self._callbacks = []

    @property
    def identity(self):
        return self._identity

    @property
    def ended(self):
        return self._ended

    def on_end(self, callback):
        if self._ended is not None:
            callback(self._ended)
        else:
            self._callbacks.append(callback)

    def close(self):
        self.end("closed")

    def end(self, code):
        if self._ended is None:
            self._ended = code
            self.plane.sessions.discard(self)
            self.plane.listeners.pop(self, None)
            for callback in self._callbacks:
                callback(code)


class FakePlane(DevicePlane):
    """Everything is accepted at once unless a lever says otherwise."""

    def __init__(self):
        self.tokens = {f"dev{n}": f"fc_dev_dev{n}_{'x' * 43}" for n in range(1, 10)}
        self.leaves = {"leaf1": "dev1"}
        self.revoked = set()
        self.sessions = set()
        self.listeners = {}
        self.carriers = []
        self.received = []
        self.audit = []
        self.authentications = []
        self.unfinished = defaultdict(list)
        self.outcome = None
        self.commits_itself = True
        self.uncommitted = []
        self.full = False
        self.room = asyncio.Event()
        self.authenticating = asyncio.Event()
        self.authenticating.set()
        self.calls = []
        self.answering = asyncio.Event()
        self.answering.set()

    # levers

    def commit(self):
        waiting, self.uncommitted = self.uncommitted, []
        for done, outcome in waiting:
            done(outcome)

    def revoke(self, device, code="device_revoked"):
        self.revoked.add(device)
        for session in [one for one in self.sessions if one.identity == device]:
            session.end(code)

    def push(self, downlink):
        for session, sink in list(self.listeners.items()):
            if session.identity in {downlink.subject, self.leaves.get(downlink.subject)}:
                sink(downlink)
                return
        for sink in self.carriers:
            sink(downlink)

    @property
    def bodies(self):
        return [message.payload for _, message in self.received]

    # DevicePlane

    async def authenticate(self, credential, *, protocol, peer="", lasting=True):
        self.authentications.append((credential, protocol, peer))
        await self.authenticating.wait()
        match credential:
            case CertificateCredential(der):
                certificate = x509.load_der_x509_certificate(der)
                names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
                device = names.get_values_for_type(x509.UniformResourceIdentifier)[0].rpartition(":")[2]
            case TokenCredential(token, claimed):
                device = next((name for name, known in self.tokens.items() if known == token), None)
                if device is None or claimed not in {None, device}:
                    raise NotAuthenticated("unknown token")
            case AssertedCredential(device, _):
                pass
            case _:
                raise NotAuthenticated("unknown credential")
        if device in self.revoked:
            raise NotAuthorised("revoked", code="device_revoked")
        if device not in self.tokens:
            raise NotAuthorised("unknown", code="device_unknown")
        session = FakeSession(self, device)
        self.sessions.add(session)
        return session

    def judge(self, session, message):
        if message.subject != session.identity and self.leaves.get(message.subject) != session.identity:
            self.audit.append((session.identity, message.subject))
            return Rejected(code="not_your_device", reason="not yours")
        if self.outcome is not None:
            return self.outcome
        if message.payload.startswith(b"!"):
            return Rejected(code="payload_unreadable", reason="cannot be read")
        return Accepted(stored=1)

    def deliver(self, session, message, done):
        outcome = self.judge(session, message)
        if not isinstance(outcome, Rejected):
            self.received.append((session.identity, message))
        if self.commits_itself:
            asyncio.get_running_loop().call_soon(done, outcome)
        else:
            self.uncommitted.append((done, outcome))
        return not self.full

    async def ready(self):
        await self.room.wait()

    async def submit(self, session, message):
        outcome = asyncio.get_running_loop().create_future()
        self.deliver(session, message, outcome.set_result)
        return await outcome

    async def call(self, session, message):
        self.calls.append(message)
        await self.answering.wait()
        outcome = self.judge(session, message)
        if isinstance(outcome, Rejected):
            return Reply(status=CODES[outcome.code].http, error=self.problem(outcome))
        match message.operation:
            case Operation.TWIN_GET:
                return Reply(body={"desired": {"a": 1}, "reported": {}}, etag='"d1.r0"')
            case Operation.TIME:
                return Reply(body={"received_ms": 1, "sent_ms": 2})
            case Operation.TWIN_REPORT:
                return Reply(status=204, version=41)
            case _:
                return Reply(status=204)

    def listen(self, session, sink):
        self.listeners[session] = sink
        for downlink in self.unfinished[session.identity]:
            sink(downlink)

    def carry(self, sink):
        self.carriers.append(sink)
        return lambda: self.carriers.remove(sink)

    async def wait(self, session, subject, what, *, after=0, timeout_s=0.0):
        return None

    async def pending(self, session, subject):
        return {}

    async def enroll(self, request):
        return Reply(status=401, error={"code": "token_spent"})

    async def open_artifact(self, session, subject, sha256):
        raise NotFound("no artifact", code="artifact_unknown")

    def problem(self, outcome, **members):
        if isinstance(outcome, Accepted):
            return {"stored": outcome.stored, "rejected": [{"code": one.code} for one in outcome.refused], **members}
        code = CODES[outcome.code]
        return {"code": outcome.code, "title": code.title, "status": code.http, **members}


class Pki:
    """A root that issues server and client certificates, and what lies in the fleet's folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.now = dt.datetime.now(dt.UTC)
        self.ca_key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test root")])
        self.ca = (
            self._builder(name, name, self.ca_key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(
                x509.KeyUsage(
                    *[False] * 5, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False
                ),
                critical=True,
            )
            .sign(self.ca_key, hashes.SHA256())
        )
        self.ca_pem = self.ca.public_bytes(serialization.Encoding.PEM)
        self.ca_path = self._write("ca.pem", self.ca_pem)
        server = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        self.server = self.issue("server", server, ExtendedKeyUsageOID.SERVER_AUTH)
        self.service = self.issue("fleetcore", [x509.DNSName("fleetcore")], ExtendedKeyUsageOID.CLIENT_AUTH)
        self.devices = {
            f"dev{n}": self.issue(
                f"dev{n}",
                [x509.UniformResourceIdentifier(f"urn:fleetcore:device:default:dev{n}")],
                ExtendedKeyUsageOID.CLIENT_AUTH,
            )
            for n in (1, 2, 3)
        }
        self.crl_path = self.revoke()

    def _builder(self, subject, issuer, key):
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.now - dt.timedelta(hours=1))
            .not_valid_after(self.now + dt.timedelta(days=2))
        )

    def _write(self, name, data):
        path = self.folder / name
        path.write_bytes(data)
        return path

    def issue(self, name, alternatives, usage):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = (
            self._builder(subject, self.ca.subject, key.public_key())
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .sign(self.ca_key, hashes.SHA256())
        )
        key_pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return (
            self._write(f"{name}.pem", certificate.public_bytes(serialization.Encoding.PEM)),
            self._write(f"{name}.key", key_pem),
        )

    def revoke(self, *names):
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.ca.subject)
            .last_update(self.now - dt.timedelta(minutes=1))
            .next_update(self.now + dt.timedelta(days=2))
        )
        for name in names:
            certificate = x509.load_pem_x509_certificate(self.devices[name][0].read_bytes())
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(certificate.serial_number)
                .revocation_date(self.now)
                .build()
            )
        crl = builder.sign(self.ca_key, hashes.SHA256())
        return self._write("crl.pem", crl.public_bytes(serialization.Encoding.PEM))

    def secrets(self, device):
        certificate, key = self.devices[device]
        return DeviceSecrets(device=device, certificate=certificate.read_bytes(), key=key.read_bytes(), ca=self.ca_pem)

    # TlsProvider

    def server_context(self):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.server)
        context.load_verify_locations(self.ca_path)
        context.verify_mode = ssl.CERT_OPTIONAL
        context.num_tickets = 0
        return context


class Tls:
    def __init__(self, pki):
        self.pki = pki

    def server(self, *, client_certificates=True):
        return self.pki.server_context()

    def ca_bundle(self):
        return self.pki.ca_pem

    def service_client(self):
        return (*self.pki.service, self.pki.ca_path)


@pytest.fixture(scope="session")
def pki(tmp_path_factory):
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture
async def plane():
    return FakePlane()


@pytest.fixture(scope="session")
def plane_class():
    """For tests that make their own loop."""
    return FakePlane


@pytest.fixture
async def clock():
    return MovableClock()


@pytest.fixture
def counts():
    return defaultdict(int)


@pytest.fixture
async def context(pki, clock, counts):
    def count(name):
        counts[name] += 1

    return Context(
        name="mqtt",
        fleet="default",
        clock=clock,
        logger=logging.getLogger("test.mqtt"),
        secret=lambda reference: reference,
        tls=Tls(pki),
        count=count,
    )


@pytest.fixture
async def endpoint(plane, context):
    """Listens in plain text on a loopback address."""
    async with open_mqtt(MqttConfig(listen="mqtt://127.0.0.1:0"), context, plane) as opened:
        yield opened


@pytest.fixture
async def tls_endpoint(plane, context):
    async with open_mqtt(MqttConfig(listen="mqtts://127.0.0.1:0"), context, plane) as opened:
        yield opened


def text(value):
    raw = value if isinstance(value, bytes) else value.encode()
    return len(raw).to_bytes(2, "big") + raw


def packet(first, body=b""):
    length, out = len(body), bytearray([first])
    while True:
        length, low = divmod(length, 128)
        out.append(low | (0x80 if length else 0))
        if not length:
            return bytes(out) + body


class V4:
    """Writes 3.1.1."""

    version = 4

    @staticmethod
    def connect(client_id="dev1", *, token=None, user=None, clean=True, keep_alive=60, will=None, level=4):
        flags = 0x02 if clean else 0
        body = b""
        if will is not None:
            flags |= 0x0C
            body += text(will[0]) + text(will[1])
        if token is not None:
            flags |= 0xC0
            body += text(user or "") + text(token)
        head = text("MQTT") + bytes((level, flags)) + keep_alive.to_bytes(2, "big")
        return packet(0x10, head + text(client_id) + body)

    @staticmethod
    def publish(topic, payload=b"{}", packet_id=1, *, dup=False):
        if packet_id is None:
            return packet(0x30, text(topic) + payload)
        return packet(0x32 | (8 if dup else 0), text(topic) + packet_id.to_bytes(2, "big") + payload)

    @staticmethod
    def subscribe(packet_id, *filters):
        return packet(
            0x82, packet_id.to_bytes(2, "big") + b"".join(text(name) + bytes((qos,)) for name, qos in filters)
        )

    @staticmethod
    def unsubscribe(packet_id, *filters):
        return packet(0xA2, packet_id.to_bytes(2, "big") + b"".join(map(text, filters)))


class V5:
    """Writes version 5 through the library."""

    version = 5

    @staticmethod
    def connect(client_id="dev1", *, token=None, user=None, clean=True, keep_alive=60, will=None, **more):
        return mqtt5.ConnectPacket(
            client_id,
            username=user,
            password=None if token is None else token.encode(),
            clean_start=clean,
            keep_alive=keep_alive,
            will=will
            and mqtt5.Will(will[0], payload=will[1], qos=mqtt5.QoS.AT_LEAST_ONCE, **more.pop("will_more", {})),
            **more,
        ).write()

    @staticmethod
    def publish(topic, payload=b"{}", packet_id=1, *, dup=False, **more):
        qos = mqtt5.QoS.AT_MOST_ONCE if packet_id is None else mqtt5.QoS.AT_LEAST_ONCE
        return mqtt5.PublishPacket(topic, payload, qos=qos, packet_id=packet_id, duplicate=dup, **more).write()

    @staticmethod
    def subscribe(packet_id, *filters, properties=b""):
        # By hand: the library writes no filter that is malformed.
        wanted = b"".join(text(name) + bytes((qos,)) for name, qos in filters)
        return packet(0x82, packet_id.to_bytes(2, "big") + bytes((len(properties),)) + properties + wanted)

    @staticmethod
    def unsubscribe(packet_id, *filters):
        return mqtt5.UnsubscribePacket(packet_id, list(filters)).write()


class ClosedError(Exception):
    pass


class Wire:
    """One connection; ``answer()`` is the next packet as bytes, ``closed()`` waits for the end."""

    def __init__(self, reader, writer, codec):
        self.reader, self.writer, self.codec = reader, writer, codec

    async def send(self, *packets):
        self.writer.write(b"".join(packets))
        await self.writer.drain()

    async def answer(self, timeout_s=PATIENCE_S):
        async with asyncio.timeout(timeout_s):
            try:
                first = await self.reader.readexactly(1)
                length, shift = 0, 0
                head = b""
                while True:
                    byte = await self.reader.readexactly(1)
                    head += byte
                    length |= (byte[0] & 0x7F) << shift
                    shift += 7
                    if byte[0] < 0x80:
                        break
                return first + head + await self.reader.readexactly(length)
            except (asyncio.IncompleteReadError, ConnectionError) as error:
                raise ClosedError from error

    async def decoded(self):
        """The next packet, by the version 5 library."""
        return mqtt5.read(memoryview(await self.answer()))[0]

    async def silent(self, seconds=0.1):
        """Whether nothing comes for a moment."""
        try:
            await self.answer(seconds)
        except TimeoutError:
            return True
        return False

    async def closed(self, timeout_s=PATIENCE_S):
        """All packets up to the end of the connection."""
        out = []
        while True:
            try:
                out.append(await self.answer(timeout_s))
            except ClosedError:
                return out

    async def publication(self):
        """The next PUBLISH as (topic, body), acknowledged where it wants to be."""
        raw = await self.answer()
        assert raw[0] & 0xF0 == 0x30, raw
        if self.codec.version == 5:
            got = mqtt5.read(memoryview(raw))[0]
            if got.packet_id is not None:
                await self.send(mqtt5.PubAckPacket(got.packet_id).write())
            return got.topic, json.loads(got.payload)
        at = 2 if raw[1] < 0x80 else 3
        size = int.from_bytes(raw[at : at + 2], "big")
        topic, rest = raw[at + 2 : at + 2 + size].decode(), raw[at + 2 + size :]
        if raw[0] & 0x06:
            await self.send(b"\x40\x02" + rest[:2])
            rest = rest[2:]
        return topic, json.loads(rest)


class Dialler:
    """Opens connections to an endpoint and closes what a test leaves open."""

    def __init__(self, endpoint, plane):
        self.endpoint, self.plane = endpoint, plane
        self.writers = []

    async def wire(self, codec=V4):
        host, _, port = self.endpoint.endpoints[0].rpartition("/")[2].rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        self.writers.append(writer)
        return Wire(reader, writer, codec)

    async def device(self, device="dev1", codec=V4, **more):
        """A connection of ``device`` that is accepted."""
        wire = await self.wire(codec)
        more.setdefault("client_id", device)
        await wire.send(codec.connect(token=self.plane.tokens[device], user=device, **more))
        answer = await wire.answer()
        assert answer[0] == 0x20, answer
        assert answer[3] == 0, answer
        return wire


@pytest.fixture
async def dial(endpoint, plane):
    dialler = Dialler(endpoint, plane)
    yield dialler
    for writer in dialler.writers:
        writer.close()


@pytest.fixture(params=[V4, V5], ids=["3.1.1", "5"])
def codec(request):
    return request.param


@pytest.fixture
def v4():
    return V4


@pytest.fixture
def v5():
    return V5


@pytest.fixture
def wire_packet():
    return packet


@pytest.fixture
def wire_text():
    return text


@asynccontextmanager
async def _program(*command):
    process = await asyncio.create_subprocess_exec(
        *map(str, command), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await asyncio.wait_for(process.communicate(), PATIENCE_S)


@pytest.fixture
def program():
    """Runs a program while the block lasts."""
    return _program


async def _until(condition, timeout_s=PATIENCE_S):
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
def until():
    """Waits for what another process or thread brings about."""
    return _until
