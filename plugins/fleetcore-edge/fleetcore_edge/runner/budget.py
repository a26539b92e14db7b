"""A function's share of a processor over time."""


class Budget:
    """Saves up a share of the time that passes, and is spent by batches.

    A batch may begin while anything is left, and may then go below nothing: its cost is known only afterwards.

    Args:
        percent: the share, of one processor.
        burst_ms: how much is saved up at most; there at the beginning.
        now_s: the time, monotonic.
    """

    def __init__(self, percent: float, burst_ms: float, now_s: float) -> None:
        self._rate, self._burst = percent * 10.0, burst_ms
        self._left, self._at = burst_ms, now_s

    def wait_ms(self, now_s: float) -> float:
        """For how long no batch may begin; 0 where one may."""
        self._left = min(self._burst, self._left + (now_s - self._at) * self._rate)
        self._at = now_s
        return 0.0 if self._left > 0 else max(1.0, -1000.0 * self._left / self._rate)

    def spend(self, ms: float) -> None:
        """Takes what a batch has cost."""
        self._left -= ms
