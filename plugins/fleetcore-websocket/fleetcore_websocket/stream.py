"""Messages from and to one WebSocket: buffering, fragments, and closing.

The library implements RFC 6455 (masks, control frames, close codes); this module joins it to a transport. The subclass
handles the messages. Reading can be paused (:mod:`fleetcore.listening.flow_control`). No extension is
negotiated, so nothing is ever inflated.
"""

import asyncio
import logging
from abc import abstractmethod
from collections import deque
from typing import Final

from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import OPEN, SEND_EOF
from websockets.server import ServerProtocol

from fleetcore.listening.flow_control import PausableProtocol
from fleetcore_websocket.closing import Close
from fleetcore_websocket.handshake import HEAD_BYTES, select

#: Fragments of one message. A small device may send a message in pieces; a thousand of them are an attack.
FRAGMENTS = 256
#: Bytes written within one turn of the loop before they go to the transport.
AT_ONCE_BYTES = 64 * 1024
#: After a violation the peer is read this long, so that it can read the close code before a reset.
LINGER_S = 1.0

#: The library logs every connection; the subclass logs the relevant ones.
_log = logging.getLogger("fleetcore_websocket.wire")
_log.setLevel(logging.WARNING)


class Hold:
    """The reasons why a connection does not read; several may apply at once."""

    AUTHENTICATION: Final = 1
    PLANE: Final = 2
    REQUESTS: Final = 4
    WRITING: Final = 8
    DRAIN: Final = 16


