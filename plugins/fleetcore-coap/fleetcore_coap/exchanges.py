"""The message layer of one peer (RFC 7252 §4): ids, confirmation, repetition and reset. No sockets, no tasks.

Datagrams go in by :meth:`Exchanges.receive` and out by its ``send`` function; the caller passes the time. Both sides of
CoAP use it: the endpoint for requests and notifications, the client for its requests.
"""

from collections.abc import Callable
from random import Random

from attrs import define, field

from fleetcore_coap.codec import EMPTY, OWN, Codec, Kind, Malformed, Packet, addressed, bare
from fleetcore_coap.repetitions import Repetitions

#: RFC 7252 §4.8: the minimum seconds to the first repetition, and its maximum random factor.
ACK_TIMEOUT_S, ACK_RANDOM_FACTOR = 2.0, 1.5
MAX_RETRANSMIT = 4
#: A request not answered by then gets an empty acknowledgement, before the peer repeats it at ACK_TIMEOUT_S.
PROCESSING_S = 1.0
#: Requests of one peer under way; further ones are answered 5.03. A conforming client sends one at a time (NSTART is 1,
#: RFC 7252 §4.7).
MAX_UNDER_WAY = 32


@define(eq=False)
class _Confirmable:
    """An unacknowledged message of ours. Either ``lost`` or ``acknowledged`` is called, once."""

    datagram: bytes
    token: bytes
    wait_s: float
    due_s: float
    acknowledged: Callable[[], None]
    lost: Callable[[bool], None]
    sent: int = 1


@define(eq=False)
class _Owed:
    """An unanswered request; ``due_s`` is when it gets an empty acknowledgement, None afterwards."""

    request: Packet
    due_s: float | None = field()


