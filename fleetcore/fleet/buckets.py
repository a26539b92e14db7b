"""Token buckets by key, refilled over a minute; the number of keys that are remembered is bounded.

The keys are addresses that show bad tokens, and principals that ask. A good token passes whatever its
neighbours do: tokens cannot be guessed, so the first is about load and logs alone.
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

    def check(self, key: str, message: str, *, unit: str, scope: str) -> None:
        """One more; raises Unavailable (``rate_limited``) with ``message`` and the limit where it is one too many."""
        wait = self.take(key)
        if wait:
            raise Unavailable(
                message, code="rate_limited", retry_after_s=wait, limit=self.per_minute, unit=unit, scope=scope
            ) from None
