"""A device plane in memory, a CA, a clock that tests move, and curl as an independent peer."""

import asyncio
import hashlib
import json
import logging
import os
import shutil
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from attrs import define, field, frozen
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from fleetcore_http.config import HttpConfig
from fleetcore_http.plugin import open_http

from fleetcore.errors import NotAuthenticated, NotAuthorised, NotFound
from fleetcore.interfaces import ArtifactReader, Clock, Context, DevicePlane, DeviceSecrets, EnrollRequest, Session
from fleetcore.interfaces.ingest import Ingest
from fleetcore.interfaces.protocol import ProtocolAdapter
from fleetcore.interfaces.provider import Limits
from fleetcore.model.credential import CertificateCredential, Credential, TokenCredential
from fleetcore.model.message import Accepted, Downlink, Inbound, MessageType, Outcome, Rejected, Reply
from fleetcore.testing.patience import PATIENCE_S
from fleetcore.wire import messages
from fleetcore.wire.replies import refusal
from fleetcore.wire.tls import server_context


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("peer"):
        name = mark.args[0]
        if shutil.which(name) is None:
            message = f"{name} is not installed"
            if os.environ.get("FLEETCORE_REQUIRE") == "all":
                pytest.fail(message, pytrace=False)
            pytest.skip(message)


class MovableClock(Clock):
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self._now_s = 1000.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def now_ms(self) -> int:
        return 1_760_000_000_000 + int(self._now_s * 1000)

    def monotonic_s(self) -> float:
        return self._now_s

    async def sleep(self, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._now_s + seconds, future))
        await future

    async def advance(self, seconds: float) -> None:
        self._now_s += seconds
        for sleeper in [sleeper for sleeper in self._sleepers if sleeper[0] <= self._now_s]:
            self._sleepers.remove(sleeper)
            if not sleeper[1].done():
                sleeper[1].set_result(None)
        for _ in range(5):
            await asyncio.sleep(0)


@frozen(kw_only=True)
class Identity:
    """A certificate and its key, PEM, and as files for curl."""

    certificate: bytes
    key: bytes
    certificate_path: Path
    key_path: Path

    @property
    def der(self) -> bytes:
        return x509.load_pem_x509_certificate(self.certificate).public_bytes(serialization.Encoding.DER)


