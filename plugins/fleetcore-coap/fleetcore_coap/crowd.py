"""Which association has to go where there are too many of them. No sockets, no tasks.

An address has a part of the places, so that it cannot take all; a device has a few, and one that comes again is not
kept out by those it has forgotten. Strangers, peers that have not shown a credential of a device, go before devices:
else a peer without any credential could put out the devices that sleep longest.
"""

from collections.abc import Iterable
from itertools import islice
from typing import Generic, Protocol, TypeVar

#: A handshake takes three round trips; one that is not complete by then may be taken for one that never will be.
STALLED_S = 5.0


class Guest(Protocol):
    """What is asked of a place; hashable by identity."""

    @property
    def network(self) -> str:
        """Its address, as caps count addresses."""


G = TypeVar("G", bound=Guest)
V = TypeVar("V")


class Pending(Generic[G]):
    """Handshakes under way. Seconds are those of the monotonic clock.

    Where there is no room for one more its hello waits: one that ended another would have a herd that comes at once
    end each other for ever. Only a handshake that has stalled has to go for one of an address that has fewer.

    Args:
        most: of all together.
        per_address: of one address.
    """

    def __init__(self, most: int, per_address: int) -> None:
        self._most, self._per_address = most, per_address
        #: When each has begun; of an address, the first stands first.
        self._by_network: dict[str, dict[G, float]] = {}
        self._count = 0

    def full(self, network: str, now_s: float) -> str:
        """The bound that another handshake of an address would pass; empty where there is room.

        Where all places are taken there is room for an address that has fewer than one with a stalled handshake: see
        :meth:`enter`.
        """
        own = len(self._by_network.get(network, ()))
        if own >= self._per_address:
            return "per_address"
        if self._count >= self._most and own + 1 >= self._most_with_stalled(now_s):
            return "handshakes"
        return ""

    def closed(self, now_s: float) -> bool:
        """Whether no address whatever has room: one look for a crowd of addresses that wait."""
        return self._count >= self._most and self._most_with_stalled(now_s) <= 1

    def enter(self, guest: G, now_s: float) -> G | None:
        """Counts one in for which there is room; returns the one of the most crowded address that has to go for it."""
        crowded = None if self._count < self._most else self._crowded()
        self._by_network.setdefault(guest.network, {})[guest] = now_s
        self._count += 1
        return None if crowded is None else next(iter(crowded))

    def leave(self, guest: G) -> None:
        """Counts it out; idempotent."""
        if _discard(self._by_network, guest.network, guest):
            self._count -= 1

    def _crowded(self) -> dict[G, float]:
        return max(self._by_network.values(), key=len)

    def _most_with_stalled(self, now_s: float) -> int:
        """How many the most crowded address has, where its first one has stalled; else 0."""
        crowded = self._crowded()
        return len(crowded) if now_s - next(iter(crowded.values())) >= STALLED_S else 0


class Crowd(Generic[G]):
    """Associations that live.

    Args:
        most: of all together.
        per_address: of one address.
        per_identity: of one device.
    """

    def __init__(self, most: int, per_address: int, per_identity: int) -> None:
        self._most, self._per_address, self._per_identity = most, per_address, per_identity
        #: Here, and of each address, those silent for the longest stand first.
        self._strangers: dict[G, None] = {}
        self._devices: dict[G, str] = {}
        self._by_network: dict[str, dict[G, None]] = {}
        self._by_identity: dict[str, dict[G, None]] = {}

    def enter(self, guest: G) -> tuple[str, G] | None:
        """A stranger comes; returns the bound that is passed by it, and the one that has to go."""
        self._strangers[guest] = None
        own = self._by_network.setdefault(guest.network, {})
        own[guest] = None
        if len(own) > self._per_address:
            return "per_address", self._first(guest, own)
        if len(self._strangers) + len(self._devices) > self._most:
            # The new one is the last of the strangers.
            return "associations", self._first(guest, (*islice(self._strangers, 2), *islice(self._devices, 1)))
        return None

    def identified(self, guest: G, identity: str) -> G | None:
        """It is a device; returns the oldest one of the device's where it has too many."""
        if guest not in self._strangers:  # it has ended meanwhile
            return None
        del self._strangers[guest]
        self._devices[guest] = identity
        own = self._by_identity.setdefault(identity, {})
        own[guest] = None
        return next(iter(own)) if len(own) > self._per_identity else None

    def heard(self, guest: G) -> None:
        """It has said something."""
        if guest in self._devices:
            self._devices[guest] = self._devices.pop(guest)
        elif guest in self._strangers:
            del self._strangers[guest]
            self._strangers[guest] = None
        else:
            return
        own = self._by_network[guest.network]
        del own[guest]
        own[guest] = None

    def leave(self, guest: G) -> None:
        """It is over; idempotent."""
        self._strangers.pop(guest, None)
        identity = self._devices.pop(guest, None)
        if identity is not None:
            _discard(self._by_identity, identity, guest)
        _discard(self._by_network, guest.network, guest)

    def _first(self, new: G, among: Iterable[G]) -> G:
        """The stranger, else the device, that is not the new one and comes first."""
        found = [each for each in among if each is not new]
        return next((each for each in found if each in self._strangers), found[0]) if found else new


def _discard(by: dict[str, dict[G, V]], key: str, guest: G) -> bool:
    held = by.get(key)
    if held is None or guest not in held:
        return False
    del held[guest]
    if not held:
        del by[key]
    return True
