"""Turns: what changes one thing goes one after the other, in the order in which it asked; different things do not wait.

The store decides by versions whether a change holds. Those that meet on one record in this process would only spoil
each other's attempts, so they queue here first.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from attrs import define


@define(eq=False)
class _Queue:
    lock: asyncio.Lock
    users: int = 0


class Turns:
    """A queue per key while somebody uses it: memory is that of the callers under way."""

    def __init__(self) -> None:
        self._queues: dict[str, _Queue] = {}

    def __len__(self) -> int:
        return len(self._queues)

    @asynccontextmanager
    async def of(self, key: str) -> AsyncIterator[None]:
        """The turn of the caller, as long as the context lasts. A caller that is cancelled leaves the queue."""
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = _Queue(asyncio.Lock())
        queue.users += 1
        try:
            async with queue.lock:
                yield
        finally:
            queue.users -= 1
            if not queue.users:
                del self._queues[key]
