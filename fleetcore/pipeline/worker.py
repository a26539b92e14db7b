"""A daemon thread that runs one call at a time and can be abandoned.

``concurrent.futures`` joins its threads when the interpreter ends, so a hanging plugin would block the exit too.
"""

import asyncio
import queue
import threading
import weakref
from collections.abc import Callable
from typing import TypeVar

from fleetcore import threads
from fleetcore.errors import PluginError
from fleetcore.interfaces.boundary import as_error, in_a_line

T = TypeVar("T")
_Job = Callable[[], None]


class Worker:
    """Runs calls in order on its own thread; :meth:`close` does not wait for a hanging call."""

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        # The thread does not refer to the worker, so a dropped worker ends its thread too.
        weakref.finalize(self, self._jobs.put, None)
        threads.stop_at_exit(self.close)
        self._thread = threading.Thread(target=_run, args=(self._jobs,), name=name, daemon=True)
        threads.start(self._thread, threads.PLUGIN_EXIT_S)

    @property
    def alive(self) -> bool:
        """Whether its thread runs, even in a call that hangs."""
        return self._thread.is_alive()

    async def call(self, work: Callable[[], T], timeout_s: float) -> T:
        """The result of ``work``; raises its errors, and PluginError when it overruns: then abandon the worker."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def finish(result: T | None, error: BaseException | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type]  # None only where T allows it

        def job() -> None:
            result: T | None = None
            problem: BaseException | None = None
            try:
                result = work()
            except StopIteration as error:
                problem = PluginError(f"It raised {in_a_line(error)}")  # a future cannot hold it
            except Exception as error:
                problem = error
            except BaseException as error:
                problem = as_error(error, "It")
            if not loop.is_closed():
                loop.call_soon_threadsafe(finish, result, problem)

        self._jobs.put(job)
        limit = asyncio.timeout(timeout_s)
        try:
            async with limit:
                return await future
        except TimeoutError as error:
            if not limit.expired():
                raise  # raised by the work
            place = threads.place_of(self._thread)
            raise PluginError(f"It did not answer within {timeout_s:g} s; it is at {place}") from error

    def close(self) -> None:
        """Ends the thread after its current call; idempotent."""
        self._jobs.put(None)


def _run(jobs: "queue.SimpleQueue[_Job | None]") -> None:
    while (job := jobs.get()) is not None:
        job()
        del job  # it holds a plugin's object, and the next call may take long to arrive