class Authority:
    """A CA that issues what the tests need."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test root")])
        root = self._builder(self._name, self._key).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), True
        )
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        root = root.add_extension(usage, True).add_extension(
            x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), False
        )
        self.pem = root.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        self.path = folder / "ca.pem"
        self.path.write_bytes(self.pem)
        self._made: dict[str, Identity] = {}

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=1))
        )

    def _issue(self, name: str, alternative: Sequence[x509.GeneralName], usage: x509.ObjectIdentifier) -> Identity:
        if name in self._made:
            return self._made[name]
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = (
            self._builder(subject, key)
            .add_extension(x509.SubjectAlternativeName(alternative), False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
            .add_extension(x509.ExtendedKeyUsage([usage]), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), False)
            .sign(self._key, hashes.SHA256())
            .public_bytes(serialization.Encoding.PEM)
        )
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        paths = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        paths[0].write_bytes(certificate)
        paths[1].write_bytes(pem)
        made = Identity(certificate=certificate, key=pem, certificate_path=paths[0], key_path=paths[1])
        self._made[name] = made
        return made

    def server(self) -> Identity:
        names = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
        return self._issue("server", names, ExtendedKeyUsageOID.SERVER_AUTH)

    def device(self, name: str) -> Identity:
        uri = x509.UniformResourceIdentifier(f"urn:fleetcore:device:default:{name}")
        return self._issue(name, [uri], ExtendedKeyUsageOID.CLIENT_AUTH)

    def secrets(self, name: str, *, token: str | None = None) -> DeviceSecrets:
        if token is not None:
            return DeviceSecrets(device=name, ca=self.pem, token=token)
        identity = self.device(name)
        return DeviceSecrets(device=name, certificate=identity.certificate, key=identity.key, ca=self.pem)

    def csr(self, name: str) -> x509.CertificateSigningRequest:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        return x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())


@frozen
class Tls:
    """The TLS provider of the tests."""

    authority: Authority

    def server(self, *, client_certificates: bool = True, enrolling: bool = False) -> ssl.SSLContext:
        own = self.authority.server()
        return server_context(
            own.certificate_path, own.key_path, self.authority.pem, client_certificates=client_certificates
        )

    def ca_bundle(self) -> bytes:
        return self.authority.pem

    def service_client(self) -> tuple[Path, Path, Path]:
        raise NotImplementedError


class MemorySession(Session):
    def __init__(self, identity: str) -> None:
        self._identity = identity
        self._ended: str | None = None
        self._callbacks: list[Callable[[str], None]] = []

    @property
    def identity(self) -> str:
        return self._identity

    @property
    def ended(self) -> str | None:
        return self._ended

    def on_end(self, callback: Callable[[str], None]) -> None:
        if self._ended is not None:
            callback(self._ended)
        else:
            self._callbacks.append(callback)

    def close(self) -> None:
        self.end("closed")

    def end(self, code: str) -> None:
        if self._ended is None:
            self._ended = code
            for callback in self._callbacks:
                callback(code)


@define
class MemoryArtifact(ArtifactReader):
    """``breaks`` times reading fails at byte ``breaks_at``."""

    content: bytes
    breaks_at: int = 0
    breaks: int = 0
    piece: int = 1000

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def size_bytes(self) -> int:
        return len(self.content)

    async def read(self, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        stop = len(self.content) if end is None else end
        for at in range(start, stop, self.piece):
            if self.breaks and at >= self.breaks_at:
                self.breaks -= 1
                raise OSError("the disk is gone")
            yield self.content[at : min(at + self.piece, stop)]


@define(eq=False)
class MemoryPlane(DevicePlane, Ingest):
    """The whole interface in memory; the store is a list."""

    leaves: dict[str, str] = field(factory=dict)
    tokens: dict[str, str] = field(factory=dict)
    blocked: dict[str, str] = field(factory=dict)
    refusals: list[Rejected] = field(factory=list)
    submitted: list[Inbound] = field(factory=list)
    outcome: Outcome = field(factory=lambda: Accepted(stored=1))
    outcomes: list[Outcome] = field(factory=list)
    sessions: list[MemorySession] = field(factory=list)
    authenticated: list[Credential] = field(factory=list)
    peers: list[str] = field(factory=list)
    lasting: list[bool] = field(factory=list)
    desired: dict[str, object] = field(factory=dict)
    desired_version: int = 0
    reported: dict[str, object] = field(factory=dict)
    reported_version: int = 0
    commands: list[dict[str, object]] = field(factory=list)
    offer: dict[str, object] | None = None
    artifacts: dict[str, MemoryArtifact] = field(factory=dict)
    enrolments: list[EnrollRequest] = field(factory=list)
    enrol_reply: Reply = field(factory=lambda: Reply(status=201, body={"device": "dev1", "certificate": "PEM"}))
    waiting: int = 0
    asked_pending: list[str] = field(factory=list)
    gate: asyncio.Event | None = None
    asked_gate: bool = False
    crash: Exception | None = None
    _changed: asyncio.Condition = field(factory=asyncio.Condition)

    async def authenticate(
        self, credential: Credential, *, protocol: str, peer: str = "", lasting: bool = True
    ) -> MemorySession:
        self.authenticated.append(credential)
        self.peers.append(peer)
        self.lasting.append(lasting)
        if isinstance(credential, CertificateCredential):
            certificate = x509.load_der_x509_certificate(credential.der)
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            identity = names.get_values_for_type(x509.UniformResourceIdentifier)[0].rpartition(":")[2]
        elif isinstance(credential, TokenCredential) and credential.token in self.tokens:
            identity = self.tokens[credential.token]
        else:
            raise NotAuthenticated("unknown credential")
        if identity in self.blocked:
            raise NotAuthorised("refused", code=self.blocked[identity])
        session = MemorySession(identity)
        self.sessions.append(session)
        return session

    def revoke(self, device: str) -> None:
        self.blocked[device] = "device_revoked"
        for session in self.sessions:
            if session.identity == device:
                session.end("device_revoked")

    def _may(self, session: Session, subject: str) -> bool:
        return subject == session.identity or self.leaves.get(subject) == session.identity

    def deliver(self, session: Session, message: Inbound, done: Callable[[Outcome], None]) -> bool:
        raise NotImplementedError

    async def ready(self) -> None:
        raise NotImplementedError

    async def submit(self, session: Session, message: Inbound) -> Outcome:
        if self.crash is not None:
            raise self.crash
        if self.gate is not None:
            self.asked_gate = True
            await self.gate.wait()
        if not self._may(session, message.subject):
            return Rejected(code="not_your_device", reason="a foreign subject")
        self.submitted.append(message)
        if message.type is messages.TWIN_REPORT:
            if message.if_version is not None and message.if_version != self.reported_version:
                return Rejected(code="version_conflict", reason="stale", version=self.reported_version)
            self.reported |= json.loads(message.payload)
            self.reported_version += 1
            etag = f"d{self.desired_version}.r{self.reported_version}"
            return Accepted(version=self.reported_version, etag=etag)
        return self.outcomes.pop(0) if self.outcomes else self.outcome

    async def call(self, session: Session, message: Inbound) -> Reply:
        if not self._may(session, message.subject):
            return refusal(Rejected(code="not_your_device", reason="a foreign subject"))
        match message.type:
            case messages.TWIN_GET:
                body = {"desired": self.desired, "reported": self.reported}
                return Reply(body=body, etag=f"d{self.desired_version}.r{self.reported_version}")
            case messages.TIME:
                client = json.loads(message.payload)["client"] if message.payload else None
                return Reply(body={"client": client, "received_ms": 1, "sent_ms": 2})
            case messages.CA_GET:
                return Reply(body={"ca": "PEM"})
            case messages.LEAF_REGISTER:
                leaf = json.loads(message.payload)["device"]
                self.leaves[leaf] = session.identity
                return Reply(status=201, body={"device": leaf, "gateway": session.identity})
            case messages.CERTIFICATE_RENEW:
                self.submitted.append(message)
                return Reply(status=201, body={"certificate": "PEM"})
        return refusal(Rejected(code="operation_unknown", reason="unknown"))

    def listen(self, session: Session, sink: Callable[[Downlink], None]) -> None:
        raise NotImplementedError

    def carry(self, sink: Callable[[Downlink], None]) -> Callable[[], None]:
        raise NotImplementedError

    async def change(self, **values: object) -> None:
        """Sets attributes and wakes whoever waits."""
        async with self._changed:
            for name, value in values.items():
                setattr(self, name, value)
            self._changed.notify_all()

    async def wait(
        self, session: Session, subject: str, what: MessageType, *, after: int = 0, timeout_s: float = 0.0
    ) -> Mapping[str, object] | None:
        if not self._may(session, subject):
            raise NotAuthorised("a foreign subject", code="not_your_device")
        self.waiting += 1
        try:
            async with asyncio.timeout(timeout_s or None):
                while True:
                    body = self._waits(what, after)
                    if body is not None or not timeout_s:
                        return body
                    async with self._changed:
                        await self._changed.wait()
        except TimeoutError:
            return None
        finally:
            self.waiting -= 1

    def _waits(self, what: MessageType, after: int) -> Mapping[str, object] | None:
        if what is messages.TWIN_DESIRED:
            if self.desired_version <= after:
                return None
            return {"version": self.desired_version, "since": 0, "patch": self.desired}
        if what is messages.COMMAND:
            return {"commands": self.commands, "more": False} if self.commands else None
        if what is messages.FIRMWARE:
            return self.offer
        rows = (messages.TWIN_DESIRED, messages.COMMAND, messages.FIRMWARE)
        parts = {row.waits: self._waits(row, after) for row in rows}
        return {name: part for name, part in parts.items() if part is not None} or None

    async def pending(self, session: Session, subject: str) -> Mapping[str, int]:
        self.asked_pending.append(subject)
        counts = {"commands": len(self.commands), "desired": self.desired_version, "firmware": int(bool(self.offer))}
        return {name: count for name, count in counts.items() if count}

    async def enroll(self, request: EnrollRequest) -> Reply:
        self.enrolments.append(request)
        return self.enrol_reply

    async def open_artifact(self, session: Session, subject: str, sha256: str) -> ArtifactReader:
        if not self._may(session, subject):
            raise NotAuthorised("a foreign subject", code="not_your_device")
        if sha256 not in self.artifacts:
            raise NotFound("not offered", code="artifact_unknown")
        return self.artifacts[sha256]

    def put(self, content: bytes, **how: int) -> str:
        artifact = MemoryArtifact(content, **how)
        self.artifacts[artifact.sha256] = artifact
        return artifact.sha256

    def refused(self, session: Session, message: Inbound, rejected: Rejected) -> None:
        self.refusals.append(rejected)


@frozen(kw_only=True)
class Served:
    """An open adapter and where it listens."""

    adapter: ProtocolAdapter
    clock: MovableClock

    @property
    def url(self) -> str:
        return self.adapter.endpoints[0]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])


@frozen
class Answer:
    """What came back: of curl, or cut out of a raw stream."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, object]:
        result = json.loads(self.body)
        assert isinstance(result, dict)
        return result

    @classmethod
    def parse(cls, raw: bytes) -> "Answer":
        """The last answer in ``raw``, interim ones before it skipped."""
        head, _, body = raw.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        status = int(lines[0].split(" ")[1])
        if status == 100:
            return cls.parse(body)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        return cls(status, headers, body)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
