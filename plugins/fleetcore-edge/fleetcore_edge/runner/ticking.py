"""The engine's clock. It follows the processor time of the thread that runs functions.

A function that waits for its turn on a busy machine does not lose time by that, and one that is stopped has really run
that long. The clock rests while nothing runs.
"""

import threading
import time
from collections.abc import Mapping

import wasmtime

from fleetcore_edge.runner.engine import TICK_MS

#: Steps without a batch after which the clock rests.
_IDLE_STEPS = 200


class Ticker:
    """Moves the clock of every engine on, in a thread.

    Args:
        engines: those that there are; more may come.
        thread: the one whose processor time counts.
    """

    def __init__(self, engines: Mapping[int, wasmtime.Engine], thread: int) -> None:
        self._engines, self._clock = engines, time.pthread_getcpuclockid(thread)
        self._awake = threading.Event()
        self._begun = 0
        threading.Thread(target=self._tick, name="ticker", daemon=True).start()

    def begin(self) -> None:
        """A batch begins."""
        self._begun += 1
        if not self._awake.is_set():
            self._awake.set()

    def _tick(self) -> None:
        done, seen, idle = self._steps(), 0, 0
        while True:
            idle = 0 if self._begun != seen else idle + 1
            seen = self._begun
            if idle > _IDLE_STEPS:
                self._awake.clear()
                # A batch that began between the look and the clearing has not woken it.
                if self._begun == seen:
                    self._awake.wait()
                idle = 0
            time.sleep(TICK_MS / 1000)
            now = self._steps()
            # A long garbage collection or loading may have taken many; a batch ends after the steps of its limit.
            for _ in range(now - done):
                for engine in tuple(self._engines.values()):
                    engine.increment_epoch()
            done = now

    def _steps(self) -> int:
        return time.clock_gettime_ns(self._clock) // (TICK_MS * 1_000_000)
