"""The client of a running server's control socket; it loads nothing of a fleet (see :mod:`.control`)."""

import asyncio
import contextlib
import json
import os
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

from fleetcore import errors
from fleetcore.calls.types import to_builtins
from fleetcore.errors import FleetError, Unavailable
from fleetcore.frontends.catalogue import core
from fleetcore.wire.pieces import async_pieces

NAME = "control.sock"
#: The request for the catalogue of calls.
CATALOGUE = "catalogue"
LINE_BYTES = 64 * 1024 * 1024
#: The length of a frame, before its bytes.
LENGTH = struct.Struct(">I")
FRAME_BYTES = 16 * 1024 * 1024
_PATH_BYTES = 100


def socket_of(data: Path) -> Path:
    """The control socket of a data folder's running server."""
    return data / NAME


@contextlib.contextmanager
def address_of(path: Path) -> Iterator[str]:
    """The path in a form that fits a Unix socket: 108 bytes with the final zero on Linux (unix(7)), fewer elsewhere.

    A longer path is reached through an open descriptor of its folder, where the system supports it.
    """
    text = str(path)
    if len(os.fsencode(text)) <= _PATH_BYTES or not Path("/proc/self/fd").is_dir():
        yield text
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


async def _send(content: AsyncIterator[bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """Sends frames until the server has answered; returns the answer."""
    answering = asyncio.ensure_future(reader.readline())
    try:
        async for piece in content:
            for first in range(0, len(piece), FRAME_BYTES):
                frame = piece[first : first + FRAME_BYTES]
                writer.write(LENGTH.pack(len(frame)) + frame)
                await writer.drain()
            if answering.done():
                break
        writer.write(LENGTH.pack(0))
        await writer.drain()
        return await answering
    finally:
        answering.cancel()


class ControlClient:
    """Calls a running server; each call has a separate connection, so calls may overlap."""

    def __init__(self, data: Path) -> None:
        self._data = data

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            with address_of(socket_of(self._data)) as address:
                return await asyncio.open_unix_connection(address, limit=LINE_BYTES)
        except OSError as error:
            raise Unavailable(
                f"A process has {self._data} open but does not answer calls",
                remedy="If it is a script, close it or wait for it",
            ) from error

    async def run(self, name: str, given: Mapping[str, Any]) -> Any:
        """The answer of a call, as plain data; raises the errors of the library, and Unavailable without a server."""
        call = core().get(name)
        stream = "" if call is None else call.stream
        if stream not in given:
            return await self._ask({"call": name, "given": to_builtins(given)})
        plain = {member: value for member, value in given.items() if member != stream}
        request = {"call": name, "given": to_builtins(plain), "stream": True}
        return await self._ask(request, async_pieces(given[stream]))

    async def catalogue(self) -> bytes:
        """The calls of the running fleet, as :func:`fleetcore.frontends.catalogue.read` decodes them."""
        text: str = await self._ask({"call": CATALOGUE})
        return text.encode()

    async def stream(self, name: str, given: Mapping[str, Any]) -> AsyncGenerator[Any, None]:
        """The items of a streaming call, as plain data; raises as :meth:`run`."""
        reader, writer = await self._connection()
        try:
            writer.write(json.dumps({"call": name, "given": to_builtins(given)}).encode() + b"\n")
            await writer.drain()
            while line := await reader.readline():
                answer = json.loads(line)
                if "error" in answer:
                    raise _error(answer["error"])
                if "end" in answer:
                    return
                yield answer["item"]
        except ConnectionError:
            pass  # it was cut off, like a stream that ends silently
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        raise Unavailable("The server closed the connection", remedy="See its log")

    async def _ask(self, request: Mapping[str, Any], content: AsyncIterator[bytes] | None = None) -> Any:
        reader, writer = await self._connection()
        try:
            writer.write(json.dumps(request).encode() + b"\n")
            await writer.drain()
            if content is None:
                line = await reader.readline()
            else:
                line = await _send(content, reader, writer)
        except ConnectionError:
            line = b""
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        if not line:
            raise Unavailable("The server closed the connection", remedy="See its log")
        answer = json.loads(line)
        if "error" in answer:
            raise _error(answer["error"])
        return answer["result"]


def _error(problem: Mapping[str, Any]) -> FleetError:
    kind: type[FleetError] = getattr(errors, problem["kind"], FleetError)
    return kind(problem["message"], code=problem["code"], remedy=problem["remedy"], **problem["ids"])
