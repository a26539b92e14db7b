"""A thread pool for a hub's blocking SDK that returns results to the event loop in batches.

``ThreadPoolExecutor`` wakes the loop for each result, and each wake-up takes the interpreter from the threads: that was
a third of the processor time of a call (``python -m benchmarks mirror``).
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar, cast

from fleetcore import threads

_T = TypeVar("_T")


class Pool:
    """At most ``size`` threads, started as needed. It belongs to the first event loop that uses it."""

    def __init__(self, size: int, name: str) -> None:
        self._size, self._name = size, name
        self._jobs: SimpleQueue[tuple[asyncio.Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._done: deque[tuple[asyncio.Future[Any], Any, BaseException | None]] = deque()
        self._threads: list[threading.Thread] = []
        self._under_way = 0
        self._told = False
        threads.stop_at_exit(self._stop)

    async def run(self, work: Callable[[], _T]) -> _T:
        """Runs ``work`` in a thread and returns its result. Started work continues when the caller is cancelled."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()
        self._under_way += 1
        try:
            if self._under_way > len(self._threads) < self._size:
                thread = threading.Thread(target=self._work, args=(loop,), name=self._name, daemon=True)
                self._threads.append(thread)
                threads.start(thread)
            self._jobs.put((future, work))
            return await future
        finally:
            self._under_way -= 1

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        while (job := self._jobs.get()) is not None:
            future, work = job
            if future.cancelled():
                continue
            try:
                self._done.append((future, work(), None))
            except BaseException as error:  # noqa: BLE001 - it is raised where the work was asked for
                self._done.append((future, None, error))
            if not self._told:
                self._told = True
                with suppress(RuntimeError):  # the loop is closed: nothing waits for the result any more
                    loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        # Cleared first, so that a result added from now on wakes the loop again.
        self._told = False
        while self._done:
            future, result, error = self._done.popleft()
            if future.done():
                continue
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(cast("Exception", error))

    def _stop(self) -> None:
        for _ in self._threads:
            self._jobs.put(None)

    def close(self) -> None:
        """Ends the threads, after the work in progress."""
        self._stop()
        for thread in self._threads:
            thread.join()
