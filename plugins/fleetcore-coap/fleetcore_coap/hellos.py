"""Hellos that wait: they have brought their cookie back, and as many handshakes are under way as may be.

A hello that is dropped comes again only after the peer's timer, which doubles each time: of a herd that comes at once
a few would get in at each repetition, and the processor would rest in between. What waits here takes no more than its
datagram, begins in the order in which it came, and addresses take turns.
"""

from collections.abc import Callable

from fleetcore_coap.addresses import Address

#: Longer ones do not wait; a ClientHello with a cookie takes about 200 bytes.
MAX_BYTES = 1024


class Hellos:
    """See the module. Seconds are those of the monotonic clock.

    Args:
        most: of all together; ``per_address``: of one network.
        patience_s: one that was not repeated for as long has gone.
    """

    def __init__(self, most: int, per_address: int, patience_s: float) -> None:
        self._most, self._per_address, self._patience_s = most, per_address, patience_s
        #: By network, the one whose turn it is first, and none empty; of each, those that came first stand first.
        self._waiting: dict[str, dict[Address, tuple[bytes, float]]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def has(self, network: str) -> bool:
        """Whether hellos of a network wait, behind which another one has to."""
        return network in self._waiting

    def wait(self, network: str, address: Address, datagram: bytes, now_s: float) -> bool:
        """Has a hello wait, in the place of the one that the address has here; False where there is no room for it."""
        own = self._waiting.get(network, {})
        is_new = address not in own
        if len(datagram) > MAX_BYTES or (is_new and (self._count >= self._most or len(own) >= self._per_address)):
            return False
        self._count += is_new
        own[address] = datagram, now_s
        self._waiting[network] = own
        return True

    def next(self, has_room: Callable[[str], bool], now_s: float) -> tuple[Address, bytes] | None:
        """Takes out the next one, of a network that may begin a handshake; None where there is none."""
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
