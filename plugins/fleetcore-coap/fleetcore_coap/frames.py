"""Messages on a stream (RFC 8323 §3.2): split from received bytes, and encoded. No sockets, no tasks.

Here a message has neither type nor id, because the stream repeats and acknowledges; everything else is as in
:mod:`fleetcore_coap.codec`.
"""

from fleetcore_coap.codec import (
    EMPTY,
    MAX_TOKEN_BYTES,
    Kind,
    Malformed,
    Packet,
    options,
    read_body,
    uint,
    write_body,
)

#: Signalling codes (RFC 8323 §5), a separate class.
CSM, PING, PONG, RELEASE, ABORT = 0xE1, 0xE2, 0xE3, 0xE4, 0xE5
#: Options of CSM.
_MAX_MESSAGE_SIZE = 2


class TooLong(Exception):
    """A message announces a length above the limit."""


class Frames:
    """The received bytes of one stream.

    Args:
        limit_bytes: the limit of a message's options and payload; a longer one is refused at its first bytes.
    """

    __slots__ = ("_buffer", "_limit")

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._buffer = bytearray()

    @property
    def begun(self) -> bool:
        """Whether part of a message has arrived."""
        return bool(self._buffer)

    def take(self, data: bytes) -> list[Packet]:
        """The complete messages; empty ones, which mean nothing (RFC 8323 §3.4), are left out.

        Raises :class:`Malformed` or :class:`TooLong`; the stream is unusable then.
        """
        buffer = self._buffer
        buffer += data
        found: list[Packet] = []
        at = 0
        while (head := _head(buffer, at)) is not None:
            start, length = head
            token = buffer[at] & 15
            if token > MAX_TOKEN_BYTES:
                raise Malformed("an invalid token length")
            if length > self._limit:
                raise TooLong
            end = start + 1 + token + length
            if end > len(buffer):
                break
            packet = _packet(bytes(buffer[start:end]), token)
            if packet.code != EMPTY:
                found.append(packet)
            at = end
        del buffer[:at]
        return found


def _head(buffer: bytearray, at: int) -> tuple[int, int] | None:
    """The place of a message's code, and the length after its token; None if they have not arrived yet."""
    if at >= len(buffer):
        return None
    length = buffer[at] >> 4
    if length < 13:
        return at + 1, length
    extended = (1, 2, 4)[length - 13]
    if len(buffer) < at + 1 + extended:
        return None
    more = int.from_bytes(buffer[at + 1 : at + 1 + extended], "big")
    return at + 1 + extended, more + (13, 269, 65_805)[length - 13]


def _packet(data: bytes, token: int) -> Packet:
    found, payload = read_body(data, 1 + token, None)
    return Packet(kind=Kind.CON, code=data[0], token=data[1 : 1 + token], options=found, payload=payload)


def frame(packet: Packet) -> bytes:
    """The bytes of a message."""
    body = write_body(packet)
    length = len(body)
    if length < 13:
        head = bytes((length << 4 | len(packet.token),))
    elif length < 269:
        head = bytes((13 << 4 | len(packet.token), length - 13))
    elif length < 65_805:
        head = bytes((14 << 4 | len(packet.token),)) + (length - 269).to_bytes(2, "big")
    else:
        head = bytes((15 << 4 | len(packet.token),)) + (length - 65_805).to_bytes(4, "big")
    return head + bytes((packet.code,)) + packet.token + body


def capabilities(limit_bytes: int) -> bytes:
    """The first message of both sides (RFC 8323 §5.3), with the maximum length of a message."""
    return frame(Packet(kind=Kind.CON, code=CSM, options=options([(_MAX_MESSAGE_SIZE, uint(limit_bytes))])))


def pong(ping: Packet) -> bytes:
    """The answer to a ping."""
    return frame(Packet(kind=Kind.CON, code=PONG, token=ping.token))


def critical(signal: Packet) -> bool:
    """Whether a signal has an unknown critical option, which ends the connection (RFC 8323 §5.2)."""
    return any(number & 1 for number, _ in signal.options)
