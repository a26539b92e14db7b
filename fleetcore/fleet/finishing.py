"""Changes that go on to their end although their caller is cancelled.

A commit that was handed to the store is done even where its caller is gone. What follows from it in memory (a cache
that forgets, a session that ends, a listener that is told) must then be done too.
"""

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

T = TypeVar("T")
P = ParamSpec("P")


class Finishing:
    """Runs such changes, and holds them until they have ended; ``name`` is that of their tasks."""

    def __init__(self, name: str = "fleetcore change") -> None:
        self._name = name
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of ``work``, or what it raises; where the caller is cancelled, ``work`` goes on."""
        return await asyncio.shield(self.start(work))

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """The same for several callers, each of which shields the task from its own end."""
        task = asyncio.create_task(work, name=self._name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def idle(self) -> None:
        """Returns once all that was begun has ended."""
        if self._tasks:
            await asyncio.wait(list(self._tasks))

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # a caller that was cancelled does not read it, and asyncio would complain


class _Owner(Protocol):
    _finishing: Finishing


S = TypeVar("S", bound=_Owner)


def finished(
    method: Callable[Concatenate[S, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """A method whose every call goes on to its end; its object has a :class:`Finishing`."""

    @wraps(method)
    async def run(self: S, /, *args: P.args, **options: P.kwargs) -> T:
        return await self._finishing.run(method(self, *args, **options))

    return run
