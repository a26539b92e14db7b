"""Bodies longer than a datagram (RFC 7959): assembles Block1, cuts Block2. No sockets, no tasks.

A peer's memory is limited: one message of the maximum length for each body, and few bodies at once.
"""

from collections import OrderedDict
from hashlib import sha256

from attrs import define

from fleetcore_coap.codec import Block, Option, Packet, uint

#: Blocks of 1024 bytes: with options and the DTLS record the datagram stays below 1,280 bytes.
EXPONENT = 6
BLOCK_BYTES = 16 << EXPONENT
#: Unfinished bodies of one peer; the least recently used one is dropped.
_MAX_BODIES = 2
#: Answers of one peer that are fetched block by block and cannot be repeated, because their requests had an effect. The
#: newest one is kept even if it alone is longer: it says which of a thousand readings were refused.
_MAX_ANSWERS_BYTES = 64 * 1024
#: A body or an answer that is not continued for this long is dropped (RFC 7252 §4.8.2: EXCHANGE_LIFETIME).
_FORGOTTEN_S = 247.0

BodyKey = tuple[object, ...]

_OF_A_BLOCK = frozenset({Option.BLOCK1, Option.BLOCK2, Option.OBSERVE, Option.CONTENT_FORMAT})


def key_of(request: Packet) -> BodyKey:
    """The common part of all requests for one body (RFC 7959 §2.4): everything but blocks and uncached options.

    Those are the sizes, and an Echo value, which a device sends only with the first block.
    """
    return (request.code, *(option for option in request.options if _is_common(option[0])))


def _is_common(number: int) -> bool:
    return number not in _OF_A_BLOCK and number & 0x1E != 0x1C  # RFC 7252 §5.4.6: NoCacheKey


@define(eq=False)
class _Body:
    content: bytearray
    touched_s: float = 0.0


class Bodies:
    """The unfinished request bodies of one peer.

    Args:
        limit_bytes: the maximum length of a body.
    """

    __slots__ = ("_bodies", "_limit")

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._bodies: OrderedDict[BodyKey, _Body] = OrderedDict()

    def take(self, request: Packet, now_s: float = 0.0) -> "bytes | Continue | Incomplete | TooLong":
        """The whole body with its last block, or the answer before that."""
        block = request.block(Option.BLOCK1)
        declared = request.uint(Option.SIZE1)
        if block is None:
            return request.payload if len(request.payload) <= self._limit else TooLong()
        key = key_of(request)
        if declared is not None and declared > self._limit:
            self._bodies.pop(key, None)
            return TooLong()
        if block.more and len(request.payload) != block.size:
            return Incomplete("The block's length differs from its option")
        body = self._begin(key) if block.number == 0 else self._bodies.get(key)
        if body is None or len(body.content) < block.start:
            self._bodies.pop(key, None)
            return Incomplete("An earlier block is missing")
        if block.start + len(request.payload) > self._limit:
            del self._bodies[key]
            return TooLong()
        # A block received earlier under another message id replaces itself.
        body.content[block.start :] = request.payload
        body.touched_s = now_s
        self._bodies.move_to_end(key)
        if block.more:
            return Continue(block)
        del self._bodies[key]
        return bytes(body.content)

    def forget(self, now_s: float) -> None:
        """Drops the bodies whose last block came too long ago."""
        while self._bodies:
            key, body = next(iter(self._bodies.items()))
            if now_s - body.touched_s < _FORGOTTEN_S:
                return
            del self._bodies[key]

    def __len__(self) -> int:
        return len(self._bodies)

    def _begin(self, key: BodyKey) -> _Body:
        body = self._bodies[key] = _Body(bytearray())
        while len(self._bodies) > _MAX_BODIES:
            self._bodies.popitem(last=False)
        return body


@define
class Continue:
    """Asks for the next block."""

    block: Block


@define
class Incomplete:
    """The body has a gap, or its blocks contradict each other."""

    why: str


@define
class TooLong:
    """The body exceeds the limit."""


def etag_of(content: bytes) -> bytes:
    """The entity tag of a body without one: 8 bytes of its digest (RFC 7252 §5.10.6 allows no more)."""
    return sha256(content).digest()[:8]


class OutOfRange(Exception):
    """The block does not exist."""


def cut(block: Block | None, size_bytes: int) -> tuple[Block, int] | None:
    """The block for an answer, and its end; None if the whole body fits and no block was requested.

    Raises :class:`OutOfRange` for a block that begins at or after the end.
    """
    if block is None:
        if size_bytes <= BLOCK_BYTES:
            return None
        block = Block(0, False, EXPONENT)
    elif block.exponent > EXPONENT:
        raise OutOfRange
    if block.start >= size_bytes and block.number:
        raise OutOfRange
    end = min(block.start + block.size, size_bytes)
    return Block(block.number, end < size_bytes, block.exponent), end


def block_options(block: Block, size_bytes: int) -> list[tuple[int, bytes | None]]:
    """Block2, and Size2 with the first block (RFC 7959 §4)."""
    return [(Option.BLOCK2, block.encode()), (Option.SIZE2, uint(size_bytes) if block.number == 0 else None)]


class Answers:
    """Long answers to requests with an effect: later blocks are read from here, and the request is not repeated."""

    __slots__ = ("_answers", "_bytes")

    def __init__(self) -> None:
        self._answers: OrderedDict[BodyKey, tuple[float, Packet]] = OrderedDict()
        self._bytes = 0

    def keep(self, request: Packet, response: Packet, now_s: float = 0.0) -> None:
        """Keeps a complete answer for its later blocks."""
        key = key_of(request)
        self._drop(key)
        self._answers[key] = now_s, response
        self._bytes += len(response.payload)
        while self._bytes > _MAX_ANSWERS_BYTES and len(self._answers) > 1:
            self._drop(next(iter(self._answers)))

    def find(self, request: Packet) -> Packet | None:
        """The answer whose later block this request asks for, or None."""
        kept = self._answers.get(key_of(request))
        return None if kept is None else kept[1]

    def forget(self, now_s: float) -> None:
        """Drops old answers."""
        while self._answers:
            key, (made_s, _) = next(iter(self._answers.items()))
            if now_s - made_s < _FORGOTTEN_S:
                return
            self._drop(key)

    def __len__(self) -> int:
        return len(self._answers)

    def _drop(self, key: BodyKey) -> None:
        dropped = self._answers.pop(key, None)
        if dropped is not None:
            self._bytes -= len(dropped[1].payload)
