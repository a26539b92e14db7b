"""Supervision: named tasks with an owner. A task that fails is restarted with back-off, and the failure is reported."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from attrs import define

from fleetcore.errors import FleetError
from fleetcore.interfaces.boundary import contained
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.waits import end_tasks

_log = logging.getLogger(__name__)
_BACK_OFF_S = (0.1, 1.0, 5.0, 30.0)
#: After running this long since its last failure a task counts as healthy: the next failure is a first one again.
_HEALTHY_S = 60.0


@define
class TaskState:
    """The state of a task in ``doctor``; ``failures`` counts those since it last worked."""

    name: str
    failures: int = 0
    error: str = ""


class Supervisor:
    """Owns the background tasks of a fleet."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()
        self.states: dict[str, TaskState] = {}

    def keep(self, name: str, work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Runs ``work`` until it returns or :meth:`close`; an error restarts it."""
        state = self.states.setdefault(name, TaskState(name))
        task = asyncio.create_task(self._run(state, work), name=f"fleetcore {name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def every(self, name: str, seconds: float, work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Runs ``work`` at an interval in seconds."""

        async def loop() -> None:
            while True:
                await self._clock.sleep(seconds)
                await work()
                state.failures, state.error = 0, ""

        state = self.states.setdefault(name, TaskState(name))
        return self.keep(name, loop)

    async def _run(self, state: TaskState, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            begun_s = self._clock.monotonic_s()
            try:
                await work()
            except BaseException as raised:
                error = contained(raised, state.name)
                if self._clock.monotonic_s() - begun_s >= _HEALTHY_S:
                    state.failures = 0
                wait = _BACK_OFF_S[min(state.failures, len(_BACK_OFF_S) - 1)]
                state.failures += 1
                state.error = f"{type(error).__name__}: {error}"
                # A FleetError explains itself; a trace is for our own faults.
                trace = None if isinstance(error, FleetError) else error
                said = "Task %s failed and is restarted in %g s: %s"
                _log.error(said, state.name, wait, state.error, exc_info=trace)
                await self._clock.sleep(wait)
            else:
                return

    async def close(self) -> None:
        """Cancels every task and waits for them."""
        await end_tasks(*self._tasks)
