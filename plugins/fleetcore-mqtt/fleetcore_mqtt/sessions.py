"""What outlives a connection: the subscriptions of devices that asked for a session, and what they left unacknowledged.

Nothing else does. Messages that wait are in the store, which hands over all that is unfinished when the device
listens again; so a forgotten session costs a device one SUBSCRIBE and at most answers that it can ask for again.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping

from attrs import frozen

from fleetcore_mqtt.outbox import Message

#: Sessions remembered at most; about 50 MB at a dozen filters each.
REMEMBERED = 100_000
#: The longest session expiry granted, in seconds.
EXPIRY_S = 86_400
#: Unacknowledged messages kept of one session, and of all of them; the store says the rest again.
SESSION_BYTES, ALL_BYTES = 64 * 1024, 64 * 1024 * 1024


@frozen
class Kept:
    """One session.

    Attributes:
        until_s: when it is forgotten, by the monotonic clock.
        filters: the QoS by topic filter.
        unacked: what was sent and not acknowledged, by packet id.
    """

    until_s: float
    filters: Mapping[str, int]
    unacked: Mapping[int, Message]

    @property
    def size(self) -> int:
        """Bytes of the unacknowledged messages."""
        return sum(message.size for message in self.unacked.values())


def _bounded(unacked: Mapping[int, Message]) -> Mapping[int, Message]:
    kept, size = {}, 0
    for packet_id, message in unacked.items():
        size += message.size
        if size > SESSION_BYTES:
            break
        kept[packet_id] = message
    return kept


class Sessions:
    """Sessions by device, until they expire; the longest unused go first where there are too many."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._bytes = 0

    def keep(self, device: str, filters: Mapping[str, int], unacked: Mapping[int, Message], expiry_s: int) -> None:
        """Remembers the session of ``device`` for ``expiry_s`` seconds; 0 forgets."""
        self.take(device)
        if expiry_s > 0:
            kept = Kept(self._now_s() + expiry_s, dict(filters), _bounded(unacked))
            self._kept[device] = kept
            self._bytes += kept.size
            while len(self._kept) > REMEMBERED or self._bytes > ALL_BYTES:
                self._bytes -= self._kept.popitem(last=False)[1].size

    def forget(self, devices: Iterable[str]) -> None:
        """Devices have lost their rights: the next of that name may be another one."""
        for device in devices:
            self.take(device)

    def take(self, device: str) -> Kept | None:
        """What is remembered, once; None where there is no session."""
        found = self._kept.pop(device, None)
        if found is not None:
            self._bytes -= found.size
        return None if found is None or found.until_s <= self._now_s() else found
