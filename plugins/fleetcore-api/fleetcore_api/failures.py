"""How often an address showed a bad token: a bucket each, refilled over a minute, for a bounded number of addresses.

A good token passes whatever its neighbours do: tokens cannot be guessed, so this is about load and logs alone.
"""

from collections import OrderedDict
from ipaddress import IPv6Address, ip_address

from attrs import frozen

from fleetcore.interfaces.clock import Clock

_ADDRESSES = 10_000
_MINUTE_S = 60.0


@frozen
class _Bucket:
    left: float
    at: float


class Failures:
    """Counts them."""

    def __init__(self, clock: Clock, per_minute: int) -> None:
        self._clock, self._most = clock, float(per_minute)
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def note(self, address: str) -> float:
        """One more failure; gives the seconds after which the next one is answered again, 0 where it is now."""
        key, now = _network(address), self._clock.monotonic_s()
        old = self._buckets.pop(key, _Bucket(self._most, now))
        left = min(self._most, old.left + (now - old.at) * self._most / _MINUTE_S)
        limited = left < 1
        self._buckets[key] = _Bucket(left if limited else left - 1, now)
        if len(self._buckets) > _ADDRESSES:
            self._buckets.popitem(last=False)
        return (1 - left) * _MINUTE_S / self._most if limited else 0.0


def _network(address: str) -> str:
    """An IPv6 customer has a whole /64 to write from."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None:
        return str(IPv6Address(int(parsed) >> 64 << 64))
    return str(parsed)
