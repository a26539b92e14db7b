"""What was answered lately, so that a repeated datagram is answered again and not acted on again (RFC 7252 §4.5).

A message id alone does not do: above 265 messages a second ids come again within the lifetime of an exchange, and a
device that has restarted begins anew. So the key is message id and token, and the memory is of one association: a new
handshake begins an empty one. Only the answers to requests that change something are kept, and those under OSCORE, of
all at most :data:`MAX_BYTES`; what is older rests on the message id of the device (``?id=``). Reading again is
harmless.
"""

from collections import OrderedDict

from fleetcore_coap.codec import Kind, Method, Option, Packet

#: RFC 7252 §4.8.2: EXCHANGE_LIFETIME, and NON_LIFETIME for what is not confirmed.
LIFETIME_S = {Kind.CON: 247.0, Kind.NON: 145.0}
#: Answers kept for one peer.
MAX_BYTES = 64 * 1024
#: How often an answer is sent again: a peer repeats its request four times (RFC 7252 §4.8). Without DTLS anybody can
#: send a captured one again in its name, and have it flooded.
MAX_AGAIN = 8
#: An entry's own memory beside its answer, so that thousands of small ones are bounded too.
_ENTRY_BYTES = 200
_IDEMPOTENT = frozenset({Method.GET, Method.FETCH})

Key = tuple[int, bytes]


class Repetitions:
    """The memory of one peer.

    Attributes:
        kept_bytes: what it holds.
    """

    __slots__ = ("_again", "_answers", "_open", "kept_bytes")

    def __init__(self) -> None:
        self._open: set[Key] = set()
        self._answers: OrderedDict[Key, tuple[float, bytes]] = OrderedDict()
        self._again: dict[Key, int] = {}
        self.kept_bytes = 0

    def under_way(self, request: Packet) -> bool:
        """Whether this request has come before and is not answered yet."""
        return (request.mid, request.token) in self._open

    def answer(self, request: Packet, now_s: float) -> bytes | None:
        """The answer that was given to this request, or None; b"" where it is answered with silence."""
        self._expire(now_s)
        key = request.mid, request.token
        kept = self._answers.get(key)
        if kept is None:
            return None
        self._again[key] = self._again.get(key, 0) + 1
        return kept[1] if self._again[key] <= MAX_AGAIN else b""

    def begin(self, request: Packet) -> None:
        """It is being worked on."""
        self._open.add((request.mid, request.token))

    def end(self, request: Packet, answer: bytes, now_s: float) -> None:
        """It is answered."""
        key = request.mid, request.token
        self._open.discard(key)
        if request.code in _IDEMPOTENT and request.get(Option.OSCORE) is None:
            return  # a protected one is a replay where it comes again, also one that reads
        self._drop(key)
        self._answers[key] = now_s + LIFETIME_S[request.kind], answer
        self.kept_bytes += len(answer) + _ENTRY_BYTES
        while self.kept_bytes > MAX_BYTES:
            self._drop(next(iter(self._answers)))

    def _expire(self, now_s: float) -> None:
        # In the order of their coming; a NON among CON goes a little late, which costs memory that is bounded anyway.
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