class Exchanges:
    """The message layer of one peer; see the module.

    Args:
        send: takes a datagram; never blocks.
        random: for message ids and timeouts (RFC 7252 §4.4 and §4.2).
        busy: answers a request beyond :data:`MAX_UNDER_WAY`.
        codec: reads and writes messages; ours by default.
    """

    __slots__ = ("_busy", "_codec", "_confirmables", "_mid", "_owed", "_random", "_send", "repetitions")

    def __init__(
        self,
        send: Callable[[bytes], None],
        random: Random,
        busy: Callable[[Packet], Packet] | None = None,
        *,
        codec: Codec = OWN,
    ) -> None:
        self._send, self._random, self._busy, self._codec = send, random, busy, codec
        self._mid = random.getrandbits(16)
        self._confirmables: dict[int, _Confirmable] = {}
        self._owed: dict[tuple[int, bytes], _Owed] = {}
        self.repetitions = Repetitions()

    @property
    def under_way(self) -> int:
        """Unanswered requests of the peer."""
        return len(self._owed)

    @property
    def idle(self) -> bool:
        """Nothing is under way, so :meth:`tick` has nothing to do."""
        return not self._owed and not self._confirmables

    def close(self) -> None:
        """The peer is gone: nothing more is sent, and its state is released."""
        self._busy = None
        self._confirmables.clear()
        self.repetitions = Repetitions()

    # -- in --------------------------------------------------------------------------------------------------------

    def receive(self, datagram: bytes, now_s: float) -> Packet | None:
        """A new request or response, for the caller to handle; everything else is handled here."""
        try:
            packet = self._codec.decode(datagram)
        except Malformed as error:
            if error.mid is not None:
                self._reset(error.mid)
            return None
        return self.take(packet, now_s)

    def take(self, packet: Packet, now_s: float) -> Packet | None:
        """Like :meth:`receive`, for a decoded datagram."""
        if packet.kind in {Kind.ACK, Kind.RST}:
            return self._acknowledged(packet)
        if packet.is_request:
            return self._request(packet, now_s)
        if packet.is_response:
            return packet
        self._reset(packet.mid)  # an empty CON is a ping (RFC 7252 §4.3); anything else is unknown
        return None

    def _acknowledged(self, packet: Packet) -> Packet | None:
        waiting = self._confirmables.pop(packet.mid, None)
        if waiting is None:
            return None
        if packet.kind is Kind.RST:
            waiting.lost(True)
            return None
        waiting.acknowledged()
        # An answer on an acknowledgement belongs only to that message (RFC 7252 §5.3.2).
        return packet if packet.is_response and packet.token == waiting.token else None

    def _request(self, request: Packet, now_s: float) -> Packet | None:
        if self.repeated(request, now_s):
            return None
        if self.full:
            self._answer_busy(request)
            return None
        self.begin(request, now_s)
        return request

    @property
    def full(self) -> bool:
        """Whether the maximum number of requests is under way."""
        return len(self._owed) >= MAX_UNDER_WAY

    def repeated(self, request: Packet, now_s: float) -> bool:
        """Whether a request is a repetition; if so, it is handled."""
        if self.repetitions.under_way(request):
            owed = self._owed.get((request.mid, request.token))
            if owed is not None and owed.due_s is None and request.kind is Kind.CON:
                self._acknowledge(request.mid)  # the acknowledgement was lost
            return True
        known = self.repetitions.answer(request, now_s)
        if known:
            self._send(known)
        return known is not None

    def begin(self, request: Packet, now_s: float) -> None:
        """Starts a new request; :meth:`answer` answers it."""
        self.repetitions.begin(request)
        due_s = now_s + PROCESSING_S if request.kind is Kind.CON else None
        self._owed[request.mid, request.token] = _Owed(request, due_s)

    def _answer_busy(self, request: Packet) -> None:
        """Nothing is remembered: the same datagram sent again is a new attempt."""
        if self._busy is not None:
            kind, mid = (Kind.ACK, request.mid) if request.kind is Kind.CON else (Kind.NON, self.next_mid())
            self._send(self._codec.encode(addressed(self._busy(request), kind, mid, request.token)))

    # -- out -------------------------------------------------------------------------------------------------------

    def answer(self, request: Packet, response: Packet, now_s: float) -> None:
        """Answers a request from :meth:`receive`; on its acknowledgement unless that was sent before.

        ``response`` has code, options and payload.
        """
        owed = self._owed.pop((request.mid, request.token), None)
        if owed is None:
            return
        if request.kind is Kind.CON and owed.due_s is not None and not response.options and not response.payload:
            datagram = bare(Kind.ACK, response.code, request.mid, request.token)
            self._send(datagram)
        elif request.kind is Kind.CON and owed.due_s is not None:
            datagram = self._codec.encode(addressed(response, Kind.ACK, request.mid, request.token))
            self._send(datagram)
        elif request.kind is Kind.CON:
            datagram = self.confirm(addressed(response, Kind.CON, 0, request.token), now_s)
        else:
            datagram = self._codec.encode(addressed(response, Kind.NON, self.next_mid(), request.token))
            self._send(datagram)
        self.repetitions.end(request, datagram, now_s)

    def confirm(
        self,
        packet: Packet,
        now_s: float,
        *,
        acknowledged: Callable[[], None] = lambda: None,
        lost: Callable[[bool], None] = lambda _reset: None,
    ) -> bytes:
        """Sends a message until the peer acknowledges it; returns the datagram.

        ``lost(reset)`` is called if the peer resets it, or if the last repetition stays unanswered.
        """
        mid = self.next_mid()
        datagram = self._codec.encode(addressed(packet, Kind.CON, mid, packet.token))
        wait_s = ACK_TIMEOUT_S * self._random.uniform(1.0, ACK_RANDOM_FACTOR)
        self._confirmables[mid] = _Confirmable(datagram, packet.token, wait_s, now_s + wait_s, acknowledged, lost)
        self._send(datagram)
        return datagram

    def withdraw(self, token: bytes) -> None:
        """Stops sending messages with this token; nothing is called for them."""
        for mid, waiting in list(self._confirmables.items()):
            if waiting.token == token:
                del self._confirmables[mid]

    def acknowledge(self, packet: Packet) -> None:
        """Acknowledges a separate response or a notification."""
        if packet.kind is Kind.CON:
            self._acknowledge(packet.mid)

    def refuse(self, packet: Packet) -> None:
        """Resets an unexpected message, such as a notification that was not requested."""
        if packet.kind is not Kind.ACK:
            self._reset(packet.mid)

    def next_mid(self) -> int:
        """The next message id that no waiting message of ours has."""
        while True:
            self._mid = self._mid + 1 & 0xFFFF
            if self._mid not in self._confirmables:
                return self._mid

    def tick(self, now_s: float) -> None:
        """Repeats what is due, gives up what is lost, and acknowledges slow requests."""
        for owed in self._owed.values():
            if owed.due_s is not None and owed.due_s <= now_s:
                owed.due_s = None
                self._acknowledge(owed.request.mid)
        for mid, waiting in list(self._confirmables.items()):
            if waiting.due_s > now_s:
                continue
            if waiting.sent > MAX_RETRANSMIT:
                del self._confirmables[mid]
                waiting.lost(False)
                continue
            waiting.sent += 1
            waiting.wait_s *= 2
            waiting.due_s = now_s + waiting.wait_s
            self._send(waiting.datagram)

    def _acknowledge(self, mid: int) -> None:
        self._send(self._codec.encode(Packet(kind=Kind.ACK, code=EMPTY, mid=mid)))

    def _reset(self, mid: int) -> None:
        self._send(self._codec.encode(Packet(kind=Kind.RST, code=EMPTY, mid=mid)))
