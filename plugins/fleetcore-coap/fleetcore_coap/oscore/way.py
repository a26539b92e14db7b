"""The state of an address: the message layer of RFC 7252, whose ids and tokens belong to an address, not a device.

A device whose address changes keeps its context, and gets another way. Two devices behind one address and port, for
example of a gateway, share a way.
"""

from collections.abc import Callable
from random import Random

from fleetcore_coap.addresses import Address
from fleetcore_coap.codec import Packet
from fleetcore_coap.exchanges import Exchanges
from fleetcore_coap.peer import Peer


class Way:
    """One address; see the module.

    Args:
        name: the address, for people.
        send: takes a datagram; never blocks.

    Attributes:
        stranger: the peer of unprotected messages.
        stranger_until_s: how long it is kept.
        users: contexts that used this address lately.
    """

    def __init__(self, address: Address, name: str, send: Callable[[bytes], None], random: Random) -> None:
        self.address, self.name = address, name
        self.exchanges = Exchanges(send, random, self._busy)
        self.stranger: Peer | None = None
        self.stranger_until_s = 0.0
        self.users: set[object] = set()

    def _busy(self, request: Packet) -> Packet:
        assert self.stranger is not None  # protected requests are counted by their context
        return self.stranger.busy(request)

    def tick(self, now_s: float) -> bool:
        """Handles the passing of time; returns whether it needs further ticks."""
        self.exchanges.tick(now_s)
        return not self.exchanges.idle
