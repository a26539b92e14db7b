"""Sends parts of a file on a plain connection by the kernel, which copies nothing (sendfile).

uvloop has no ``sendfile``, and both loops refuse to watch a transport's own descriptor; so a duplicate of it is used.
"""

import asyncio
import os
from types import TracebackType
from typing import Self

from fleetcore.model.file_span import FileSpan
from fleetcore_http.connection import DeviceConnection

#: So much has to be read by the peer within the idle time.
WRITE_BYTES = 256 * 1024
#: How often it is looked whether the connection was closed while its peer reads nothing; and how often whether the
#: head of the answer has gone.
_LOOK_S, _FLUSH_S = 0.5, 0.001


class Sending:
    """Sends on a connection while the context lasts; nothing else may write to it."""

    def __init__(self, connection: DeviceConnection) -> None:
        self._connection = connection
        self._socket = -1

    def __enter__(self) -> Self:
        transport = self._connection.transport
        if transport is None:
            raise ConnectionResetError("The connection was lost")
        self._socket = os.dup(transport.get_extra_info("socket").fileno())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._socket)

    async def send(self, span: FileSpan) -> None:
        """Sends a part of a file; raises ConnectionError where the connection ends before that."""
        while self._transport().get_write_buffer_size():  # noqa: ASYNC110 - a loop does not tell when it is empty
            await asyncio.sleep(_FLUSH_S)
        done = expected = 0
        while done < len(span):
            self._transport()
            if done >= expected:
                self._connection.expect_reading()
                expected = done + WRITE_BYTES
            try:
                sent = os.sendfile(self._socket, span.file, span.offset + done, len(span) - done)
            except BlockingIOError:
                await self._writable()
                continue
            if not sent:
                raise ConnectionAbortedError("The file is shorter than it was")
            done += sent

    def _transport(self) -> asyncio.WriteTransport:
        transport = self._connection.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("The connection was lost")
        return transport

    async def _writable(self) -> None:
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_writer(self._socket, ready.set)
        try:
            async with asyncio.timeout(_LOOK_S):
                await ready.wait()
        except TimeoutError:
            return
        finally:
            loop.remove_writer(self._socket)