async def plane() -> MemoryPlane:
    return MemoryPlane(leaves={"leaf1": "dev1", "foreign1": "dev2"}, tokens={"fc_dev_dev1_secret": "dev1"})


@pytest.fixture
async def serve(authority: Authority, plane: MemoryPlane):
    """Opens the plugin: ``await serve(limits=…, trusted_proxies=…)``; plain HTTP with ``tls=False``."""
    async with AsyncExitStack() as stack:

        async def open_one(*, tls: bool = True, limits: Limits | None = None, **config: object) -> Served:
            clock = MovableClock()
            context = Context(
                name="http",
                fleet="default",
                clock=clock,
                logger=logging.getLogger("fleetcore.http"),
                secret=lambda name: name,
                limits=limits or Limits(),
                tls=Tls(authority),
            )
            settings = HttpConfig(listen=f"http{'s' if tls else ''}://127.0.0.1:0", **config)
            adapter = await stack.enter_async_context(open_http(settings, context, plane, plane))
            return Served(adapter=adapter, clock=clock)

        yield open_one


@pytest.fixture
async def served(serve) -> Served:
    return await serve()


@pytest.fixture
def curl(authority: Authority, served: Served):
    """Runs curl over mutual TLS: ``await curl("/telemetry", "-d", "…", device="dev1")``."""

    async def run(path: str, *options: str, device: str | None = "dev1") -> Answer:
        identity = []
        if device is not None:
            own = authority.device(device)
            identity = ["--cert", str(own.certificate_path), "--key", str(own.key_path)]
        process = await asyncio.create_subprocess_exec(
            *("curl", "-sS", "--max-time", "20", "-i", "--cacert", str(authority.path), *identity, *options),
            f"{served.url}/device/v1{path}",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        assert process.returncode == 0, err.decode()
        return Answer.parse(out)

    return run


@frozen
class Raw:
    """A plain connection on which bytes are written by hand."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def say(self, *lines: str, body: bytes = b"") -> None:
        self.writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        await self.writer.drain()

    async def answer(self) -> Answer:
        async with asyncio.timeout(PATIENCE_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
            answer = Answer.parse(head)
            length = int(answer.headers.get("content-length", 0))
            return Answer(answer.status, answer.headers, await self.reader.readexactly(length))

    async def rest(self) -> bytes:
        """What comes until the server closes."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""


@pytest.fixture
async def connect(authority: Authority):
    """Opens raw connections: ``await connect(served)``, with TLS where the server has it."""
    opened: list[Raw] = []

    async def open_one(served: Served, device: str | None = None) -> Raw:
        tls = authority.secrets(device or "dev1").tls() if served.url.startswith("https") else None
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port, ssl=tls)
        raw = Raw(reader, writer)
        opened.append(raw)
        return raw

    yield open_one
    for raw in opened:
        raw.writer.transport.abort()
    await asyncio.sleep(0)


async def _until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
def until() -> Callable[[Callable[[], object]], object]:
    """Waits, bounded, for something that another task will do."""
    return _until
