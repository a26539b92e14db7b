"""A protocol in one file: JSON lines over TCP, for devices of this machine that have a device token.

[fleet]
plugins = ["./one_file_protocol.py"]

[protocols.lines]
listen = "lines://127.0.0.1:7070"

A frame is a line of JSON (see :class:`Frame`) followed by ``size`` bytes of body. A device's first frame has its token.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import count
from types import TracebackType
from typing import Annotated, Self
from urllib.parse import urlsplit

import msgspec
from attrs import frozen

from fleetcore import hookimpl, offer_protocol
from fleetcore.errors import ConfigError, NotAuthenticated, NotAuthorised, Refused, Unavailable
from fleetcore.interfaces import (
    Context,
    DeviceClient,
    DevicePlane,
    DeviceSecrets,
    Ingest,
    ProtocolAdapter,
    Provider,
    Session,
)
from fleetcore.interfaces.protocol import EnrollRequest
from fleetcore.model.credential import TokenCredential
from fleetcore.model.message import UNKNOWN, Direction, Downlink, Inbound, MessageType, Outcome, Rejected, Reply
from fleetcore.wire import messages
from fleetcore.wire.endpoints import is_loopback
from fleetcore.wire.replies import refusal, rejection, reply_to

HELLO_S = 10.0
#: Answers and downlinks that a device does not read; beyond this the connection is closed.
UNREAD_BYTES = 1024 * 1024
BY_NAME = {row.name: row for row in messages.ALL}


@frozen(kw_only=True)
class LinesConfig:
    """``[protocols.lines]``. Attributes: listen: ``lines://HOST:PORT`` on loopback; port 0 takes a free one."""

    listen: str = "lines://127.0.0.1:7070"


