"""One DTLS 1.2 association: OpenSSL between datagrams and messages, by pyOpenSSL with memory BIOs. No sockets.

Datagrams go in by :meth:`Association.receive` and out by its ``send`` function; both sides use it. OpenSSL's own
retransmission timer uses the machine's clock: :attr:`Association.timeout_s` says when to call
:meth:`Association.retransmit`.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from fleetcore_coap.records import DATAGRAM_BYTES, count, pack

#: The most that OpenSSL writes at once: a flight of a handshake, with chains.
_FLIGHT_BYTES = 64 * 1024
#: More than any datagram that is read (:mod:`fleetcore_coap.sockets`). Buffers of this length are made and cleared for
#: each message, so it is as small as possible.
_RECORD_BYTES = 2048
_ALL = 1 << 16


class Association:
    """One association; see the module.

    Args:
        connection: OpenSSL's, without a socket; a listening one that has read a ClientHello, or a client's.
        send: takes a datagram; never blocks.

    Attributes:
        established: the handshake is complete.
        ended: why it ended: ``closed`` by either side, or OpenSSL's reason for a failed handshake.
    """

    __slots__ = ("_connection", "_send", "ended", "established")

    def __init__(self, connection: SSL.Connection, send: Callable[[bytes], None]) -> None:
        #: None after closing.
        self._connection: Any = connection
        self._send = send
        self.established = False
        self.ended: str | None = None

    @property
    def certificate(self) -> bytes | None:
        """The peer's certificate, DER, its chain verified in the handshake; None if it sent none."""
        if self._connection is None:
            return None
        shown = self._connection.get_peer_certificate(as_cryptography=True)
        return None if shown is None else shown.public_bytes(Encoding.DER)

    @property
    def timeout_s(self) -> float | None:
        """Seconds until :meth:`retransmit` is due; None if nothing waits for the peer."""
        return None if self.ended is not None else self._connection.DTLSv1_get_timeout()

    def begin(self) -> None:
        """Takes the first step of the handshake."""
        self._shake_hands()

    def receive(self, datagram: bytes) -> list[bytes]:
        """Handles a datagram of whole records; returns its messages. Foreign bytes are dropped."""
        if self.ended is not None:
            return []
        self._connection.bio_write(datagram)
        # Earlier data may wait in OpenSSL together with this datagram's.
        most = count(datagram) if self.established else _ALL
        if not self.established:
            self._shake_hands()
        messages = self._read(most) if self.established else []
        if not messages:
            # An alert, or our last flight again for a peer that missed it; after a message there is nothing to send.
            self._flush()
        return messages

    def _shake_hands(self) -> None:
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            pass
        except SSL.Error as error:
            self.ended = reason_of(error)
        else:
            self.established = True
        self._flush()  # also the alert of a failed handshake

    def _read(self, most: int) -> list[bytes]:
        """Reads a limited number of messages: OpenSSL signals "none" by an exception, which costs as much as one."""
        messages: list[bytes] = []
        while self.ended is None and len(messages) < most:
            try:
                messages.append(self._connection.recv(_RECORD_BYTES))
            except SSL.WantReadError:
                break
            except SSL.ZeroReturnError:
                self.ended = "closed"
            except SSL.Error as error:
                self.ended = reason_of(error)
        return messages

    def send(self, message: bytes) -> None:
        """Sends a message; does nothing if the association is not established or has ended."""
        if self.ended is not None or not self.established:
            return
        try:
            self._connection.send(message)
        except SSL.Error as error:
            self.ended = reason_of(error)
        self._flush(_RECORD_BYTES)

    def retransmit(self) -> None:
        """The timer has expired: sends the last flight again; ends the association after too many (OpenSSL: 12)."""
        if self.ended is not None:
            return
        try:
            self._connection.DTLSv1_handle_timeout()
        except SSL.Error as error:
            self.ended = reason_of(error)
        self._flush()

    def close(self) -> None:
        """Notifies the peer, and releases OpenSSL's memory; idempotent.

        OpenSSL holds some 80 kB, and the garbage collector, which counts objects, frees it only after hours.
        """
        if self.ended is None:
            self.ended = "closed"
            if self.established:
                with suppress(SSL.Error):
                    self._connection.shutdown()
                self._flush()
        self._connection = None

    def _flush(self, most: int = _FLIGHT_BYTES) -> None:
        for datagram in pack(written(self._connection, most)):
            self._send(datagram)


def written(connection: SSL.Connection, most: int = _FLIGHT_BYTES) -> bytes:
    """OpenSSL's output since the last call, up to ``most`` bytes."""
    try:
        return connection.bio_read(most)
    except SSL.WantReadError:
        return b""


def prepare(connection: SSL.Connection) -> None:
    """Limits the size of datagrams, also in handshakes; the context has OP_NO_QUERY_MTU."""
    connection.set_ciphertext_mtu(DATAGRAM_BYTES)


def reason_of(error: SSL.Error) -> str:
    """OpenSSL's text for a failure."""
    details = error.args[0] if error.args else ()
    if isinstance(details, list | tuple) and details and isinstance(details[0], tuple):
        return str(details[0][-1]) or "failed"
    return str(error) or type(error).__name__
