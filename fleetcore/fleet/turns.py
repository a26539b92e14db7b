"""Turns: what changes one thing goes one after the other, in the order in which it asked; different things do not wait.

The store decides by versions whether a change holds. Those that meet on one record in this process would only spoil
each other's attempts, so they queue here first.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """A queue per key while it is used: memory is that of the callers under way."""

    def __init__(self) -> None:
        self._queues: dict[str, deque[asyncio.Future[None]]] = {}

    def __len__(self) -> int:
        return len(self._queues)

    async def take(self, key: str) -> None:
        """Returns when it is the caller's turn, at once where nothing else has it; :meth:`give` ends the turn.

        A caller that is cancelled leaves the queue and has no turn to end.
        """
        queue = self._queues.get(key)
        if queue is None:
            self._queues[key] = deque()
            return
        turn = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                queue.remove(turn)
            else:
                self.give(key)  # the turn came, and nothing takes it up
            raise

    def give(self, key: str) -> None:
        """Ends the turn; the next in the queue has it now."""
        queue = self._queues[key]
        while queue:
            turn = queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        del self._queues[key]

    @asynccontextmanager
    async def of(self, key: str) -> AsyncIterator[None]:
        """The turn of the caller, as long as the context lasts."""
        await self.take(key)
        try:
            yield
        finally:
            self.give(key)
