"""What outlives a connection: the subscriptions of devices that asked for a session.

Nothing else does. Messages that wait are in the store, which hands over all that is unfinished when the device
listens again; so a forgotten session costs a device one SUBSCRIBE and never a message.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping

#: Sessions remembered at most; about 50 MB at a dozen filters each.
REMEMBERED = 100_000
#: The longest session expiry granted, in seconds.
EXPIRY_S = 86_400


class Sessions:
    """Subscriptions by device, until they expire; the longest unused go first where there are too many."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._kept: OrderedDict[str, tuple[float, Mapping[str, int]]] = OrderedDict()

    def keep(self, device: str, filters: Mapping[str, int], expiry_s: int) -> None:
        """Remembers what ``device`` has subscribed to for ``expiry_s`` seconds; 0 forgets."""
        self._kept.pop(device, None)
        if expiry_s > 0:
            self._kept[device] = (self._now_s() + expiry_s, dict(filters))
            if len(self._kept) > REMEMBERED:
                self._kept.popitem(last=False)

    def take(self, device: str) -> Mapping[str, int] | None:
        """What is remembered, once; None where there is no session."""
        found = self._kept.pop(device, None)
        return None if found is None or found[0] <= self._now_s() else found[1]
