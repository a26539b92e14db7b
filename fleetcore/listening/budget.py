"""The budget of a process: which listener may have another connection, and which address another one of it.

Each listener is sure of a part of the descriptors; the rest is for those that need it. So no number of connections to
one of them shuts the others, and the reserve keeps the control socket and the store working when all are full.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable

from fleetcore.listening.descriptors import most
from fleetcore.listening.limits import ListenerLimits

_log = logging.getLogger(__name__)

#: A bound that goes on being reached is written into the log this often.
_SAY_EVERY_S = 60.0
_RESERVE_PART, _RESERVE_LEAST, _RESERVE_MOST = 8, 64, 1024
#: The part of the budget that is divided among the listeners beforehand.
_SURE = 0.5
#: The part of what a listener may have that one address may take of it.
_ADDRESS_PART = 0.75


class Budget:
    """What all listeners of a fleet share.

    Args:
        descriptors: how many descriptors the process may have open.

    Attributes:
        reached: how often each bound was reached, by listener and bound.
        handshakes_under_way: by listener, as far as they say so.
    """

    def __init__(
        self,
        limits: ListenerLimits | None = None,
        *,
        descriptors: Callable[[], int] = most,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits = limits or ListenerLimits()
        self._descriptors, self._now_s = descriptors, now_s
        self._shares: list[Share] = []
        self._said: dict[tuple[str, str], tuple[float, int]] = {}
        self.reached: Counter[tuple[str, str]] = Counter()

    @property
    def connections(self) -> int:
        """How many connections all listeners may have together."""
        whole = self._descriptors()
        reserve = self.limits.reserve or min(_RESERVE_MOST, max(_RESERVE_LEAST, whole // _RESERVE_PART))
        return max(len(self._shares) or 1, whole - reserve)

    @property
    def shares(self) -> "tuple[Share, ...]":
        """The open listeners."""
        return tuple(self._shares)

    def enter(self, name: str, freed: Callable[[], None] = lambda: None) -> "Share":
        """A listener opens; ``freed`` is called when there may be room again after there was none."""
        share = Share(self, name, freed)
        self._shares.append(share)
        return share

    def leave(self, share: "Share") -> None:
        """It has closed."""
        self._shares.remove(share)

    def has_room(self, share: "Share") -> bool:
        """Whether a listener may have another connection."""
        whole, sure = self._divided()
        if share.open < sure:
            return True
        beyond = sum(max(0, other.open - sure) for other in self._shares)
        return beyond < whole - sure * len(self._shares)

    def most_of_one(self) -> int:
        """What a listener may have while the others have no more than they are sure of."""
        whole, sure = self._divided()
        return whole - sure * (len(self._shares) - 1)

    def per_address(self, places: int) -> int:
        """What one address may have of so many places of a listener."""
        return self.limits.per_address or max(1, int(places * _ADDRESS_PART))

    def _divided(self) -> tuple[int, int]:
        """All connections, and how many of them each listener is sure of."""
        whole = self.connections
        return whole, int(whole * _SURE) // len(self._shares)

    def freed(self) -> None:
        """A connection ended."""
        for share in self._shares:
            if share.wanting:
                share.wanting = False
                share.freed()

    def note(self, name: str, bound: str, remedy: str) -> None:
        """A bound was reached: it is counted, and said once a minute."""
        key = name, bound
        self.reached[key] += 1
        now = self._now_s()
        said, count = self._said.get(key, (float("-inf"), 0))
        if now - said >= _SAY_EVERY_S:
            times = self.reached[key] - count
            _log.warning("Listener %s has reached its bound %s (%d times): %s", name, bound, times, remedy)
            self._said[key] = now, self.reached[key]


class Share:
    """One listener's part.

    Attributes:
        open: its connections.
        wanting: it waits for room.
    """

    def __init__(self, budget: Budget, name: str, freed: Callable[[], None]) -> None:
        self._budget, self.name, self.freed = budget, name, freed
        self.open = 0
        self.wanting = False
        self._by_address: Counter[str] = Counter()

    def has_room(self) -> bool:
        """Whether another connection may be taken; where not, ``freed`` is called once one may."""
        if self._budget.has_room(self):
            return True
        self.wanting = True
        self._budget.note(self.name, "descriptors", "raise the limit on open files, LimitNOFILE= in a systemd unit")
        return False

    def enter(self, address: str) -> bool:
        """Counts a connection in; False where its address has as many as it may."""
        most = self._budget.per_address(self._budget.most_of_one())
        if self._by_address[address] >= most:
            self._budget.note(self.name, "per_address", f"{address} has {most}; [listeners] per_address bounds them")
            return False
        self._by_address[address] += 1
        self.open += 1
        return True

    def leave(self, address: str) -> None:
        """Counts it out."""
        self.open -= 1
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]
        self._budget.freed()

    def note(self, bound: str, remedy: str) -> None:
        """A bound of this listener was reached."""
        self._budget.note(self.name, bound, remedy)
