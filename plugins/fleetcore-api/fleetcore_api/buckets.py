"""How often somebody may do something: a bucket each, refilled over a minute, for a bounded number of somebodies.

One for each address that shows bad tokens, one for each principal that asks. A good token passes whatever its
neighbours do: tokens cannot be guessed, so the first is about load and logs alone.
"""

from collections import OrderedDict
from ipaddress import IPv6Address, ip_address

from attrs import frozen

from fleetcore.interfaces.clock import Clock

_KEPT = 10_000
_MINUTE_S = 60.0


@frozen
class _Bucket:
    left: float
    at: float


class Buckets:
    """Counts.

    Attributes:
        per_minute: how many are answered in a minute, for each key.
    """

    def __init__(self, clock: Clock, per_minute: int) -> None:
        self.per_minute = per_minute
        self._clock, self._most = clock, float(per_minute)
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, key: str) -> float:
        """One more; gives the seconds after which the next one is answered again, 0 where it is now."""
        now = self._clock.monotonic_s()
        old = self._buckets.pop(key, _Bucket(self._most, now))
        left = min(self._most, old.left + (now - old.at) * self._most / _MINUTE_S)
        limited = left < 1
        self._buckets[key] = _Bucket(left if limited else left - 1, now)
        if len(self._buckets) > _KEPT:
            self._buckets.popitem(last=False)
        return (1 - left) * _MINUTE_S / self._most if limited else 0.0


def network(address: str) -> str:
    """The key of an address: an IPv6 customer has a whole /64 to write from."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None:
        return str(IPv6Address(int(parsed) >> 64 << 64))
    return str(parsed)
