"""Packets out of and into one transport: buffering, holding back, and gathering what is written.

What a packet means is the subclass's. Reading stops while anything holds: asyncio then lets the socket's buffer and
so the peer's window fill, which is the back-pressure of the endpoint.
"""

import asyncio
from abc import ABC, abstractmethod
from typing import Final

from fleetcore_mqtt.framing import header
from fleetcore_mqtt.packets import Reason, Violation


class Hold:
    """Why a connection does not read on; several may hold at once.

    Plain bits and no IntFlag, whose operators run in Python: they are applied for every message.
    """

    AUTHENTICATION: Final = 1
    PLANE: Final = 2
    WINDOW: Final = 4
    REFUSED: Final = 8
    WRITING: Final = 16
    DRAIN: Final = 32
    THROTTLE: Final = 64
    CALLS: Final = 128


class PacketStream(asyncio.Protocol, ABC):
    """Cuts what arrives into packets and calls :meth:`packet` for each while nothing holds.

    What is sent within one turn of the loop leaves in one write: the PUBACKs of a burst, for one.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self.closed = False
        self.heard = True
        self.limit_bytes = limit_bytes
        self._holds = 0
        self._paused = False
        self._buffer = bytearray()
        self._need = 0
        self._out: list[bytes] = []
        self._flushing = False

    @abstractmethod
    def packet(self, data: bytes, start: int, at: int, end: int) -> None:
        """One whole packet ``data[start:end]`` with its variable header at ``at``; may raise Violation."""

    @abstractmethod
    def begins(self, first: int) -> None:
        """The first byte of a packet whose length is allowed; may raise Violation before the rest is waited for."""

    @abstractmethod
    def end(self, reason: Reason, text: str = "", *, will: bool = False) -> None:
        """Closes the connection for ``reason``; ``will`` where the device or its network is the cause."""

    def data_received(self, data: bytes) -> None:
        self.heard = True
        if self.closed:
            return
        if self._buffer or self._holds:
            self._buffer += data
            if self._holds or len(self._buffer) < self._need:
                return
            data = bytes(self._buffer)
            self._buffer.clear()
        self._read(data)

    def _read(self, data: bytes) -> None:
        at, size = 0, len(data)
        try:
            while at < size and not self._holds:
                found = header(data, at, self.limit_bytes)
                if found is None:
                    self._need = size - at + 1
                    break
                body, end = found
                if end > size:
                    self.begins(data[at])
                    self._need = end - at
                    break
                self.packet(data, at, body, end)
                if self.closed:
                    return
                at = end
        except Violation as violation:
            self.end(violation.reason, str(violation), will=True)
            return
        if at < size:
            self._buffer += data[at:]

    @property
    def held(self) -> bool:
        """Whether anything keeps the connection from reading."""
        return self._holds != 0

    def holds(self, why: int) -> bool:
        """Whether ``why`` is among the reasons not to read."""
        return self._holds & why != 0

    def hold(self, why: int) -> None:
        """Stops reading; packets that are here already wait too."""
        self._holds |= why
        if not self._paused and self.transport is not None and not self.transport.is_closing():
            self._paused = True
            self.transport.pause_reading()

    def release(self, why: int) -> None:
        """Takes one reason away; with the last one reading goes on."""
        if self._holds & why:
            self._holds &= ~why
            if not self._holds:
                # Not at once: the caller may stand in the middle of reading what is before the buffer.
                self.loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        if self._holds or self.closed:
            return
        if self._buffer:
            data = bytes(self._buffer)
            self._buffer.clear()
            self._read(data)
        if self._paused and not self.held and self.transport is not None and not self.transport.is_closing():
            self._paused = False
            self.transport.resume_reading()

    def send(self, packet: bytes) -> None:
        """Writes ``packet`` at the end of this turn of the loop, in the order of the calls."""
        self._out.append(packet)
        if not self._flushing:
            self._flushing = True
            self.loop.call_soon(self.flush)

    def flush(self) -> None:
        """Writes what was sent, now."""
        self._flushing = False
        if self._out:
            data = b"".join(self._out)
            self._out.clear()
            if data and self.transport is not None and not self.transport.is_closing():
                self.transport.write(data)
