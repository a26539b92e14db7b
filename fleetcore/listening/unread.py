"""Detects peers that do not read: their send queue stays as it is, and keeps its memory."""

import asyncio
import fcntl
import struct
import termios
from contextlib import suppress
from math import inf


def waiting_bytes(transport: asyncio.Transport) -> tuple[int, int]:
    """Bytes that wait in the transport and in the system (TIOCOUTQ, tcp(7)): the peer has not acknowledged them."""
    queued = 0
    connection = transport.get_extra_info("socket")
    with suppress(OSError, ValueError, AttributeError):
        (queued,) = struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))
    return transport.get_write_buffer_size(), queued


class UnreadWatch:
    """Watches one connection; :meth:`overdue` is asked about once a second."""

    __slots__ = ("_since_s", "_waiting")

    def __init__(self) -> None:
        self._waiting = (0, 0)
        self._since_s = inf

    def overdue(self, transport: asyncio.Transport, now_s: float, unread_s: float) -> bool:
        """Whether the peer has read nothing of what waits for it for ``unread_s``."""
        waiting = waiting_bytes(transport)
        if waiting == (0, 0):
            self._since_s = inf
        elif waiting != self._waiting or self._since_s == inf:
            self._since_s = now_s
        self._waiting = waiting
        return now_s - self._since_s >= unread_s
