"""A device under OSCORE: its context, its session, and the addresses of its messages."""

from collections.abc import Callable

from aiocoap.oscore import RequestIdentifiers
from attrs import frozen

from fleetcore_coap.codec import Packet
from fleetcore_coap.exchanges import MAX_UNDER_WAY
from fleetcore_coap.oscore.numbers import Numbers
from fleetcore_coap.oscore.security import Opened, Security
from fleetcore_coap.oscore.way import Way
from fleetcore_coap.peer import Peer

#: The newest two: an answer under way may still go to the source of its request.
_WAYS = 2
#: Challenges in a burst, and per second on average: each costs a number, and replays are challenged too.
_CHALLENGES, _CHALLENGES_PER_S = 8.0, 1.0


class ProtectedRequest(Packet, frozen=True, kw_only=True, gc=True):
    """A decrypted request, and what its answers need."""

    outer: Packet
    binding: RequestIdentifiers
    way: Way


@frozen
class _Telling:
    """An unacknowledged notification, as it was sent."""

    outer: Packet
    acknowledged: Callable[[], None]
    lost: Callable[[bool], None]


class Secured:
    """The device; see the module. It is the message layer of its :attr:`peer`.

    Args:
        token: the id of the device token that the key belongs to.
        wake: called with an address that needs ticks.

    Attributes:
        peer: set by the creator, before any message.
        until_s: when it ends without a further message.
        way: the address of the newest genuine request.
    """

    def __init__(self, token: str, security: Security, numbers: Numbers, wake: Callable[[Way], None]) -> None:
        self.token, self.security = token, security
        self._numbers, self._wake = numbers, wake
        self.peer: Peer
        self.until_s = 0.0
        self.way: Way | None = None
        self.ways: list[Way] = []
        self._under_way = 0
        self._telling: _Telling | None = None
        self._challenges, self._challenged_s = _CHALLENGES, 0.0
        self.closed = False

    # -- requests --------------------------------------------------------------------------------------------------

    def take(self, way: Way, outer: Packet, opened: Opened, now_s: float) -> Way | None:
        """Handles a new, genuine request; returns an address that this context no longer uses."""
        left = self._follow(way, now_s)
        inner = opened.packet
        request = ProtectedRequest(
            kind=outer.kind,
            code=inner.code,
            mid=outer.mid,
            token=outer.token,
            options=inner.options,
            payload=inner.payload,
            outer=outer,
            binding=opened.binding,
            way=way,
        )
        busy = way.exchanges.full or self._under_way >= MAX_UNDER_WAY
        way.exchanges.begin(outer, now_s)
        self._wake(way)
        self._under_way += 1
        if busy:
            self.answer(request, self.peer.busy(request), now_s)
        else:
            self.peer.handle(request)
        return left

    def may_challenge(self, now_s: float) -> bool:
        """Whether the device may be sent an Echo challenge now."""
        more = (now_s - self._challenged_s) * _CHALLENGES_PER_S
        self._challenges, self._challenged_s = min(_CHALLENGES, self._challenges + more), now_s
        if self._challenges < 1.0:
            return False
        self._challenges -= 1.0
        return True

    def _follow(self, way: Way, now_s: float) -> Way | None:
        if way is self.way:
            return None
        old, self.way = self.way, way
        self.peer.name = way.name
        way.users.add(self)
        self.ways = [*(each for each in self.ways if each is not way), way]
        if old is not None and self._telling is not None:
            old.exchanges.withdraw(self._telling.outer.token)
            self._send(self._telling, now_s)
        if len(self.ways) <= _WAYS:
            return None
        left = self.ways.pop(0)
        left.users.discard(self)
        return left

    # -- the message layer of its peer -----------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Always: its addresses handle repetitions."""
        return True

    def tick(self, now_s: float) -> None:
        """Nothing to do, see :attr:`idle`."""

    def answer(self, request: Packet, response: Packet, now_s: float) -> None:
        """Answers a request that :meth:`take` passed to the peer."""
        assert isinstance(request, ProtectedRequest)
        self._under_way -= 1
        self.seal(response, request.binding, lambda outer: request.way.exchanges.answer(request.outer, outer, now_s))

    def confirm(
        self,
        packet: Packet,
        now_s: float,
        *,
        acknowledged: Callable[[], None] = lambda: None,
        lost: Callable[[bool], None] = lambda _reset: None,
    ) -> bytes:
        """Sends a notification of the observation with its token."""
        observation = self.peer.observations.find(packet.token)
        request = None if observation is None else observation.request
        if not isinstance(request, ProtectedRequest):
            lost(False)
            return b""

        def told() -> None:
            self._telling = None
            acknowledged()

        def untold(reset: bool) -> None:
            self._telling = None
            lost(reset)

        def send(outer: Packet) -> None:
            if self.closed:
                return
            self._telling = _Telling(outer, told, untold)
            self._send(self._telling, now_s)

        self.seal(packet, request.binding, send)
        return b""

    def _send(self, telling: _Telling, now_s: float) -> None:
        assert self.way is not None
        self._wake(self.way)
        self.way.exchanges.confirm(telling.outer, now_s, acknowledged=telling.acknowledged, lost=telling.lost)

    def seal(self, response: Packet, binding: RequestIdentifiers, then: Callable[[Packet], None]) -> None:
        """Protects a response and passes it on; if it needs a sequence number, as soon as there is one."""
        if binding.can_reuse_nonce:
            then(self.security.answer(response, binding))
        else:
            self._numbers.when_there_is_one(lambda: then(self.security.answer(response, binding)))

    def close(self) -> None:
        """It has ended; idempotent."""
        if self.closed:
            return
        self.closed = True
        if self._telling is not None and self.way is not None:
            self.way.exchanges.withdraw(self._telling.outer.token)
        self.peer.close()
