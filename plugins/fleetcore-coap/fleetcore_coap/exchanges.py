"""The message layer of one peer (RFC 7252 §4): ids, confirmation, repetition and reset. No sockets, no tasks.

Datagrams go in by :meth:`Exchanges.receive` and out by the function that it was made with; time is told to it. Both
sides of CoAP use it: the endpoint for requests and notifications, the client for its requests.
"""

from collections.abc import Callable
from random import Random

from attrs import define, field

from fleetcore_coap.codec import EMPTY, OWN, Codec, Kind, Malformed, Packet, addressed, bare
from fleetcore_coap.repetitions import Repetitions

#: RFC 7252 §4.8: seconds to the first repetition at least, and what that is multiplied with at most.
ACK_TIMEOUT_S, ACK_RANDOM_FACTOR = 2.0, 1.5
MAX_RETRANSMIT = 4
#: A request that is not answered by then is acknowledged empty, before the peer repeats it at ACK_TIMEOUT_S.
PROCESSING_S = 1.0
#: Requests of one peer that are worked on; the next is answered that it may come later. NSTART is 1 (RFC 7252 §4.7).
MAX_UNDER_WAY = 32


@define(eq=False)
class _Confirmable:
    """A message of ours that is not acknowledged yet. ``lost`` is told once; ``acknowledged`` once instead."""

    datagram: bytes
    token: bytes
    wait_s: float
    due_s: float
    acknowledged: Callable[[], None]
    lost: Callable[[bool], None]
    sent: int = 1


@define(eq=False)
class _Owed:
    """A request that is not answered yet; ``due_s`` is when it is acknowledged empty, None once it is."""

    request: Packet
    due_s: float | None = field()


class Exchanges:
    """See the module.

    Args:
        send: takes a datagram; never blocks.
        random: for message ids and time-outs (RFC 7252 §4.4 and §4.2).
        busy: how a request beyond :data:`MAX_UNDER_WAY` is answered.
        codec: of what is read and written; ours by default.
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
        """Requests of the peer that are not answered yet."""
        return len(self._owed)

    @property
    def idle(self) -> bool:
        """Nothing is under way, so :meth:`tick` has nothing to do."""
        return not self._owed and not self._confirmables

    def close(self) -> None:
        """The peer is gone: nothing more comes of it, and what was kept for it is let go."""
        self._busy = None
        self._confirmables.clear()
        self.repetitions = Repetitions()

    # -- in --------------------------------------------------------------------------------------------------------

    def receive(self, datagram: bytes, now_s: float) -> Packet | None:
        """A request or a response that is new, for the caller to act on; all else is dealt with here."""
        try:
            packet = self._codec.decode(datagram)
        except Malformed as error:
            if error.mid is not None:
                self._reset(error.mid)
            return None
        return self.take(packet, now_s)

    def take(self, packet: Packet, now_s: float) -> Packet | None:
        """As :meth:`receive`, of a datagram that has been read already."""
        if packet.kind in {Kind.ACK, Kind.RST}:
            return self._acknowledged(packet)
        if packet.is_request:
            return self._request(packet, now_s)
        if packet.is_response:
            return packet
        self._reset(packet.mid)  # an empty CON is a ping (RFC 7252 §4.3); anything else is not understood
        return None

    def _acknowledged(self, packet: Packet) -> Packet | None:
        waiting = self._confirmables.pop(packet.mid, None)
        if waiting is None:
            return None
        if packet.kind is Kind.RST:
            waiting.lost(True)
            return None
        waiting.acknowledged()
        # An answer on the acknowledgement is one to that message alone (RFC 7252 §5.3.2).
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
        """As many requests are under way as may be."""
        return len(self._owed) >= MAX_UNDER_WAY

    def repeated(self, request: Packet, now_s: float) -> bool:
        """Whether a request has come before; then it is dealt with."""
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
        """A request that is new is worked on from now on; :meth:`answer` answers it."""
        self.repetitions.begin(request)
        due_s = now_s + PROCESSING_S if request.kind is Kind.CON else None
        self._owed[request.mid, request.token] = _Owed(request, due_s)

    def _answer_busy(self, request: Packet) -> None:
        """Nothing is kept of it: the datagram sent again is a new attempt."""
        if self._busy is not None:
            kind, mid = (Kind.ACK, request.mid) if request.kind is Kind.CON else (Kind.NON, self.next_mid())
            self._send(self._codec.encode(addressed(self._busy(request), kind, mid, request.token)))

    # -- out -------------------------------------------------------------------------------------------------------

    def answer(self, request: Packet, response: Packet, now_s: float) -> None:
        """Answers a request that :meth:`receive` gave; on its acknowledgement where that has not gone ahead.

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

        ``lost(reset)`` is called where the peer resets it, or after the last repetition stays unanswered.
        """
        mid = self.next_mid()
        datagram = self._codec.encode(addressed(packet, Kind.CON, mid, packet.token))
        wait_s = ACK_TIMEOUT_S * self._random.uniform(1.0, ACK_RANDOM_FACTOR)
        self._confirmables[mid] = _Confirmable(datagram, packet.token, wait_s, now_s + wait_s, acknowledged, lost)
        self._send(datagram)
        return datagram

    def withdraw(self, token: bytes) -> None:
        """Sends the messages with this token no more; nothing is told of them."""
        for mid, waiting in list(self._confirmables.items()):
            if waiting.token == token:
                del self._confirmables[mid]

    def acknowledge(self, packet: Packet) -> None:
        """Acknowledges a response or notification that came by itself."""
        if packet.kind is Kind.CON:
            self._acknowledge(packet.mid)

    def refuse(self, packet: Packet) -> None:
        """Resets a message that means nothing here, a notification that was not asked for."""
        if packet.kind is not Kind.ACK:
            self._reset(packet.mid)

    def next_mid(self) -> int:
        """The next message id that no message of ours waits under."""
        while True:
            self._mid = self._mid + 1 & 0xFFFF
            if self._mid not in self._confirmables:
                return self._mid

    def tick(self, now_s: float) -> None:
        """Repeats what is due, gives up what is lost, and acknowledges empty what takes long."""
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
