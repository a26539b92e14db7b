"""Client-side rate limits for a cloud: a token bucket per class of call, which slows down when the cloud throttles."""

import asyncio
import math
from collections.abc import Mapping

from fleetcore.interfaces.clock import Clock

#: A throttling answer halves the rate. Further ones within this time do not: they answer calls already under way.
_HALVE_EVERY_S = 1.0
#: The part of the configured rate that returns each second without throttling.
_RECOVER = 0.05
#: The lowest rate, as a part of the configured one.
_MIN_SHARE = 0.02


class _Bucket:
    def __init__(self, rate: float, now_s: float) -> None:
        self.configured = self.rate = rate
        self.level = max(1.0, rate)
        self.at_s, self.halved_s = now_s, -math.inf
        self.until_s = 0.0


class Pace:
    """Hands out turns by class of call. Classes without a rate never wait.

    Attributes:
        throttled: answers that throttled, by class.
    """

    def __init__(self, rates: Mapping[str, float], clock: Clock) -> None:
        self._clock = clock
        now_s = clock.monotonic_s()
        self._buckets = {name: _Bucket(rate, now_s) for name, rate in rates.items()}
        self.throttled: dict[str, int] = {}

    async def take(self, name: str, calls: int = 1) -> None:
        """Returns when this many calls of a class may be sent."""
        bucket = self._buckets.get(name)
        if bucket is None:
            return
        self._refill(bucket)
        bucket.level -= calls  # the turn is taken now, so turns come in the order of the calls
        # After the cloud's pause calls go out at the usual rate; otherwise all waiting calls would go at once.
        wait_s = max(0.0, bucket.until_s - self._clock.monotonic_s()) + max(0.0, -bucket.level / bucket.rate)
        if wait_s > 0:
            try:
                await self._clock.sleep(wait_s)
            except asyncio.CancelledError:
                bucket.level += calls
                raise

    def slow_down(self, name: str, retry_after_s: float = 0.0) -> None:
        """Records that the cloud throttled a call of this class, and its retry time where it gave one."""
        self.throttled[name] = self.throttled.get(name, 0) + 1
        bucket = self._buckets.get(name)
        if bucket is None:
            return
        self._refill(bucket)
        now_s = self._clock.monotonic_s()
        if now_s + retry_after_s > bucket.until_s:
            bucket.until_s = now_s + retry_after_s
            bucket.level = min(bucket.level, 1.0)
        if now_s - bucket.halved_s >= _HALVE_EVERY_S:
            bucket.rate = max(bucket.rate / 2, bucket.configured * _MIN_SHARE)
            bucket.halved_s = now_s

    def _refill(self, bucket: _Bucket) -> None:
        now_s = self._clock.monotonic_s()
        passed_s = now_s - bucket.at_s
        # The rate recovers only while calls may go out.
        earned_s = max(0.0, now_s - max(bucket.at_s, bucket.until_s))
        bucket.at_s = now_s
        bucket.level = min(max(1.0, bucket.rate), bucket.level + earned_s * bucket.rate)
        bucket.rate = min(bucket.configured, bucket.rate + passed_s * bucket.configured * _RECOVER)
