"""The plugin served over a recording plane, and WebSockets whose every byte a test writes by hand."""

import asyncio
import json
import socket
import struct
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from types import MappingProxyType
from typing import Any

import pytest
from attrs import frozen
from fleetcore_websocket.config import WebSocketConfig
from fleetcore_websocket.handshake import PATH
from fleetcore_websocket.plugin import open_websocket

from fleetcore.interfaces.protocol import ProtocolAdapter
from fleetcore.interfaces.provider import Limits
from fleetcore.listening.limits import ListenerLimits
from fleetcore.testing import context, peers
from fleetcore.testing.clock import MovableClock
from fleetcore.testing.patience import PATIENCE_S
from fleetcore.testing.recording_plane import RecordingPlane
from fleetcore.testing.throwaway_ca import ThrowawayCa

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


pytest_runtest_setup = peers.require


@frozen(kw_only=True)
class Served:
    """An open adapter and where it listens."""

    adapter: ProtocolAdapter
    clock: MovableClock
    counted: Counter[str]

    @property
    def url(self) -> str:
        return self.adapter.endpoints[0]

    @property
    def port(self) -> int:
        return int(self.url.removesuffix(PATH).rpartition(":")[2])


@frozen
class Answer:
    """The answer to a handshake."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def code(self) -> object:
        return json.loads(self.body)["code"]


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, mask: bool = True, rsv: int = 0) -> bytes:
    """A frame as RFC 6455 §5.2 draws it, or as it must not be."""
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    masked, size = (0x80 if mask else 0), len(payload)
    if size < 126:
        head = struct.pack("!BB", first, masked | size)
    elif size < 65_536:
        head = struct.pack("!BBH", first, masked | 126, size)
    else:
        head = struct.pack("!BBQ", first, masked | 127, size)
    if not mask:
        return head + payload
    key = b"\x5a\x01\xff\x33"
    return head + key + bytes(byte ^ key[at % 4] for at, byte in enumerate(payload))


def _encoded(opcode: int, payload: bytes = b"", options: Mapping[str, Any] = MappingProxyType({})) -> bytes:
    return frame(opcode, payload, **options)


class Raw:
    """A connection on which bytes are written by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(
        self,
        *more: str,
        path: str = PATH,
        method: str = "GET",
        protocols: str | None = "fleetcore.v1",
        left_out: str = "",
        then: bytes = b"",
    ) -> Answer:
        """Sends the request of the handshake, and reads its answer."""
        lines = [
            "Host: x",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Version: 13",
            *([] if protocols is None else [f"Sec-WebSocket-Protocol: {protocols}"]),
        ]
        kept = [line for line in lines if not left_out or not line.startswith(left_out)]
        self.writer.write("\r\n".join([f"{method} {path} HTTP/1.1", *kept, *more, "", ""]).encode("latin-1") + then)
        return await self.answer()

    async def answer(self) -> Answer:
        async with asyncio.timeout(PATIENCE_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
            body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return Answer(int(head[0].split(" ")[1]), headers, body)

    async def opened(self, *more: str, **options: str) -> dict[str, object]:
        """Opens, and returns the body of ``hello``."""
        answer = await self.ask(*more, **options)
        assert answer.status == 101, answer
        hello = await self.json()
        assert hello["op"] == "hello"
        return hello["body"]

    #: The bytes of a frame.
    encoded = staticmethod(frame)

    def write(self, *frames: bytes | tuple[Any, ...]) -> None:
        """Sends frames: ready bytes, or what :meth:`encoded` takes, its keywords as a last mapping."""
        self.writer.write(b"".join([each if isinstance(each, bytes) else _encoded(*each) for each in frames]))

    def say(self, **members: object) -> None:
        self.write(frame(TEXT, json.dumps(members).encode()))

    async def frame(self) -> tuple[int, bytes]:
        async with asyncio.timeout(PATIENCE_S):
            first, size = await self.reader.readexactly(2)
            assert first & 0xF0 == 0x80, "the server sends whole frames, without extensions"
            assert size < 128, "a server does not mask"
            if size == 126:
                (size,) = struct.unpack("!H", await self.reader.readexactly(2))
            elif size == 127:
                (size,) = struct.unpack("!Q", await self.reader.readexactly(8))
            return first & 0x0F, await self.reader.readexactly(size)

    async def json(self) -> dict[str, object]:
        opcode, payload = await self.frame()
        assert opcode == TEXT, (opcode, payload)
        return json.loads(payload)

    async def closed(self) -> tuple[int, str]:
        """The close code and reason; what comes before is skipped."""
        while True:
            opcode, payload = await self.frame()
            if opcode == CLOSE:
                return struct.unpack("!H", payload[:2])[0], payload[2:].decode()

    async def rest(self) -> bytes:
        """What comes until the server closes."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""


@pytest.fixture(name="frame")
def _frame() -> Callable[..., bytes]:
    """The bytes of a frame: ``frame(opcode, payload, fin=…, mask=…, rsv=…)``."""
    return frame


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> ThrowawayCa:
    return ThrowawayCa(tmp_path_factory.mktemp("ca"))


@pytest.fixture
async def plane() -> RecordingPlane:
    return RecordingPlane()


@pytest.fixture
async def serve(authority: ThrowawayCa, plane: RecordingPlane):
    """Opens the plugin: ``await serve(limits=…, origins=…)``; without TLS with ``tls=False``."""
    async with AsyncExitStack() as stack:

        async def open_one(
            *, tls: bool = True, limits: Limits | None = None, listeners: ListenerLimits | None = None, **config: object
        ) -> Served:
            lent = context("websocket", limits=limits, listeners=listeners, tls=authority)
            settings = WebSocketConfig(listen=f"ws{'s' if tls else ''}://127.0.0.1:0", **config)
            adapter = await stack.enter_async_context(open_websocket(settings, lent, plane, plane))
            return Served(adapter=adapter, clock=lent.clock, counted=lent.counted)

        yield open_one


@pytest.fixture
async def served(serve) -> Served:
    return await serve()


@pytest.fixture
async def connect(authority: ThrowawayCa):
    """Opens raw connections: ``await connect(served, "dev2")``; None shows no certificate.

    ``window_bytes`` is what the system takes for a peer that does not read.
    """
    made: list[Raw] = []

    async def open_one(served: Served, device: str | None = "dev1", *, window_bytes: int = 0) -> Raw:
        tls = None
        if served.url.startswith("wss"):
            tls = authority.secrets(device or "dev1", token=None if device else "none").tls()
        dialled = socket.socket()
        dialled.setblocking(False)
        if window_bytes:
            dialled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window_bytes)
        await asyncio.get_running_loop().sock_connect(dialled, ("127.0.0.1", served.port))
        name = None if tls is None else "localhost"
        raw = Raw(*await asyncio.open_connection(sock=dialled, ssl=tls, server_hostname=name))
        made[:] = [each for each in made if not each.writer.transport.is_closing()]
        made.append(raw)
        return raw

    yield open_one
    for raw in made:
        raw.writer.transport.abort()
    await asyncio.sleep(0)


@pytest.fixture
async def device(served, connect) -> Raw:
    """``dev1``, connected."""
    raw = await connect(served)
    await raw.opened()
    return raw


async def _until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
def until() -> Callable[[Callable[[], object]], object]:
    """Waits, bounded, for something that another task will do."""
    return _until
