"""The observations of a peer (RFC 7641), and their notifications: one outstanding, with the newest state only.

No sockets, no tasks. Changes are marked; the caller takes the next observation to notify, reads its current state, and
reports the result. So several changes are one notification, and a slow or sleeping peer costs one waiting datagram.
"""

from attrs import define

from fleetcore.model.message import MessageType
from fleetcore_coap.codec import Packet

#: Observations of one peer: three kinds of state of itself and of some leaves. Further requests are answered once.
MAX = 64
#: RFC 7641 §3.4: sequence numbers have 24 bits.
_SEQUENCES = 1 << 24


@define(eq=False)
class Observation:
    """A state that a peer observes.

    Attributes:
        request: the one that began it: its token is in each notification, and its Accept gives the format.
        sequence: the last notification's.
        changed: there is a new state to send.
    """

    request: Packet
    row: MessageType
    subject: str
    sequence: int = 0
    changed: bool = False

    def next(self) -> int:
        """The sequence number of the next notification."""
        self.sequence = (self.sequence + 1) % _SEQUENCES
        return self.sequence


class Observations:
    """The observations of one peer.

    Attributes:
        outstanding: a notification is under way.
    """

    __slots__ = ("_by_token", "outstanding")

    def __init__(self) -> None:
        self._by_token: dict[bytes, Observation] = {}
        self.outstanding = False

    def __len__(self) -> int:
        return len(self._by_token)

    def begin(self, request: Packet, row: MessageType, subject: str) -> Observation | None:
        """Registers a request, or renews its registration; None if there are too many already."""
        known = self._by_token.pop(request.token, None)
        if len(self._by_token) >= MAX:
            return None
        made = Observation(request, row, subject, sequence=0 if known is None else known.sequence)
        self._by_token[request.token] = made
        return made

    def end(self, token: bytes) -> None:
        """The peer has ended it, or cannot be reached."""
        self._by_token.pop(token, None)

    def find(self, token: bytes) -> Observation | None:
        """The observation that a request with this token began."""
        return self._by_token.get(token)

    def changed(self, row: MessageType, subject: str) -> bool:
        """Marks the observations of this state; returns whether there are any."""
        found = [each for each in self._by_token.values() if each.row is row and each.subject == subject]
        for each in found:
            each.changed = True
        return bool(found)

    def take(self) -> Observation | None:
        """The next observation to notify; None while a notification is outstanding."""
        if self.outstanding:
            return None
        for token, each in self._by_token.items():
            if each.changed:
                each.changed = False
                self.outstanding = True
                # Moved to the end, so that one that changes all the time does not starve the others.
                self._by_token[token] = self._by_token.pop(token)
                return each
        return None

    def holds(self, observation: Observation) -> bool:
        """Whether it is still active."""
        return self._by_token.get(observation.request.token) is observation
