"""The running server's control socket: the calls over a Unix socket (0600) in the data folder.

One JSON object a line: ``{"call": "get_device", "given": {"device_id": "pump-1"}}`` is answered by ``{"result": ...}``
or ``{"error": {"code", "message", "remedy", "kind", "ids"}}``. Only the owner of the data folder can open the socket,
so there is no further authentication.

``{"call": "upload_artifact", "given": {...}, "stream": true}`` is followed by the bytes of its stream in frames, each
behind its length in four bytes, the highest first; a length of zero ends them. The server reads them to the end, even
if it refuses the call; the client ends them as soon as it has an answer.
"""

import asyncio
import contextlib
import json
import logging
import os
import pwd
import select
import socket
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fleetcore import errors
from fleetcore.calls.types import to_builtins
from fleetcore.errors import FleetError, Refused
from fleetcore.frontends.control_client import CATALOGUE, FRAME_BYTES, LENGTH, LINE_BYTES, address_of, socket_of
from fleetcore.frontends.library import IoTFleetManager
from fleetcore.interfaces.waits import end_tasks
from fleetcore.wire import strict_json

_log = logging.getLogger(__name__)
#: The deepest nesting of a line; the call validates its parameters, as in the library.
_DEPTH = 64
#: The interval of checking whether a caller that waits is still connected.
_LOOK_S = 0.25
#: The time limit for running calls, except waits, when the server stops.
_GRACE_S = 0.5
#: The time limit for sending an answer when the server stops.
_FLUSH_S = 0.2
#: Members of an error that are sent.
_PLAIN = (str, int, float, bool, list, tuple, dict, type(None))
#: Process, user and group of a peer (unix(7)).
_CREDENTIALS = struct.Struct("3i")


@asynccontextmanager
async def serve_control(manager: IoTFleetManager, data: Path) -> AsyncIterator[None]:
    """Answers calls until the block ends. It holds the data folder's lock, so a socket file left over has no server.

    At the end streams end, waiting calls answer with the present state, and all connections are closed.
    """
    path = socket_of(data)
    path.unlink(missing_ok=True)
    closing = asyncio.Event()
    conversations: set[asyncio.Task[None]] = set()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversation = asyncio.ensure_future(_Conversation(manager, reader, writer, closing).hold())
        conversations.add(conversation)
        conversation.add_done_callback(conversations.discard)

    with address_of(path) as address:
        server = await asyncio.start_unix_server(begin, path=address, limit=LINE_BYTES)
    path.chmod(0o600)
    try:
        yield
    finally:
        server.close()
        with contextlib.suppress(OSError):  # on a read-only disk the file stays; the next server replaces it
            path.unlink(missing_ok=True)
        closing.set()
        if conversations:
            await asyncio.wait(conversations, timeout=_GRACE_S)
        await end_tasks(*conversations)


