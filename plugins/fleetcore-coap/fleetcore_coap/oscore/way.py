"""The way to an address: the message layer of RFC 7252, whose ids and tokens are an address's and no device's.

A device keeps its context where its address changes, and gets another way. Two devices behind one address and port,
of a gateway for one, share a way.
"""

from collections.abc import Callable
from random import Random

from fleetcore_coap.addresses import Address
from fleetcore_coap.codec import Packet
from fleetcore_coap.exchanges import Exchanges
from fleetcore_coap.peer import Peer


class Way:
    """See the module.

    Args:
        name: the address, for people.
        send: takes a datagram; never blocks.

    Attributes:
        stranger: speaks for what comes without protection.
        stranger_until_s: how long it is kept.
        users: contexts that have come this way lately.
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
        """Time has passed; says whether more of it matters."""
        self.exchanges.tick(now_s)
        return not self.exchanges.idle
