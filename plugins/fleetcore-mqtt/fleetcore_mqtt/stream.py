"""Packets from and to one transport: splits what is read, and collects what is written.

The subclass handles the packets. Reading can be paused (:mod:`fleetcore.listening.flow_control`).
"""

from abc import abstractmethod
from typing import Final

from fleetcore.listening.flow_control import PausableProtocol
from fleetcore_mqtt.framing import header
from fleetcore_mqtt.packets import Reason, Violation


class Hold:
    """The reasons why a connection does not read; several may apply at once."""

    AUTHENTICATION: Final = 1
    PLANE: Final = 2
    WINDOW: Final = 4
    REFUSED: Final = 8
    WRITING: Final = 16
    DRAIN: Final = 32
    THROTTLE: Final = 64
    CALLS: Final = 128


class PacketStream(PausableProtocol):
    """Splits received bytes into packets and calls :meth:`packet` for each while nothing holds.

    Everything sent within one turn of the loop leaves in one write, such as the PUBACKs of a burst.
    """

    def __init__(self, limit_bytes: int) -> None:
        super().__init__()
        self.limit_bytes = limit_bytes
        self._buffer = bytearray()
        self._need = 0
        self._out: list[bytes] = []
        self._flushing = False

    @abstractmethod
    def packet(self, data: bytes, start: int, at: int, end: int) -> None:
        """Handles one packet ``data[start:end]`` with its variable header at ``at``; may raise Violation."""

    @abstractmethod
    def begins(self, first: int) -> None:
        """Checks the first byte of a packet of allowed length; may raise Violation before the rest has arrived."""

    def broken(self, violation: Violation) -> None:
        """Called when the peer violated the protocol."""
        self.end(violation.reason, str(violation), will=True)

    @abstractmethod
    def end(self, reason: Reason, text: str = "", *, will: bool = False) -> None:
        """Closes the connection for ``reason``; ``will`` publishes the will: the device or its network is the cause."""

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
            self.broken(violation)
            return
        if at < size:
            self._buffer += data[at:]

    def read_on(self) -> None:
        if self.closed:
            return
        if self._buffer:
            data = bytes(self._buffer)
            self._buffer.clear()
            self._read(data)
        if not self.held:
            self.resume()

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