def peer(connection: socket.socket) -> str:
    """The actor at the other end of a Unix socket: the user reported by the kernel, never one named in a line.

    Where the system does not report it (SO_PEERCRED is Linux's), it is the folder's owner, who alone can open the
    socket.
    """
    user = os.getuid()
    if hasattr(socket, "SO_PEERCRED"):
        _, user, _ = _CREDENTIALS.unpack(
            connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
    try:
        return f"cli:{pwd.getpwuid(user).pw_name}"
    except KeyError:
        return f"cli:{user}"


class _Conversation:
    """One connection, until the peer disconnects or the server stops."""

    def __init__(
        self,
        manager: IoTFleetManager,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        closing: asyncio.Event,
    ) -> None:
        self._manager, self._reader, self._writer, self._closing = manager, reader, writer, closing
        self._socket: socket.socket = writer.get_extra_info("socket")
        self._actor = peer(self._socket)

    async def hold(self) -> None:
        """Answers line by line."""
        try:
            while line := await self._line():
                frames = _Frames(self._reader)
                answer = await self._answer(line, frames)
                items = answer.get("result")
                if isinstance(items, AsyncGenerator):
                    await self._stream(items)
                    return
                await self._write(answer)
                await frames.discard()
        except (ConnectionError, ValueError, asyncio.IncompleteReadError):
            pass  # the caller is gone, or sent a line beyond the limit
        finally:
            await self._close()

    async def _close(self) -> None:
        """Ends the connection after its answers are read; a peer that does not read does not block the server."""
        self._writer.close()
        closed, closing = asyncio.ensure_future(self._writer.wait_closed()), asyncio.ensure_future(self._closing.wait())
        try:
            await asyncio.wait({closed, closing}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({closed}, timeout=_FLUSH_S)
        finally:
            self._writer.transport.abort()
            await end_tasks(closed, closing)

    async def _line(self) -> bytes:
        """The next line; none where the server stops first."""
        coming, closing = asyncio.ensure_future(self._reader.readline()), asyncio.ensure_future(self._closing.wait())
        try:
            await asyncio.wait({coming, closing}, return_when=asyncio.FIRST_COMPLETED)
            return await coming if coming.done() else b""
        finally:
            await end_tasks(coming, closing)

    async def _left(self) -> None:
        """Returns when the peer has closed its socket, or the server stops."""
        poll = select.poll()
        poll.register(self._socket.fileno(), 0)  # a hang-up is reported without being asked for
        while not self._closing.is_set() and not poll.poll(0):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), _LOOK_S)

    async def _write(self, line: Mapping[str, Any]) -> None:
        self._writer.write(json.dumps(line).encode() + b"\n")
        await self._writer.drain()

    async def _answer(self, line: bytes, frames: "_Frames") -> dict[str, Any]:
        try:
            name, given, has_stream = _read(line)
            content = frames.expect() if has_stream else None
            if name == CATALOGUE:
                return {"result": (await self._manager.catalogue()).decode()}
            found = await self._manager.call_as(self._actor, name, given, content, left=self._left)
            return {"result": found if isinstance(found, AsyncGenerator) else to_builtins(found)}
        except Exception as error:  # noqa: BLE001  # a fault of ours is answered too
            return _refusal(error)

    async def _stream(self, items: AsyncGenerator[Any, None]) -> None:
        """Sends one item per line, until the reader closes the connection: it sends nothing more."""
        gone = asyncio.ensure_future(self._reader.read(1))
        closing = asyncio.ensure_future(self._closing.wait())
        following: asyncio.Future[Any] = asyncio.ensure_future(anext(items))
        try:
            while True:
                await asyncio.wait({gone, closing, following}, return_when=asyncio.FIRST_COMPLETED)
                if gone.done() or closing.done():
                    return
                try:
                    line: Mapping[str, object] = {"item": to_builtins(following.result())}
                except StopAsyncIteration:
                    line = {"end": True}
                except Exception as error:  # noqa: BLE001  # a fault of ours is answered too
                    line = _refusal(error)
                await self._write(line)
                if "item" not in line:
                    return
                following = asyncio.ensure_future(anext(items))
        finally:
            await end_tasks(gone, closing, following)
            await items.aclose()


def _read(line: bytes) -> tuple[str, Mapping[str, Any], bool]:
    """The name of a call, its parameters, and whether a stream follows; raises Refused."""
    request = strict_json.loads(line, depth=_DEPTH)
    if not isinstance(request, dict):
        raise Refused("A line must be a JSON object", remedy='Send {"call": NAME, "given": {…}}', pointer="")
    name, given = request.get("call"), request.get("given", {} if request.get("call") == CATALOGUE else None)
    if not isinstance(name, str):
        raise Refused("/call: it must be text", remedy="Give the name of a call", pointer="/call")
    if not isinstance(given, dict):
        raise Refused("/given: it must be an object", remedy="Give {} for a call without parameters", pointer="/given")
    return name, given, request.get("stream") is True


class _Frames:
    """The bytes that follow a line, if it announces any."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._more = self._too_long = False

    async def _taken(self) -> AsyncIterator[bytes]:
        try:
            while frame := await self._next():
                yield frame
        except asyncio.IncompleteReadError as error:
            raise Refused("The upload was cut off", code="payload_unreadable") from error

    async def discard(self) -> None:
        """Reads the rest of a stream; raises ValueError where its end cannot be found."""
        if self._too_long:
            raise ValueError("a frame was too long")
        while self._more:
            await self._next()

    def expect(self) -> AsyncIterator[bytes]:
        """The frames; raises Refused where the stream is cut off, or a frame is too long."""
        self._more = True
        return self._taken()

    async def _next(self) -> bytes:
        (length,) = LENGTH.unpack(await self._reader.readexactly(LENGTH.size))
        if length > FRAME_BYTES:
            self._too_long = True
            raise Refused(
                f"A frame is at most {FRAME_BYTES} bytes long", code="limit_exceeded", limit=FRAME_BYTES, unit="bytes"
            )
        self._more = length > 0
        return await self._reader.readexactly(length)


def _refusal(error: Exception) -> dict[str, Any]:
    if isinstance(error, FleetError):
        failure = error
    elif isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        failure = FleetError(f"{error.strerror or error}{where}", code="internal")
    else:
        _log.error("A call over the control socket failed", exc_info=error)
        failure = FleetError("This is a defect of the server; its log has the details", code="internal")
    ids = {key: value for key, value in failure.ids.items() if isinstance(value, _PLAIN)}
    # The peer does not know classes of plugins or other modules: send the nearest known base class.
    kind = next(kind.__name__ for kind in type(failure).__mro__ if getattr(errors, kind.__name__, None) is kind)
    return {
        "error": {"kind": kind, "code": failure.code, "message": failure.message, "remedy": failure.remedy, "ids": ids}
    }
