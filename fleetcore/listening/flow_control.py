"""A connection whose reading can be paused: the part of its protocol that MQTT and WebSocket share.

While there is a reason to hold, nothing is read: asyncio lets the socket's buffer and so the peer's window fill, which
is the back-pressure of a listener. The subclass reads the bytes and writes the answers.
"""

import asyncio
from abc import ABC, abstractmethod
from ssl import SSLObject
from typing import cast

#: Bytes in a transport's buffer before ``pause_writing`` is called.
WRITE_BUFFER_BYTES = 256 * 1024


class PausableProtocol(asyncio.Protocol, ABC):
    """A pausable protocol; belongs to the loop that it is made in.

    The reasons to hold are bits that the subclass names. They are not an IntFlag, whose operators run in Python: they
    are applied to every message.

    Attributes:
        transport: None before the connection is made and after it is lost.
        closed: the connection has ended or is ending; set by the subclass.
        heard: something was received since the subclass last set it to False.
    """

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self.closed = False
        self.heard = True
        self._holds = 0
        self._paused = False

    @abstractmethod
    def read_on(self) -> None:
        """Handles what was received meanwhile, and resumes unless there is a new reason to hold."""

    @property
    def peer(self) -> str:
        """``host:port`` of the other end, for people to read."""
        name = None if self.transport is None else self.transport.get_extra_info("peername")
        return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else ""

    @property
    def peer_certificate(self) -> bytes | None:
        """The peer's TLS certificate, DER, verified by the listener's context; None where it sent none."""
        tls: SSLObject | None = None if self.transport is None else self.transport.get_extra_info("ssl_object")
        return None if tls is None else tls.getpeercert(binary_form=True)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not asserted: uvloop's transports, which ``fleetcore serve`` runs on, do not subclass asyncio's.
        self.transport = transport = cast("asyncio.Transport", transport)
        transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)

    def abort(self) -> None:
        """Closes the transport at once, without a closing message."""
        if self.transport is not None:
            self.transport.abort()

    @property
    def held(self) -> bool:
        """Whether there is any reason not to read."""
        return self._holds != 0

    def holds(self, why: int) -> bool:
        """Whether ``why`` is among the reasons not to read."""
        return self._holds & why != 0

    def hold(self, why: int) -> None:
        """Stops reading; what was received already waits too."""
        self._holds |= why
        if not self._paused and self.transport is not None and not self.transport.is_closing():
            self._paused = True
            self.transport.pause_reading()

    def release(self, why: int) -> None:
        """Takes one reason away; reading goes on when it was the last."""
        if self._holds & why:
            self._holds &= ~why
            if not self._holds:
                # Not at once: the caller may be in the middle of handling earlier bytes.
                self.loop.call_soon(self._released)

    def _released(self) -> None:
        if not self._holds:
            self.read_on()

    def resume(self) -> None:
        """Reads the transport again."""
        if self._paused and self.transport is not None and not self.transport.is_closing():
            self._paused = False
            self.transport.resume_reading()
