"""Turns: changes of one object run one after the other, in the order of their requests; different objects do not wait.

The store accepts or refuses a change by its version. Changes of one record in this process would only make each other's
attempts fail, so they queue here first.
"""

import asyncio
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """A queue per key while it is used: its memory is that of the callers in progress."""

    def __init__(self) -> None:
        self._queues: dict[str, deque[asyncio.Future[T | None]]] = {}

    def __len__(self) -> int:
        return len(self._queues)

    async def take(self, key: str) -> T | None:
        """Returns when it is the caller's turn, at once where the queue is empty; :meth:`give` ends the turn.

        A caller that is cancelled leaves the queue and has no turn to end.

        Returns:
            What the one before passed with the turn; None where the caller did not wait.
        """
        queue = self._queues.get(key)
        if queue is None:
            self._queues[key] = deque()
            return None
        turn: asyncio.Future[T | None] = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                # The end of a turn may have removed it already.
                if turn in queue:
                    queue.remove(turn)
            else:
                self.give(key, turn.result())  # the turn came, but the caller is gone
            raise

    def give(self, key: str, passed: T | None = None) -> None:
        """Ends the turn; the next in the queue has it now, and gets ``passed``."""
        queue = self._queues[key]
        while queue:
            turn = queue.popleft()
            if not turn.done():
                turn.set_result(passed)
                return
        del self._queues[key]

    def of(self, key: str) -> "Turn[T]":
        """The turn of the caller, for the duration of the context."""
        return Turn(self, key)


class Turn(Generic[T]):
    """See :meth:`Turns.of`. A class, because a generator as a context costs several times as much."""

    def __init__(self, turns: Turns[T], key: str) -> None:
        self._turns, self._key = turns, key

    async def __aenter__(self) -> None:
        await self._turns.take(self._key)

    async def __aexit__(self, *_: object) -> None:
        self._turns.give(self._key)
