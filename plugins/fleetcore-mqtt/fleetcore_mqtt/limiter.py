"""How many connections by claim certificates one endpoint carries, and which it refuses at their CONNECT.

A claim certificate is in every device of its batch and may be stolen, so its connections are bounded in number. What
one connection may then ask is in :mod:`.claimant`.
"""

from collections import Counter

from fleetcore.interfaces import ClaimSession
from fleetcore_mqtt.packets import Codec, Connect, Reason

#: Connections by one claim certificate, and by all of them: a factory's line, not a fleet.
CONNECTIONS, CONNECTIONS_IN_ALL = 256, 1024


class ConnectionLimiter:
    """How many claimants are connected to one endpoint."""

    def __init__(self) -> None:
        self._by_name: Counter[str] = Counter()

    def objection(self, connect: Connect, session: ClaimSession, codec: Codec) -> Reason | None:
        """Why a claimant is refused at its CONNECT, or None."""
        if connect.will is not None:
            session.denied("will", "not_authorised")
            return Reason.NOT_AUTHORISED
        if not connect.client_id and not connect.clean and codec.version < 5:
            return Reason.CLIENT_ID  # MQTT 3.1.1 §3.1.3.1
        if self._by_name[session.name] >= CONNECTIONS or self._by_name.total() >= CONNECTIONS_IN_ALL:
            session.denied("session", "overloaded")
            return Reason.BUSY
        return None

    def enter(self, name: str) -> None:
        """Counts a connection in."""
        self._by_name[name] += 1

    def leave(self, name: str) -> None:
        """Counts it out."""
        self._by_name[name] -= 1
        if self._by_name[name] <= 0:
            del self._by_name[name]