class Frame(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The line before a body.

    Attributes:
        op: the type of the message, ``hello``, or ``reply``, whose body is a :class:`Reply`.
        n: the device's number for its message; the reply has the same.
        subject, target, id: as in :class:`Inbound` and :class:`Downlink`.
    """

    op: str
    size: Annotated[int, msgspec.Meta(ge=0)] = 0
    n: int = 0
    token: str = ""
    subject: str | None = None
    target: str | None = None
    id: str | None = None

    def with_body(self, body: bytes) -> bytes:
        """The bytes of the frame."""
        self.size = len(body)
        return msgspec.json.encode(self) + b"\n" + body


async def read_frame(reader: asyncio.StreamReader, limit_bytes: int) -> tuple[Frame, bytes | None]:
    """The next frame; skips a too long body, and returns None for it."""
    frame = msgspec.json.decode(await reader.readuntil(b"\n"), type=Frame)
    if frame.size <= limit_bytes:
        return frame, await reader.readexactly(frame.size)
    left = frame.size
    while left:
        left -= len(await reader.readexactly(min(left, 65536)))
    return frame, None


#: The end of a connection: it is lost, or an invalid frame arrived.
ENDS = (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, msgspec.DecodeError)


class Lines(ProtocolAdapter):
    """Listens, and has a task for each connection."""

    def __init__(self, context: Context, plane: DevicePlane, ingest: Ingest) -> None:
        self._context, self._plane, self._ingest = context, plane, ingest
        self._endpoint = ""
        self._tasks: set[asyncio.Task[None]] = set()
        self._unanswered = 0
        self._all_answered = asyncio.Event()
        self._draining = False

    @property
    def endpoints(self) -> Sequence[str]:
        """The address of the listener."""
        return [self._endpoint]

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self._tasks)

    async def listen(self, host: str, port: int) -> None:
        """Opens the listener."""
        self._server = await asyncio.start_server(self._accept, host, port)
        self._endpoint = f"lines://{host}:{self._server.sockets[0].getsockname()[1]}"

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer), name="lines connection")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session: Session | None = None
        try:
            async with asyncio.timeout(HELLO_S):
                hello, _ = await read_frame(reader, 0)
                try:
                    credential = TokenCredential(hello.token)
                    session = await self._plane.authenticate(credential, protocol="lines", peer="loopback")
                except Refused as error:
                    _reply(writer, 0, refusal(rejection(error)))
                    return
            # The session ends when the device is revoked; then its connection ends too.
            session.on_end(lambda _code: writer.close())
            _reply(writer, 0, Reply())
            self._plane.listen(session, lambda downlink: self._push(writer, downlink))
            while not self._draining:
                await self._take(session, writer, *await read_frame(reader, self._context.limits.message_bytes))
        except ENDS:
            self._context.count("connections_lost")
        finally:
            if session is not None:
                session.close()
            writer.close()

    async def _take(self, session: Session, writer: asyncio.StreamWriter, frame: Frame, body: bytes | None) -> None:
        if self._draining:
            return
        row = BY_NAME.get(frame.op, UNKNOWN)
        subject = frame.subject or session.identity
        message = Inbound(type=row, subject=subject, payload=body or b"", id=frame.id, target=frame.target)
        rejected = None
        if body is None:
            limit = self._context.limits.message_bytes
            rejected = Rejected(
                code="limit_exceeded", reason="It is too long", limit=limit, unit="bytes", scope="message"
            )
        elif row is UNKNOWN or row is messages.ARTIFACT or row.direction is Direction.DOWN:
            rejected = Rejected(code="operation_unknown", reason=f"{frame.op!r} cannot be sent")
        if rejected is not None:
            self._plane.refused(session, message, rejected, protocol="lines")
            _reply(writer, frame.n, refusal(rejected))
            return

        self._unanswered += 1
        if row.direction is Direction.CALL:
            self._answer(writer, frame.n, await self._plane.call(session, message))
            return

        def done(outcome: Outcome) -> None:
            self._answer(writer, frame.n, reply_to(outcome))

        # While the queue is full nothing is read, and TCP slows the device down.
        if not self._ingest.deliver(session, message, done):
            await self._ingest.ready()

    def _answer(self, writer: asyncio.StreamWriter, n: int, reply: Reply) -> None:
        _reply(writer, n, reply)
        self._unanswered -= 1
        if not self._unanswered:
            self._all_answered.set()

    def _push(self, writer: asyncio.StreamWriter, downlink: Downlink) -> None:
        frame = Frame(op=downlink.type.name, subject=downlink.subject, target=downlink.target)
        _write(writer, frame.with_body(msgspec.json.encode(downlink.body)))

    async def drain(self) -> None:
        """Accepts no further connections and messages; returns once all accepted ones are answered."""
        self._draining = True
        self._server.close()
        while self._unanswered:
            self._all_answered.clear()
            await self._all_answered.wait()

    async def close(self) -> None:
        """Ends every connection."""
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _reply(writer: asyncio.StreamWriter, n: int, reply: Reply) -> None:
    _write(writer, Frame(op="reply", n=n).with_body(msgspec.json.encode(reply)))


def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    if not writer.is_closing():
        writer.write(data)
        if writer.transport.get_write_buffer_size() > UNREAD_BYTES:
            writer.transport.abort()


@asynccontextmanager
async def open_lines(config: LinesConfig, context: Context, plane: DevicePlane, ingest: Ingest) -> AsyncIterator[Lines]:
    """Listens until it is left."""
    url = urlsplit(config.listen)
    if url.scheme != "lines" or url.port is None or not is_loopback(url.hostname or ""):
        raise ConfigError(f"{config.listen!r} is not lines://127.0.0.1:PORT", remedy="Tokens would go unencrypted")
    adapter = Lines(context, plane, ingest)
    await adapter.listen(url.hostname or "", url.port)
    try:
        yield adapter
    finally:
        await adapter.close()


class LinesClient(DeviceClient):
    """The device side."""

    def __init__(self, endpoint: str, secrets: DeviceSecrets) -> None:
        self._url, self._secrets = urlsplit(endpoint), secrets
        self._numbers = count(1)
        self._replies: dict[int, asyncio.Future[Reply]] = {}
        self._downlinks: asyncio.Queue[Downlink | None] = asyncio.Queue()

    async def __aenter__(self) -> Self:
        try:
            self._reader, self._writer = await asyncio.open_connection(self._url.hostname, self._url.port)
            self._writer.write(Frame(op="hello", token=self._secrets.token or "").with_body(b""))
            _, body = await read_frame(self._reader, UNREAD_BYTES)
        except ENDS as error:
            raise Unavailable(f"No connection to {self._url.geturl()}: {error}") from error
        reply = msgspec.json.decode(body or b"", type=Reply)
        if reply.error is not None:
            self._writer.close()
            refused = NotAuthenticated if reply.status == 401 else NotAuthorised
            raise refused(str(reply.error.get("detail")), code=str(reply.error["code"]))
        self._reading = asyncio.create_task(self._read(), name="lines client")
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._writer.close()
        await self._reading

    async def _read(self) -> None:
        try:
            while True:
                frame, body = await read_frame(self._reader, UNREAD_BYTES)
                if frame.op != "reply":
                    row, content = BY_NAME[frame.op], msgspec.json.decode(body or b"")
                    downlink = Downlink(type=row, subject=frame.subject or "", body=content, target=frame.target)
                    self._downlinks.put_nowait(downlink)
                elif waiting := self._replies.pop(frame.n, None):
                    waiting.set_result(msgspec.json.decode(body or b"", type=Reply))
        except ENDS:
            self._writer.close()
        finally:
            self._downlinks.put_nowait(None)
            for waiting in self._replies.values():
                waiting.set_exception(Unavailable("The connection is lost"))

    async def send(
        self,
        type: MessageType,
        body: object,
        *,
        subject: str | None = None,
        target: str | None = None,
        id: str | None = None,
    ) -> Reply:
        """Sends an uplink; returns when it is answered."""
        if self._reading.done():
            raise Unavailable("The connection is lost")
        frame = Frame(op=type.name, n=next(self._numbers), subject=subject, target=target, id=id)
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._replies[frame.n] = reply
        self._writer.write(frame.with_body(body if isinstance(body, bytes) else msgspec.json.encode(body)))
        with suppress(OSError):
            await self._writer.drain()
        return await reply

    async def request(self, type: MessageType, body: object = None, *, subject: str | None = None) -> Reply:
        """Sends a call; returns its answer."""
        return await self.send(type, b"" if body is None else body, subject=subject)

    async def downlinks(self) -> AsyncIterator[Downlink]:
        """Yields the server's messages."""
        while (downlink := await self._downlinks.get()) is not None:
            yield downlink

    async def enroll(self, request: EnrollRequest) -> Reply:  # noqa: ARG002 - the interface's parameters
        """Not supported: devices of this protocol have a token."""
        raise Refused("Devices of this protocol have a device token")

    def artifact(self, sha256: str, start: int = 0, *, subject: str | None = None) -> AsyncIterator[bytes]:
        """Not supported: firmware is downloaded over HTTP."""
        del sha256, start, subject
        raise Refused("This protocol cannot transfer artifacts")


@hookimpl
def fleetcore_protocols() -> Iterable[Provider[ProtocolAdapter]]:
    """One protocol, ``lines``, with its client and how ``fleetcore demo`` opens it."""
    demo = {"listen": "lines://127.0.0.1:0"}
    return [
        offer_protocol("lines", LinesConfig, open_lines, client=LinesClient, demo=demo, summary="JSON lines on TCP")
    ]
