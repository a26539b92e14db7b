"""Token buckets by key, refilled over a minute, for a bounded number of keys.

The keys are addresses that send invalid tokens, and principals that make requests. A valid token passes in any case:
tokens cannot be guessed, so the limit on addresses only protects against load and log floods.
"""

from collections import OrderedDict

from attrs import frozen

from fleetcore.errors import Unavailable
from fleetcore.interfaces.clock import Clock

_KEPT = 10_000
_MINUTE_S = 60.0


@frozen
class _Bucket:
    left: float
    at: float


class Buckets:
    """Counts requests.

    Attributes:
        per_minute: how many are allowed in a minute, for each key.
    """

    def __init__(self, clock: Clock, per_minute: int) -> None:
        self.per_minute = per_minute
        self._clock, self._most = clock, float(per_minute)
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, key: str) -> float:
        """Counts a request; returns the seconds until the next one is allowed, 0 where it is now."""
        now = self._clock.monotonic_s()
        old = self._buckets.pop(key, _Bucket(self._most, now))
        left = min(self._most, old.left + (now - old.at) * self._most / _MINUTE_S)
        limited = left < 1
        self._buckets[key] = _Bucket(left if limited else left - 1, now)
        if len(self._buckets) > _KEPT:
            self._buckets.popitem(last=False)
        return (1 - left) * _MINUTE_S / self._most if limited else 0.0

    def check(self, key: str, message: str, *, unit: str, scope: str) -> None:
        """Counts a request; raises Unavailable (``rate_limited``) with ``message`` and the limit if it exceeds that."""
        wait = self.take(key)
        if wait:
            raise Unavailable(
                message, code="rate_limited", retry_after_s=wait, limit=self.per_minute, unit=unit, scope=scope
            ) from None
