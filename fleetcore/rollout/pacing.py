"""The rate of a campaign's offers: never more in any 60 seconds than it allows."""

from collections import deque

from fleetcore.model.rollout import Rate

#: The length of time in which a rate is counted.
WINDOW_S = 60.0


def rate_now(rate: Rate, succeeded: int) -> int:
    """Offers a minute after a number of devices have succeeded."""
    grown = rate.per_minute * rate.factor ** (succeeded // rate.every)
    return int(min(grown, rate.max_per_minute))


class Pace:
    """The offers of the last minute.

    A restart forgets them, so the first minute after it has none: ``since`` is the time from which they are known.

    Args:
        since: a monotonic time in seconds; the campaign made no offer in the minute before it ended plus 60 s.
    """

    def __init__(self, since: float) -> None:
        self._since = since
        #: When how many were made.
        self._offers: deque[tuple[float, int]] = deque()
        self._count = 0

    def left(self, rate: Rate, succeeded: int, now: float) -> int:
        """How many offers may be made now."""
        if now < self._since:
            return 0
        while self._offers and self._offers[0][0] <= now - WINDOW_S:
            self._count -= self._offers.popleft()[1]
        return max(0, rate_now(rate, succeeded) - self._count)

    @property
    def frees_s(self) -> float | None:
        """When the oldest offers of the last minute no longer count, monotonic; None without any."""
        return self._offers[0][0] + WINDOW_S if self._offers else None

    def add(self, count: int, now: float) -> None:
        """Counts offers that were made."""
        if count:
            self._offers.append((now, count))
            self._count += count

    def take(self, rate: Rate, succeeded: int, now: float) -> bool:
        """Counts an offer, where another one may be made now."""
        if not self.left(rate, succeeded, now):
            return False
        self.add(1, now)
        return True
