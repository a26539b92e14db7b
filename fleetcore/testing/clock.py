"""A clock that tests move."""

import asyncio
import heapq
import itertools

from fleetcore.interfaces.clock import Clock


class MovableClock(Clock):
    """Stands still until a test moves it; sleepers wake in order of their times.

    Args:
        now_ms: wall-clock time at the start (default: 2026-01-01T00:00:00Z).
    """

    def __init__(self, now_ms: int = 1_767_225_600_000) -> None:
        self._now_ms, self._monotonic_s = now_ms, 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def now_ms(self) -> int:
        return self._now_ms

    def monotonic_s(self) -> float:
        return self._monotonic_s

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._monotonic_s + seconds, next(self._order), future))
        await future

    async def advance(self, seconds: float) -> None:
        """Moves on, waking sleepers at their times and letting each run before the next wakes."""
        goal = self._monotonic_s + seconds
        await _let_run()
        while self._sleepers and self._sleepers[0][0] <= goal:
            at, _, future = heapq.heappop(self._sleepers)
            self._set(at)
            if not future.done():
                future.set_result(None)
            await _let_run()
        self._set(goal)
        await _let_run()

    def jump(self, milliseconds: int) -> None:
        """Sets the wall clock forward or back, as an administrator or NTP would; intervals do not notice."""
        self._now_ms += milliseconds

    def _set(self, at: float) -> None:
        self._now_ms += round((at - self._monotonic_s) * 1000)
        self._monotonic_s = at


async def _let_run() -> None:
    # A woken task may wake others; a handful of turns covers chains of awaits without real time.
    for _ in range(20):
        await asyncio.sleep(0)
