"""Remembers recent answers, so that a repeated datagram is answered again and not executed again (RFC 7252 §4.5).

A message id alone does not suffice: above 265 messages a second ids repeat within the lifetime of an exchange, and a
restarted device starts again. So the key is message id and token, and the memory belongs to one association: a new
handshake starts with an empty one. Only answers to requests with an effect are kept, and those under OSCORE, together
at most :data:`MAX_BYTES`; for older ones the device's message id (``?id=``) applies. Repeated reads are harmless.
"""

from collections import OrderedDict

from fleetcore_coap.codec import Kind, Method, Option, Packet

#: RFC 7252 §4.8.2: EXCHANGE_LIFETIME, and NON_LIFETIME for non-confirmable messages.
LIFETIME_S = {Kind.CON: 247.0, Kind.NON: 145.0}
#: Answers kept for one peer.
MAX_BYTES = 64 * 1024
#: How often an answer is sent again: a peer repeats its request four times (RFC 7252 §4.8). Without DTLS an attacker
#: could replay a captured one to flood the peer.
MAX_AGAIN = 8
#: An entry's memory in addition to its answer, so that thousands of small ones are limited too.
_ENTRY_BYTES = 200
_IDEMPOTENT = frozenset({Method.GET, Method.FETCH})

Key = tuple[int, bytes]


class Repetitions:
    """The memory of one peer.

    Attributes:
        kept_bytes: its size.
    """

    __slots__ = ("_again", "_answers", "_open", "kept_bytes")

    def __init__(self) -> None:
        self._open: set[Key] = set()
        self._answers: OrderedDict[Key, tuple[float, bytes]] = OrderedDict()
        self._again: dict[Key, int] = {}
        self.kept_bytes = 0

    def under_way(self, request: Packet) -> bool:
        """Whether this request was received before and is not answered yet."""
        return (request.mid, request.token) in self._open

    def answer(self, request: Packet, now_s: float) -> bytes | None:
        """The earlier answer to this request, or None; b"" if it is answered with silence."""
        self._expire(now_s)
        key = request.mid, request.token
        kept = self._answers.get(key)
        if kept is None:
            return None
        self._again[key] = self._again.get(key, 0) + 1
        return kept[1] if self._again[key] <= MAX_AGAIN else b""

    def begin(self, request: Packet) -> None:
        """It is under way."""
        self._open.add((request.mid, request.token))

    def end(self, request: Packet, answer: bytes, now_s: float) -> None:
        """It is answered."""
        key = request.mid, request.token
        self._open.discard(key)
        if request.code in _IDEMPOTENT and request.get(Option.OSCORE) is None:
            return  # a repeated protected request is a replay, also if it only reads
        self._drop(key)
        self._answers[key] = now_s + LIFETIME_S[request.kind], answer
        self.kept_bytes += len(answer) + _ENTRY_BYTES
        while self.kept_bytes > MAX_BYTES:
            self._drop(next(iter(self._answers)))

    def _expire(self, now_s: float) -> None:
        # In order of arrival; a NON among CON expires a little late, which costs limited memory.
        while self._answers:
            key = next(iter(self._answers))
            if self._answers[key][0] > now_s:
                return
            self._drop(key)

    def _drop(self, key: Key) -> None:
        kept = self._answers.pop(key, None)
        self._again.pop(key, None)
        if kept is not None:
            self.kept_bytes -= len(kept[1]) + _ENTRY_BYTES