class MessageStream(PausableProtocol):
    """Calls :meth:`message` for each complete message while nothing holds.

    Everything sent within one turn of the loop leaves in one write, such as the replies of a burst.
    """

    def __init__(self, limit_bytes: int) -> None:
        super().__init__()
        self.wire = ServerProtocol(max_size=limit_bytes, logger=_log, select_subprotocol=select)
        self.opcode = Opcode.TEXT
        self._asked = self._upgraded = False
        self._raw = bytearray()
        self._frames: deque[Frame] = deque()
        self._fragments: list[bytes] = []
        self._flushing = self._ending = False
        self._unflushed_bytes = 0
        self._lingering: asyncio.TimerHandle | None = None

    @abstractmethod
    def requested(self, request: Request) -> None:
        """The request of the opening handshake has arrived; nothing after it is read before :meth:`upgrade`."""

    @abstractmethod
    def message(self, payload: bytes) -> None:
        """Handles one complete message; a text is UTF-8."""

    @abstractmethod
    def violated(self, code: int, reason: str) -> None:
        """The peer violated the protocol and is sent ``code``; its further messages are ignored."""

    @abstractmethod
    def end(self, code: Close, reason: str = "") -> None:
        """Closes the connection with a close frame."""

    @abstractmethod
    def left(self) -> None:
        """Called when the peer has closed."""

    @property
    def unfinished(self) -> bool:
        """Whether the peer has started a message, or its request, and not finished it."""
        return bool(self._fragments or (self._upgraded and self.wire.reader.buffer))

    def limit(self, limit_bytes: int) -> None:
        """Limits the length of further messages."""
        self.wire.max_message_size = limit_bytes

    # -- reading --------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self.heard = True
        if self.wire.parser_exc is not None or self._ending:
            return
        self._raw += data
        self._read()

    def eof_received(self) -> bool:
        return False

    def _read(self) -> None:
        if not self._upgraded:
            self._read_request()
            return
        while self.closed or not self._holds:
            if self._frames:
                frame = self._frames.popleft()
                if not self.closed:
                    self._take(frame)
                elif frame.opcode is Opcode.CLOSE:
                    self.left()
            elif self._raw and not self._ending:
                self._parse()
            else:
                break
        self.flush()

    def _read_request(self) -> None:
        if self._asked:
            return
        at = self._raw.find(b"\r\n\r\n")
        if at < 0 or at > HEAD_BYTES:
            if len(self._raw) > HEAD_BYTES:
                self._asked = True
                self._raw.clear()
                self.respond(self.wire.reject(431, "The header section is too long"))
                self.violated(431, "the header section is too long")
            return
        self._asked = True
        head = bytes(self._raw[: at + 4])
        del self._raw[: at + 4]
        self.wire.receive_data(head)
        request = next((event for event in self.wire.events_received() if isinstance(event, Request)), None)
        if request is None:
            self.flush()
            self.violated(400, f"not an HTTP request: {self.wire.handshake_exc}")
        else:
            self.requested(request)

    def _parse(self) -> None:
        data = bytes(self._raw)
        self._raw.clear()
        self.wire.receive_data(data)
        events = self.wire.events_received()
        if self.wire.parser_exc is not None:
            self._frames.clear()
            sent = self.wire.close_sent
            self.violated(Close.PROTOCOL if sent is None else sent.code, str(self.wire.parser_exc))
        else:
            self._frames.extend(event for event in events if isinstance(event, Frame))

    def _take(self, frame: Frame) -> None:
        if frame.opcode is Opcode.CLOSE:
            self.left()
        elif frame.opcode is Opcode.CONT:
            self._fragments.append(bytes(frame.data))
            if len(self._fragments) > FRAGMENTS:
                self._fail(Close.NOT_ALLOWED, f"more than {FRAGMENTS} fragments")
            elif frame.fin:
                payload = b"".join(self._fragments)
                self._fragments.clear()
                self._whole(payload)
        elif frame.opcode is Opcode.TEXT or frame.opcode is Opcode.BINARY:
            if frame.opcode is not self.opcode:
                wanted = self.opcode.name.lower()
                self._fail(Close.UNSUPPORTED, f"this subprotocol uses {wanted} messages")
            elif frame.fin:
                self._whole(bytes(frame.data))
            else:
                self._fragments.append(bytes(frame.data))

    def _whole(self, payload: bytes) -> None:
        if self.opcode is Opcode.TEXT and not payload.isascii():
            try:
                payload.decode()
            except UnicodeDecodeError as error:
                self._fail(Close.NOT_TEXT, f"{error.reason} at byte {error.start}")
                return
        self.message(payload)

    def _fail(self, code: Close, reason: str) -> None:
        """Fails the connection (RFC 6455 §7.1.7): a peer that violates the protocol is not waited for."""
        self._fragments.clear()
        self.wire.fail(code, reason)
        self.violated(code, reason)

    def read_on(self) -> None:
        self._read()
        if self.closed or not self.held:
            self.resume()

    # -- writing --------------------------------------------------------------------------------------------------

    def respond(self, response: Response) -> None:
        """Answers the opening handshake; anything but 101 ends the connection."""
        self.wire.send_response(response)
        self.flush()

    def upgrade(self, response: Response) -> None:
        """Answers the opening handshake with 101."""
        self.wire.send_response(response)
        self._upgraded = True
        self.flush()

    def send(self, payload: bytes) -> None:
        """Writes a message at the end of this turn of the loop, in the order of the calls."""
        if self.wire.state is not OPEN:
            return
        self._unflushed_bytes += len(payload)
        if self.opcode is Opcode.TEXT:
            self.wire.send_text(payload)
        else:
            self.wire.send_binary(payload)
        if self._unflushed_bytes > AT_ONCE_BYTES:
            self.flush()  # so that a full transport reports it before more is written
        elif not self._flushing:
            self._flushing = True
            self.loop.call_soon(self.flush)

    @property
    def writable(self) -> bool:
        """Whether the transport accepts more; further messages wait in memory."""
        return not self._holds & Hold.WRITING

    def ping(self) -> None:
        """Sends a ping."""
        if self.wire.state is OPEN:
            self.wire.send_ping(b"")
            self.flush()

    def say_close(self, code: Close, reason: str) -> None:
        """Starts the closing handshake; the peer's answer is read whatever holds."""
        if self.wire.state is OPEN:
            self.wire.send_close(code, reason.encode()[:120].decode(errors="ignore"))
        self.flush()
        self.loop.call_soon(self.read_on)

    def flush(self) -> None:
        """Writes what was sent, now."""
        self._flushing, self._unflushed_bytes = False, 0
        writes = self.wire.data_to_send()
        if not writes or self.transport is None or self.transport.is_closing():
            return
        if data := b"".join(writes):
            self.transport.write(data)
        if SEND_EOF in writes and not self._ending:
            self._ending = True
            if self.wire.close_rcvd is not None:
                self.transport.close()
            else:  # a refusal, or a peer that violated the protocol and may still be sending
                self._linger(self.transport)

    def _linger(self, transport: asyncio.Transport) -> None:
        self.resume()
        try:
            if transport.can_write_eof():
                transport.write_eof()
        except OSError:  # the peer has already gone, and the system reports it here first
            transport.abort()
        else:
            self._lingering = self.loop.call_later(LINGER_S, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - how it was lost changes nothing
        if self._lingering is not None:
            self._lingering.cancel()
        self.transport = None
