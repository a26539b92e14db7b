"""State that outlives a connection: subscriptions of devices that asked for a session, and unacknowledged messages.

Nothing else outlives it. Waiting messages are in the store, which sends everything unfinished when the device listens
again. So a forgotten session costs a device one SUBSCRIBE and at most replies that it can request again.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping

from attrs import frozen

from fleetcore_mqtt.outbox import Message

#: Sessions kept at most; about 50 MB at a dozen filters each.
REMEMBERED = 100_000
#: The longest session expiry granted, in seconds.
EXPIRY_S = 86_400
#: Unacknowledged messages kept of one session, and of all; the store sends the rest again.
SESSION_BYTES, ALL_BYTES = 64 * 1024, 64 * 1024 * 1024


@frozen
class Kept:
    """One session.

    Attributes:
        until_s: when it expires, by the monotonic clock.
        filters: the QoS by topic filter.
        unacked: sent and unacknowledged messages, by packet id.
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
    """Sessions by device, until they expire; if there are too many, the longest unused are dropped first."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._bytes = 0

    def keep(self, device: str, filters: Mapping[str, int], unacked: Mapping[int, Message], expiry_s: int) -> None:
        """Saves the session of ``device`` for ``expiry_s`` seconds; 0 forgets it."""
        self.take(device)
        if expiry_s > 0:
            kept = Kept(self._now_s() + expiry_s, dict(filters), _bounded(unacked))
            self._kept[device] = kept
            self._bytes += kept.size
            while len(self._kept) > REMEMBERED or self._bytes > ALL_BYTES:
                self._bytes -= self._kept.popitem(last=False)[1].size

    def forget(self, devices: Iterable[str]) -> None:
        """Forgets devices that have lost their rights: the next one of that name may be another device."""
        for device in devices:
            self.take(device)

    def take(self, device: str) -> Kept | None:
        """Returns the saved session, once; None without one."""
        found = self._kept.pop(device, None)
        if found is not None:
            self._bytes -= found.size
        return None if found is None or found.until_s <= self._now_s() else found
