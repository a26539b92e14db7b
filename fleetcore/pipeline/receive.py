"""Receive: the bounded queue at the front of the data path.

Messages that arrive while a batch is committed become the next batch. Memory is bounded by messages and by bytes: past
the high-water mark adapters are asked to stop reading, past the limit messages are refused as ``overloaded``.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.ingest import Ingest
from fleetcore.interfaces.protocol import Session
from fleetcore.interfaces.provider import Limits
from fleetcore.model.message import Inbound, Outcome, Rejected
from fleetcore.pipeline.refusals import Refusals
from fleetcore.pipeline.session import DeviceSession

#: A message in the queue: session, message, callback, and when it arrived (ms since the epoch).
Delivery = tuple[DeviceSession, Inbound, Callable[[Outcome], None], int]

#: The payload bytes of a batch: some ten thousand readings. Larger batches leave the processor's caches and gain
#: nothing.
_BATCH_BYTES = 1 << 20
#: Memory of a queued message in addition to its payload (measured: tracemalloc over 10,000 of them).
_OVERHEAD_BYTES = 600
#: Adapters stop reading at this share of the limits, so that messages already under way still fit.
_HIGH = 0.5

_OVERLOADED = Rejected(code="overloaded", reason="The receive queue is full", scope="server", retry_after_s=1.0)
_CLOSING = Rejected(code="overloaded", reason="The server is stopping", scope="server", retry_after_s=5.0)


class Receiver(Ingest):
    """The queue and the one task that empties it.

    Args:
        process: handles a batch and calls every message's ``done``; batches never overlap.
    """

    def __init__(
        self,
        limits: Limits,
        clock: Clock,
        process: Callable[[list[Delivery]], Awaitable[None]],
        refusals: Refusals,
    ) -> None:
        self._now_ms, self._process, self._refusals = clock.now_ms, process, refusals
        self._queue: deque[Delivery] = deque()
        self._bytes = 0
        self._most_messages, self._most_bytes = limits.queue_messages, limits.queue_bytes
        self._high_messages = int(limits.queue_messages * _HIGH)
        self._high_bytes = int(limits.queue_bytes * _HIGH)
        self._wake = asyncio.Event()
        self._ready = asyncio.Event()
        self._ready.set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = False
        self.refused_full = 0

    @property
    def waiting(self) -> int:
        """Messages in the queue."""
        return len(self._queue)

    def deliver(self, session: Session, message: Inbound, done: Callable[[Outcome], None]) -> bool:
        waiting = len(self._queue)
        size = self._bytes + len(message.payload) + _OVERHEAD_BYTES
        if waiting >= self._most_messages or size > self._most_bytes or self._closing:
            self.refused_full += 1
            refused = _CLOSING if self._closing else _OVERLOADED
            if isinstance(session, DeviceSession):
                self._refusals.add(session, message, refused)
            done(refused)
            return False
        self._queue.append((session, message, done, self._now_ms()))  # type: ignore[arg-type]  # no other session is made
        self._bytes = size
        if not waiting:
            self._wake.set()
            self._idle.clear()
        if waiting < self._high_messages and size < self._high_bytes:
            return True
        self._ready.clear()
        return False

    async def ready(self) -> None:
        await self._ready.wait()

    async def submit(self, session: Session, message: Inbound, *, received_ms: int | None = None) -> Outcome:
        """See the interface; ``received_ms`` is for a message that arrived earlier."""
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def done(result: Outcome) -> None:
            if not outcome.done():
                outcome.set_result(result)

        waiting = len(self._queue)
        self.deliver(session, message, done)
        if received_ms is not None and len(self._queue) > waiting:
            self._queue[-1] = (*self._queue[-1][:3], received_ms)
        return await outcome

    async def run(self) -> None:
        """Empties the queue until cancelled; owned by the supervisor."""
        while True:
            await self._wake.wait()
            batch = self._take()
            if not batch:
                self._wake.clear()
                self._idle.set()
                continue
            await self._process(batch)

    def _take(self) -> list[Delivery]:
        queue = self._queue
        if self._bytes - len(queue) * _OVERHEAD_BYTES <= _BATCH_BYTES:
            batch = list(queue)
            queue.clear()
            self._bytes = 0
        else:
            batch, size = [], 0
            while queue and size < _BATCH_BYTES:
                batch.append(queue.popleft())
                size += len(batch[-1][1].payload)
            self._bytes -= size + len(batch) * _OVERHEAD_BYTES
        if not self._ready.is_set() and len(queue) < self._high_messages and self._bytes < self._high_bytes:
            self._ready.set()
        return batch

    async def drain(self) -> None:
        """Refuses new messages and returns once every queued one has its outcome."""
        self._closing = True
        await self._idle.wait()
