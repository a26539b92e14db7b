"""The running server's control socket: the calls over a Unix socket (0600) in the data folder.

One JSON object a line: ``{"call": "get_device", "given": {"device_id": "pump-1"}}`` is answered by
``{"result": ...}`` or ``{"error": {"code", "message", "remedy", "kind", "ids"}}``. Who can open the socket owns the
data folder, so there is no further authentication.

``{"call": "upload_artifact", "given": {...}, "stream": true}`` is followed by the bytes of its stream in frames,
each behind its length in four bytes, the highest first; a length of zero ends them. The server reads them to
their end, also where it refuses the call; the client ends them as soon as it is answered.
"""

import asyncio
import contextlib
import json
import os
import pwd
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

#: Members of an error that are sent.
_PLAIN = (str, int, float, bool, list, tuple, dict, type(None))
#: Process, user and group of a peer (unix(7)).
_CREDENTIALS = struct.Struct("3i")


@asynccontextmanager
async def serve_control(manager: IoTFleetManager, data: Path) -> AsyncIterator[None]:
    """Answers calls until the block ends. The data folder's lock is held, so a left-over socket is nobody's."""
    path = socket_of(data)
    path.unlink(missing_ok=True)
    with address_of(path) as address:
        server = await asyncio.start_unix_server(
            lambda reader, writer: _converse(manager, reader, writer), path=address, limit=LINE_BYTES
        )
    path.chmod(0o600)
    try:
        yield
    finally:
        server.close()
        path.unlink(missing_ok=True)


def peer(connection: socket.socket) -> str:
    """The actor at the other end of a Unix socket: the user that the kernel names, and never what a line says.

    Where the system does not tell (SO_PEERCRED is Linux's), it is the folder's owner, as which alone it opens.
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


async def _converse(manager: IoTFleetManager, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    actor = peer(writer.get_extra_info("socket"))
    try:
        while line := await reader.readline():
            frames = _Frames(reader)
            answer = await _answer(manager, actor, line, frames)
            items = answer.get("result")
            if isinstance(items, AsyncGenerator):
                await _stream(items, reader, writer)
                return
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
            await frames.discard()
    except (ConnectionError, ValueError, asyncio.IncompleteReadError):
        pass  # the caller is gone, or sent a line beyond the bound
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def _stream(items: AsyncGenerator[Any, None], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An item a line, until the reader closes the connection: it has nothing more to say."""
    gone = asyncio.ensure_future(reader.read(1))
    following: asyncio.Future[Any] = asyncio.ensure_future(anext(items))
    try:
        while True:
            await asyncio.wait({gone, following}, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                return
            try:
                line: Mapping[str, object] = {"item": to_builtins(following.result())}
            except StopAsyncIteration:
                line = {"end": True}
            except FleetError as error:
                line = _refusal(error)
            writer.write(json.dumps(line).encode() + b"\n")
            await writer.drain()
            if "item" not in line:
                return
            following = asyncio.ensure_future(anext(items))
    finally:
        for task in (gone, following):
            task.cancel()
        await asyncio.gather(gone, following, return_exceptions=True)
        await items.aclose()


class _Frames:
    """The bytes that follow a line, where it says that there are some."""

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
        """Reads what was not taken; raises ValueError where it cannot be told what follows."""
        if self._too_long:
            raise ValueError("a frame was too long")
        while self._more:
            await self._next()

    def expect(self) -> AsyncIterator[bytes]:
        """The frames; raises Refused where they break off, or one is too long."""
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


async def _answer(manager: IoTFleetManager, actor: str, line: bytes, frames: _Frames) -> dict[str, Any]:
    try:
        request = json.loads(line)
        content = frames.expect() if request.get("stream") else None
        name = request["call"]
        if name == CATALOGUE:
            return {"result": (await manager.catalogue()).decode()}
        found = await manager.call_as(actor, name, request["given"], content)
        return {"result": found if isinstance(found, AsyncGenerator) else to_builtins(found)}
    except FleetError as error:
        return _refusal(error)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        message = f"{error.strerror or error}{where}"
        return {"error": {"kind": "FleetError", "code": "internal", "message": message, "remedy": "", "ids": {}}}
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        return {"error": {"kind": "Refused", "code": "schema_invalid", "message": str(error), "remedy": "", "ids": {}}}


def _refusal(error: FleetError) -> dict[str, Any]:
    ids = {key: value for key, value in error.ids.items() if isinstance(value, _PLAIN)}
    # A class of a plugin's or a module's own is not known at the other end: the nearest one that is.
    kind = next(kind.__name__ for kind in type(error).__mro__ if getattr(errors, kind.__name__, None) is kind)
    said = {"kind": kind, "code": error.code, "message": error.message, "remedy": error.remedy, "ids": ids}
    return {"error": said}
