"""The common part of the listeners on UDP: their clock and their closing."""

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

from fleetcore.interfaces.protocol import ProtocolAdapter
from fleetcore.interfaces.waits import end_tasks
from fleetcore.listening.lateness import sweeps
from fleetcore_coap.app_state import AppState
from fleetcore_coap.sockets import Datagrams

#: How often repetitions and deadlines are checked.
_TICK_S = 0.5
#: How long an answer may take while closing.
_DRAIN_S = 10.0


class DatagramAdapter(ProtocolAdapter):
    """An open listener; ``_state`` and ``_datagrams`` are set by the subclass."""

    _state: AppState
    _datagrams: Datagrams

    async def tick(self) -> None:
        """Repeats and acknowledges what is due; called twice a second."""
        for peer in list(self._state.awake):
            if not peer.tick():
                self._state.awake.discard(peer)

    @abstractmethod
    def sweep(self, now_s: float) -> None:
        """Ends what is silent or slow for too long; called about once a second."""

    def end_unfinished(self) -> None:
        """Ends everything for which no answer is awaited."""

    @abstractmethod
    def end_all(self) -> None:
        """Ends every association."""

    async def keep_time(self) -> None:
        """Handles repetitions, until cancelled."""
        while True:
            await self._state.context.clock.sleep(_TICK_S)
            await self.tick()

    async def keep_deadlines(self) -> None:
        """Handles deadlines, until cancelled."""
        async for now_s in sweeps(self._state.context.clock):
            self.sweep(now_s)

    async def drain(self) -> None:
        """Stops reading, waits at most 10 s for the requests under way, and closes every association."""
        self._datagrams.stop_reading()
        self.end_unfinished()
        if self._state.tasks:
            await asyncio.wait(tuple(self._state.tasks), timeout=_DRAIN_S)
        self.end_all()
        self._datagrams.close()

    async def close(self) -> None:
        """Ends everything; idempotent."""
        await self.drain()
        await self._state.end()


A = TypeVar("A", bound=DatagramAdapter)


@asynccontextmanager
async def keeping(adapter: A, name: str) -> AsyncIterator[A]:
    """Runs an adapter's timers until the context ends, and then closes it."""
    tasks = [
        asyncio.create_task(adapter.keep_time(), name=f"{name}: repetitions"),
        asyncio.create_task(adapter.keep_deadlines(), name=f"{name}: deadlines"),
    ]
    try:
        yield adapter
    finally:
        await end_tasks(*tasks)
        await adapter.close()
