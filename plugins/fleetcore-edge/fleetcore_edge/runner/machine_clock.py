"""The machine's time, where the runner is given no clock."""

import asyncio
import time

from fleetcore.interfaces.clock import Clock


class MachineClock(Clock):
    """The machine's time."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
