"""Encodes and decodes messages (RFC 7252 §3), strictly: anything invalid is :class:`Malformed`.

Option values stay bytes here and are decoded on access, so an unread option costs nothing. No state, no sockets. The
device client's DTLS channel uses aiocoap's codec (:mod:`.aiocoap_codec`), so that every message is read by two
independent codecs; that one makes an object of every option and takes four times as long.
"""

from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum
from typing import NamedTuple

from msgspec import Struct

#: RFC 7252 §3: longer ones are a format error.
MAX_TOKEN_BYTES = 8


class Kind(IntEnum):
    """The type of a message (RFC 7252 §3)."""

    CON = 0
    NON = 1
    ACK = 2
    RST = 3


_KINDS = tuple(Kind)


class Method(IntEnum):
    """Request codes (RFC 7252 §12.1.1, RFC 8132 §6)."""

    GET = 1
    POST = 2
    PUT = 3
    DELETE = 4
    FETCH = 5
    PATCH = 6
    IPATCH = 7


def code_of(number: int) -> int:
    """The code for ``class * 100 + detail``, as people and the registry of errors write it: 404 for 4.04."""
    return (number // 100) << 5 | number % 100


EMPTY = 0
CREATED, VALID, CHANGED, CONTENT, CONTINUE = (code_of(number) for number in (201, 203, 204, 205, 231))
BAD_REQUEST, UNAUTHORIZED, BAD_OPTION, METHOD_NOT_ALLOWED, NOT_ACCEPTABLE, INCOMPLETE = (
    code_of(number) for number in (400, 401, 402, 405, 406, 408)
)
TOO_LARGE, UNAVAILABLE = code_of(413), code_of(503)


class Option:
    """Option numbers: RFC 7252 §5.10, RFC 7641 §2, RFC 7959 §2 and §4, RFC 8613 §2, RFC 9175 §2 and §3."""

    IF_MATCH, URI_HOST, ETAG, IF_NONE_MATCH, OBSERVE, URI_PORT, OSCORE = 1, 3, 4, 5, 6, 7, 9
    URI_PATH, CONTENT_FORMAT, MAX_AGE, URI_QUERY, ACCEPT = 11, 12, 14, 15, 17
    BLOCK2, BLOCK1, SIZE2, SIZE1, ECHO, REQUEST_TAG = 23, 27, 28, 60, 252, 292
    #: Our option: the waiting items of a device. Elective, safe to forward, not part of a cache key (RFC 7252 §5.4.6),
    #: and in the range for experiments (§12.2).
    PENDING = 65020


#: Critical options (odd numbers) that are supported; a request with another one is refused (RFC 7252 §5.4.1).
#: If-None-Match is not: no path creates something only if it is absent. Nor are the Proxy options.
_UNDERSTOOD = frozenset({
    Option.IF_MATCH, Option.URI_HOST, Option.URI_PORT, Option.URI_PATH, Option.URI_QUERY, Option.ACCEPT,
    Option.BLOCK1, Option.BLOCK2,
})  # fmt: skip
#: Text options, which must be UTF-8 (RFC 7252 §3.2).
_TEXTS = frozenset({Option.URI_HOST, Option.URI_PATH, Option.URI_QUERY})
#: Options that may occur once; a second one is treated as an unknown option (RFC 7252 §5.4.5).
_ONCE = frozenset({
    Option.URI_HOST, Option.OBSERVE, Option.URI_PORT, Option.CONTENT_FORMAT, Option.MAX_AGE, Option.ACCEPT,
    Option.BLOCK1, Option.BLOCK2, Option.SIZE1, Option.SIZE2,
})  # fmt: skip

Options = tuple[tuple[int, bytes], ...]


class Malformed(Exception):
    """The datagram is not a message. ``mid`` is its id if it must be reset, else None (RFC 7252 §4.2)."""

    def __init__(self, why: str, mid: int | None = None) -> None:
        super().__init__(why)
        self.mid = mid


class Packet(Struct, frozen=True, kw_only=True, gc=False):
    """One message. ``options`` are in the order of their numbers."""

    kind: Kind
    code: int
    mid: int = 0
    token: bytes = b""
    options: Options = ()
    payload: bytes = b""

    @property
    def is_request(self) -> bool:
        """Whether the code is that of a request."""
        return 0 < self.code < 32

    @property
    def is_response(self) -> bool:
        """Whether the code is that of a response."""
        return 64 <= self.code < 192

    def all(self, number: int) -> Iterator[bytes]:
        """The values of an option."""
        return (value for each, value in self.options if each == number)

    def get(self, number: int) -> bytes | None:
        """The first value of an option, or None."""
        for each, value in self.options:  # called a dozen times a request: no generator
            if each == number:
                return value
        return None

    def uint(self, number: int) -> int | None:
        """The first value as a number (RFC 7252 §3.2), or None."""
        value = self.get(number)
        return None if value is None else int.from_bytes(value, "big")

    def block(self, number: int) -> "Block | None":
        """A Block1 or Block2 option, or None."""
        value = self.uint(number)
        return None if value is None else Block(value >> 4, bool(value & 8), value & 7)

    def texts(self, number: int) -> tuple[str, ...]:
        """The values as text; the codec has checked that they are UTF-8."""
        return tuple([value.decode() for each, value in self.options if each == number])

    @property
    def not_understood(self) -> int | None:
        """The number of an unsupported critical option, or of one that must not be repeated."""
        seen = -1
        for number, _ in self.options:
            if number & 1 and (number not in _UNDERSTOOD or (number == seen and number in _ONCE)):
                return number
            seen = number
        return None


class Block(Struct, frozen=True, gc=False):
    """``number`` of a block, whether ``more`` follow, and its size as an exponent (RFC 7959 §2.2)."""

    number: int
    more: bool
    exponent: int

    @property
    def size(self) -> int:
        """Bytes of a whole block; exponent 7 is for TCP (RFC 8323 §6) and is checked where the option is read."""
        return 16 << self.exponent

    @property
    def start(self) -> int:
        """The block's first byte in the body."""
        return self.number * self.size

    def encode(self) -> bytes:
        """The option's value."""
        return uint(self.number << 4 | self.more << 3 | self.exponent)


def uint(value: int) -> bytes:
    """A number in the fewest bytes (RFC 7252 §3.2); 0 has none."""
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def decode(datagram: bytes) -> Packet:
    """Decodes a message; raises :class:`Malformed`, and nothing else, for any invalid bytes."""
    if len(datagram) < 4 or datagram[0] >> 6 != 1:  # RFC 7252 §3: another version is ignored silently
        raise Malformed("not a CoAP message of version 1")
    kind, length = _KINDS[datagram[0] >> 4 & 3], datagram[0] & 15
    code, mid = datagram[1], int.from_bytes(datagram[2:4], "big")
    reset = mid if kind in {Kind.CON, Kind.NON} else None
    if length > MAX_TOKEN_BYTES or 4 + length > len(datagram):
        raise Malformed("an invalid token length", reset)
    if code == EMPTY and len(datagram) > 4:
        raise Malformed("an empty message with content", reset)
    if (1 << (code >> 5)) & 0b11000010:  # classes 1, 6 and 7 are reserved (RFC 7252 §3)
        raise Malformed("a code of a reserved class", reset)
    options, payload = read_body(datagram, 4 + length, reset)
    return Packet(kind=kind, code=code, mid=mid, token=datagram[4 : 4 + length], options=options, payload=payload)


def read_body(datagram: bytes, at: int, reset: int | None) -> tuple[Options, bytes]:
    """Options and payload, from their start; raises :class:`Malformed`."""
    try:
        return _body(datagram, at)
    except IndexError:
        raise Malformed("a truncated option", reset) from None
    except ValueError as error:  # includes UnicodeDecodeError
        raise Malformed(str(error), reset) from error


def _body(datagram: bytes, at: int) -> tuple[Options, bytes]:
    """Options and payload (RFC 7252 §3.1); raises ValueError or IndexError if they are invalid."""
    found: list[tuple[int, bytes]] = []
    number, end = 0, len(datagram)
    while at < end:
        head = datagram[at]
        at += 1
        if head == 0xFF:
            if at == end:
                raise ValueError("a payload marker without a payload")
            return tuple(found), datagram[at:]
        delta, size = head >> 4, head & 15
        if delta > 12:
            delta, at = _extended(delta, datagram, at)
        if size > 12:
            size, at = _extended(size, datagram, at)
        number += delta
        value = datagram[at : at + size]
        at += size
        if at > end or number > 0xFFFF:
            raise ValueError("a truncated option, or an invalid option number")
        if number in _TEXTS and not value.isascii():
            value.decode()
        found.append((number, value))
    return tuple(found), b""


def _extended(nibble: int, datagram: bytes, at: int) -> tuple[int, int]:
    """A delta or length above 12, and its end."""
    if nibble == 13:
        return datagram[at] + 13, at + 1
    if nibble == 14:
        return (datagram[at] << 8 | datagram[at + 1]) + 269, at + 2
    raise ValueError("15 is reserved for the payload marker")


def encode(packet: Packet) -> bytes:
    """The bytes of a message, whose options are in numerical order."""
    out = bytearray((0x40 | packet.kind << 4 | len(packet.token), packet.code, packet.mid >> 8, packet.mid & 0xFF))
    out += packet.token
    return bytes(out) + write_body(packet)


def write_body(packet: Packet) -> bytes:
    """Options and payload as bytes."""
    out = bytearray()
    before = 0
    for number, value in packet.options:
        delta, size = number - before, len(value)
        before = number
        if delta < 13 and size < 13:
            out.append(delta << 4 | size)
        else:
            first, more = _nibble(delta)
            second, further = _nibble(size)
            out.append(first << 4 | second)
            out += more + further
        out += value
    if packet.payload:
        out.append(0xFF)
        out += packet.payload
    return bytes(out)


def _nibble(value: int) -> tuple[int, bytes]:
    if value < 13:
        return value, b""
    if value < 269:
        return 13, bytes((value - 13,))
    return 14, (value - 269).to_bytes(2, "big")


class Codec(NamedTuple):
    """Encodes and decodes messages; ``decode`` raises :class:`Malformed` and nothing else."""

    decode: Callable[[bytes], Packet]
    encode: Callable[[Packet], bytes]


OWN = Codec(decode, encode)


def options(given: Sequence[tuple[int, bytes | None]]) -> Options:
    """Options in numerical order, without those that are None."""
    return tuple(sorted(((number, value) for number, value in given if value is not None), key=lambda each: each[0]))


def bare(kind: Kind, code: int, mid: int, token: bytes) -> bytes:
    """The bytes of a message without options and payload."""
    return bytes((0x40 | kind << 4 | len(token), code, mid >> 8, mid & 0xFF)) + token


def addressed(packet: Packet, kind: Kind, mid: int, token: bytes) -> Packet:
    """A message as an answer: with the kind, id and token of an answer."""
    return Packet(kind=kind, code=packet.code, mid=mid, token=token, options=packet.options, payload=packet.payload)
