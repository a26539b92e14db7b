"""Waiting hellos: they have returned their cookie, and the maximum number of handshakes is under way.

A dropped hello only comes again after the peer's timer, which doubles each time: when a fleet reconnects, few would get
in at each repetition, and the processor would idle in between. A waiting hello only takes its datagram, starts in the
order of arrival, and addresses take turns.
"""

from collections.abc import Callable

from fleetcore_coap.addresses import Address

#: Longer ones do not wait; a ClientHello with a cookie takes about 200 bytes.
MAX_BYTES = 1024


class Hellos:
    """The queue; see the module. Seconds are those of the monotonic clock.

    Args:
        most: of all together; ``per_address``: of one network.
        patience_s: one not repeated for this long is dropped.
    """

    def __init__(self, most: int, per_address: int, patience_s: float) -> None:
        self._most, self._per_address, self._patience_s = most, per_address, patience_s
        #: By network, the next one first, and none empty; within each, in order of arrival.
        self._waiting: dict[str, dict[Address, tuple[bytes, float]]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def has(self, network: str) -> bool:
        """Whether hellos of a network wait, so that a new one has to queue too."""
        return network in self._waiting

    def wait(self, network: str, address: Address, datagram: bytes, now_s: float) -> bool:
        """Queues a hello, replacing the one from the same address; False if there is no room for it."""
        own = self._waiting.get(network, {})
        is_new = address not in own
        if len(datagram) > MAX_BYTES or (is_new and (self._count >= self._most or len(own) >= self._per_address)):
            return False
        self._count += is_new
        own[address] = datagram, now_s
        self._waiting[network] = own
        return True

    def next(self, has_room: Callable[[str], bool], now_s: float) -> tuple[Address, bytes] | None:
        """Takes the next one of a network that may begin a handshake; None if no hello may begin one."""
        for network in list(self._waiting):
            if not has_room(network):
                continue
            own = self._waiting.pop(network)
            found = self._first(own, now_s)
            if own:
                self._waiting[network] = own  # behind the others
            if found is not None:
                return found
        return None

    def _first(self, own: dict[Address, tuple[bytes, float]], now_s: float) -> tuple[Address, bytes] | None:
        while own:
            address = next(iter(own))
            datagram, came_s = own.pop(address)
            self._count -= 1
            if now_s - came_s <= self._patience_s:
                return address, datagram
        return None
