"""The budget of a process: whether a listener may have another connection, and an address another one of it.

Each listener is guaranteed a part of the descriptors and shares the rest. So connections to one listener cannot shut
out the others, and the reserve keeps the control socket and the store working when all are full.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable

from fleetcore.listening.descriptors import most
from fleetcore.listening.limits import ListenerLimits

_log = logging.getLogger(__name__)

#: How often a limit that is reached again and again is logged.
_SAY_EVERY_S = 60.0
_RESERVE_PART, _MIN_RESERVE, _MAX_RESERVE = 8, 64, 1024
#: The part of the budget that is divided among the listeners beforehand.
_SURE = 0.5
#: The part of a listener's connections that one address may have.
_ADDRESS_PART = 0.75


class Budget:
    """What all listeners of a fleet share.

    Args:
        descriptors: how many descriptors the process may have open.

    Attributes:
        reached: how often each limit was reached, by listener and limit.
        handshakes_under_way: by listener, where the listener reports them.
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
        reserve = self.limits.reserve or min(_MAX_RESERVE, max(_MIN_RESERVE, whole // _RESERVE_PART))
        return max(len(self._shares) or 1, whole - reserve)

    @property
    def shares(self) -> "tuple[Share, ...]":
        """The open listeners."""
        return tuple(self._shares)

    def enter(self, name: str, freed: Callable[[], None] = lambda: None) -> "Share":
        """Opens a listener's share; ``freed`` is called when there may be room again after it was full."""
        share = Share(self, name, freed)
        self._shares.append(share)
        return share

    def leave(self, share: "Share") -> None:
        """Closes a listener's share."""
        self._shares.remove(share)

    def has_room(self, share: "Share") -> bool:
        """Whether a listener may have another connection."""
        whole, sure = self._divided()
        if share.open < sure:
            return True
        beyond = sum(max(0, other.open - sure) for other in self._shares)
        return beyond < whole - sure * len(self._shares)

    def most_of_one(self) -> int:
        """What a listener may have while the others stay within their guaranteed parts."""
        whole, sure = self._divided()
        return whole - sure * (len(self._shares) - 1)

    def per_address(self, places: int) -> int:
        """How many of a listener's connections one address may have."""
        return self.limits.per_address or max(1, int(places * _ADDRESS_PART))

    def _divided(self) -> tuple[int, int]:
        """All connections, and how many of them each listener is guaranteed."""
        whole = self.connections
        return whole, int(whole * _SURE) // len(self._shares)

    def freed(self) -> None:
        """Reports that a connection ended."""
        for share in self._shares:
            if share.wanting:
                share.wanting = False
                share.freed()

    def note(self, name: str, bound: str, remedy: str) -> None:
        """Counts that a limit was reached, and logs it once a minute."""
        key = name, bound
        self.reached[key] += 1
        now = self._now_s()
        said, count = self._said.get(key, (float("-inf"), 0))
        if now - said >= _SAY_EVERY_S:
            times = self.reached[key] - count
            _log.warning("Listener %s has reached its limit %s (%d times): %s", name, bound, times, remedy)
            self._said[key] = now, self.reached[key]


class Share:
    """One listener's part of the budget.

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
        """Whether another connection may be accepted; if not, ``freed`` is called once there is room."""
        if self._budget.has_room(self):
            return True
        self.wanting = True
        self._budget.note(self.name, "descriptors", "raise the limit on open files, LimitNOFILE= in a systemd unit")
        return False

    def enter(self, address: str) -> bool:
        """Counts a connection in; False where its address already has as many as it may."""
        most = self._budget.per_address(self._budget.most_of_one())
        if self._by_address[address] >= most:
            self._budget.note(self.name, "per_address", f"{address} has {most}; [listeners] per_address limits them")
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
        """Reports that a limit of this listener was reached."""
        self._budget.note(self.name, bound, remedy)
