"""Decides which association must end when there are too many. No sockets, no tasks.

An address may have a part of the places, so that it cannot take all; a device may have a few, so that forgotten
associations do not keep it out. Unauthenticated peers end before devices: otherwise a peer without any credential could
push out the devices that sleep longest.
"""

from collections.abc import Iterable
from itertools import islice
from typing import Generic, Protocol, TypeVar

#: A handshake takes three round trips; one that is unfinished after this may never finish.
STALLED_S = 5.0


class Peer(Protocol):
    """An occupant of a place; hashable by identity."""

    @property
    def network(self) -> str:
        """Its address, as limits count addresses."""


P = TypeVar("P", bound=Peer)
V = TypeVar("V")


class Pending(Generic[P]):
    """Handshakes under way. Seconds are those of the monotonic clock.

    If there is no room for another, its hello waits: if a new one ended an old one, clients that connect at the same
    time would end each other forever. Only a stalled handshake ends, for one of an address that has fewer.

    Args:
        most: the limit of all together.
        per_address: the limit of one address.
    """

    def __init__(self, most: int, per_address: int) -> None:
        self._most, self._per_address = most, per_address
        #: The start of each; within an address, oldest first.
        self._by_network: dict[str, dict[P, float]] = {}
        self._count = 0

    def full(self, network: str, now_s: float) -> str:
        """The limit that another handshake of an address would exceed; empty if there is room.

        If all places are taken there is room for an address with fewer than one with a stalled handshake: see
        :meth:`enter`.
        """
        own = len(self._by_network.get(network, ()))
        if own >= self._per_address:
            return "per_address"
        if self._count >= self._most and own + 1 >= self._most_with_stalled(now_s):
            return "handshakes"
        return ""

    def closed(self, now_s: float) -> bool:
        """Whether there is no room for any address: one check for a crowd of waiting addresses."""
        return self._count >= self._most and self._most_with_stalled(now_s) <= 1

    def enter(self, peer: P, now_s: float) -> P | None:
        """Counts one in for which there is room; returns the one of the most crowded address that must end for it."""
        crowded = None if self._count < self._most else self._crowded()
        self._by_network.setdefault(peer.network, {})[peer] = now_s
        self._count += 1
        return None if crowded is None else next(iter(crowded))

    def leave(self, peer: P) -> None:
        """Counts it out; idempotent."""
        if _discard(self._by_network, peer.network, peer):
            self._count -= 1

    def _crowded(self) -> dict[P, float]:
        return max(self._by_network.values(), key=len)

    def _most_with_stalled(self, now_s: float) -> int:
        """How many the most crowded address has, if its oldest has stalled; else 0."""
        crowded = self._crowded()
        return len(crowded) if now_s - next(iter(crowded.values())) >= STALLED_S else 0


class Crowd(Generic[P]):
    """The open associations.

    Args:
        most: the limit of all together.
        per_address: the limit of one address.
        per_identity: the limit of one device.
    """

    def __init__(self, most: int, per_address: int, per_identity: int) -> None:
        self._most, self._per_address, self._per_identity = most, per_address, per_identity
        #: Here, and for each address, those silent for longest come first.
        self._strangers: dict[P, None] = {}
        self._devices: dict[P, str] = {}
        self._by_network: dict[str, dict[P, None]] = {}
        self._by_identity: dict[str, dict[P, None]] = {}

    def enter(self, peer: P) -> tuple[str, P] | None:
        """Adds an unauthenticated peer; returns the exceeded limit, and the one that must end."""
        self._strangers[peer] = None
        own = self._by_network.setdefault(peer.network, {})
        own[peer] = None
        if len(own) > self._per_address:
            return "per_address", self._first(peer, own)
        if len(self._strangers) + len(self._devices) > self._most:
            # The new one is the last of the unauthenticated ones.
            return "associations", self._first(peer, (*islice(self._strangers, 2), *islice(self._devices, 1)))
        return None

    def identified(self, peer: P, identity: str) -> P | None:
        """It belongs to a device; returns the device's oldest one if it has too many."""
        if peer not in self._strangers:  # it has ended meanwhile
            return None
        del self._strangers[peer]
        self._devices[peer] = identity
        own = self._by_identity.setdefault(identity, {})
        own[peer] = None
        return next(iter(own)) if len(own) > self._per_identity else None

    def heard(self, peer: P) -> None:
        """It has sent something."""
        if peer in self._devices:
            self._devices[peer] = self._devices.pop(peer)
        elif peer in self._strangers:
            del self._strangers[peer]
            self._strangers[peer] = None
        else:
            return
        own = self._by_network[peer.network]
        del own[peer]
        own[peer] = None

    def leave(self, peer: P) -> None:
        """It has ended; idempotent."""
        self._strangers.pop(peer, None)
        identity = self._devices.pop(peer, None)
        if identity is not None:
            _discard(self._by_identity, identity, peer)
        _discard(self._by_network, peer.network, peer)

    def _first(self, new: P, among: Iterable[P]) -> P:
        """The first unauthenticated one, else the first device, except the new one."""
        found = [each for each in among if each is not new]
        return next((each for each in found if each in self._strangers), found[0]) if found else new


def _discard(by: dict[str, dict[P, V]], key: str, peer: P) -> bool:
    held = by.get(key)
    if held is None or peer not in held:
        return False
    del held[peer]
    if not held:
        del by[key]
    return True
