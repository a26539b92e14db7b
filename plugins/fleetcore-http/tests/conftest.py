"""The plugin served over a recording plane, raw connections, and curl as an independent peer."""

import asyncio
import json
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack

import pytest
from attrs import frozen
from cryptography import x509
from fleetcore_http.config import HttpConfig
from fleetcore_http.plugin import open_http

from fleetcore.interfaces.protocol import ProtocolAdapter
from fleetcore.interfaces.provider import Limits
from fleetcore.listening.limits import ListenerLimits
from fleetcore.testing import context, peers
from fleetcore.testing.clock import MovableClock
from fleetcore.testing.patience import PATIENCE_S
from fleetcore.testing.recording_plane import RecordingPlane
from fleetcore.testing.throwaway_ca import ThrowawayCa
from fleetcore.wire.identity import make_csr, make_key

pytest_runtest_setup = peers.require


@frozen(kw_only=True)
class Served:
    """An open adapter and where it listens."""

    adapter: ProtocolAdapter
    clock: MovableClock
    reached: Mapping[tuple[str, str], int]

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
def authority(tmp_path_factory: pytest.TempPathFactory) -> ThrowawayCa:
    return ThrowawayCa(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def csr() -> x509.CertificateSigningRequest:
    return x509.load_pem_x509_csr(make_csr("dev1", make_key()[1]))


@pytest.fixture
async def plane() -> RecordingPlane:
    return RecordingPlane(leaves={"leaf1": "dev1", "foreign1": "dev2"})


@pytest.fixture
async def serve(authority: ThrowawayCa, plane: RecordingPlane):
    """Opens the plugin: ``await serve(limits=…, trusted_proxies=…)``; plain HTTP with ``tls=False``."""
    async with AsyncExitStack() as stack:

        async def open_one(
            *, tls: bool = True, limits: Limits | None = None, per_identity: int = 64, **config: object
        ) -> Served:
            lent = context("http", limits=limits, tls=authority, listeners=ListenerLimits(per_identity=per_identity))
            settings = HttpConfig(listen=f"http{'s' if tls else ''}://127.0.0.1:0", **config)
            adapter = await stack.enter_async_context(open_http(settings, lent, plane, plane))
            return Served(adapter=adapter, clock=lent.clock, reached=lent.listening.reached)

        yield open_one


@pytest.fixture
async def served(serve) -> Served:
    return await serve()


@pytest.fixture
def curl(authority: ThrowawayCa, served: Served):
    """Runs curl over mutual TLS: ``await curl("/telemetry", "-d", "…", device="dev1")``."""

    async def run(path: str, *options: str, device: str | None = "dev1") -> Answer:
        identity = []
        if device is not None:
            own = authority.device(device)
            identity = ["--cert", str(own.certificate_path), "--key", str(own.key_path)]
        process = await asyncio.create_subprocess_exec(
            *("curl", "-sS", "--max-time", str(PATIENCE_S), "-i", "--cacert", str(authority.path), *identity, *options),
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
async def connect(authority: ThrowawayCa):
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
