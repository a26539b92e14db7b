"""A TCP proxy that cuts, resets or stalls connections: the network between a device and a server.

In a test::

    async with CutProxy("127.0.0.1", port) as proxy:
        proxy.cut_after(1000, down=True)
        …  # a client connects to 127.0.0.1:proxy.port; the 1001st byte of the answers does not come
"""

import asyncio
import contextlib
import socket
import struct
from types import TracebackType
from typing import Literal, Self

from fleetcore.interfaces.waits import end_tasks

Side = Literal["up", "down"]
_PIECE_BYTES = 65536


class CutProxy:
    """Forwards connections to a server, until a fault is requested; an async context manager.

    ``up`` is from the client to the server, ``down`` the opposite direction. A fault applies to open and new
    connections, until :meth:`heal`.

    Args:
        host, port: the server; it need not listen before a client connects.

    Attributes:
        port: where the proxy listens, on 127.0.0.1.
        connections: how many are open.
        accepted: how many were opened.
        passed: bytes forwarded in each direction.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._server: asyncio.Server | None = None
        self._open: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._limits: dict[Side, int] = {}
        self._resets = self._refuses = False
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = self.accepted = 0
        self.passed: dict[Side, int] = {"up": 0, "down": 0}

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._open)

    # levers

    def lead_to(self, host: str, port: int) -> None:
        """Leads new connections to another server."""
        self._target = host, port

    def cut_after(self, count: int, *, down: bool = False, reset: bool = False) -> None:
        """Cuts each connection after ``count`` more bytes up, or ``down``: with a FIN, or with a RST."""
        self._resets = reset
        side: Side = "down" if down else "up"
        self._limits[side] = self.passed[side] + count

    def cut(self, *, reset: bool = False) -> None:
        """Cuts all connections now; new ones are forwarded."""
        for writers in tuple(self._open):
            self._end(writers, reset=reset)

    def refuse(self) -> None:
        """Closes every new connection at once, before the first byte."""
        self._refuses = True

    def stall(self) -> None:
        """Forwards nothing, in either direction; connections stay open, as behind a dead router."""
        self._flows.clear()

    def heal(self) -> None:
        """Ends all faults; stalled connections continue."""
        self._limits.clear()
        self._resets = self._refuses = False
        self._flows.set()

    # life

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.cut(reset=True)
        await end_tasks(*self._tasks)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if not self._refuses:
                await self._connect(reader, writer)
        except asyncio.CancelledError:
            pass  # the proxy closes; asyncio owns the task of a connection, and would log it
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            from_server, to_server = await asyncio.open_connection(*self._target)
        except OSError:
            return
        writers = writer, to_server
        self._open.add(writers)
        try:
            await asyncio.gather(
                self._pass("up", reader, to_server, writers), self._pass("down", from_server, writer, writers)
            )
        finally:
            self._end(writers)

    async def _pass(
        self,
        side: Side,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        writers: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(_PIECE_BYTES):
                await self._flows.wait()
                left = self._limits.get(side, self.passed[side] + len(data)) - self.passed[side]
                writer.write(data[: max(left, 0)])
                self.passed[side] += min(max(left, 0), len(data))
                await writer.drain()
                if self.passed[side] >= self._limits.get(side, 1 << 62):
                    self._end(writers, reset=self._resets)
                    return
            if writer.can_write_eof():
                writer.write_eof()

    def _end(self, writers: tuple[asyncio.StreamWriter, asyncio.StreamWriter], *, reset: bool = False) -> None:
        self._open.discard(writers)
        for writer in writers:
            connected = writer.get_extra_info("socket")
            if reset and connected is not None and not writer.is_closing():
                # SO_LINGER with 0 turns a close into a RST (socket(7)).
                connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
            else:
                writer.close()
