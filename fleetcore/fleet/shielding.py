"""Changes that complete even if their caller is cancelled.

The store completes a commit even if its caller is gone. The steps in memory that follow from it (dropping a cache
entry, ending a session, calling a listener) must then complete too.
"""

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

T = TypeVar("T")
P = ParamSpec("P")


class Shield:
    """Runs such changes, and tracks them until they have ended; ``name`` is that of their tasks."""

    def __init__(self, name: str = "fleetcore change") -> None:
        self._name = name
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of ``work``, or its exception; where the caller is cancelled, ``work`` continues."""
        return await asyncio.shield(self.start(work))

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """The same for several callers, each of which shields the task from its own cancellation."""
        task = asyncio.create_task(work, name=self._name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def idle(self) -> None:
        """Returns when all started changes have ended."""
        if self._tasks:
            await asyncio.wait(list(self._tasks))

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # a cancelled caller does not read it, and asyncio would warn


class _Owner(Protocol):
    _shield: Shield


S = TypeVar("S", bound=_Owner)


def shielded(
    method: Callable[Concatenate[S, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """A method whose every call completes; its object has a :class:`Shield`."""

    @wraps(method)
    async def run(self: S, /, *args: P.args, **options: P.kwargs) -> T:
        return await self._shield.run(method(self, *args, **options))

    return run
