"""Receive: the bounded queue at the front of the data path.

Messages that arrive while a batch is committed become the next batch. Readings are in batches of their own, one after
the other, and do not wait for other messages. Of those each sender has a chain, which is handled in order; chains take
turns, and a batch takes those of senders that have none in progress.

Memory is bounded by messages and by bytes: past the high-water mark adapters are asked to stop reading, past the limit
messages are refused as ``overloaded``.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.ingest import Holder, Ingest
from fleetcore.interfaces.protocol import Session
from fleetcore.interfaces.provider import Limits
from fleetcore.model.message import Inbound, Outcome, Rejected
from fleetcore.pipeline.refusals import Refusals
from fleetcore.pipeline.session import DeviceSession
from fleetcore.wire.messages import TELEMETRY

#: A message in the queue: session, message, callback, and when it arrived (ms since the epoch).
Delivery = tuple[DeviceSession, Inbound, Callable[[Outcome], None], int]

#: The payload bytes of a batch: some ten thousand readings. Larger batches leave the processor's caches and gain
#: nothing.
_BATCH_BYTES = 1 << 20
#: Memory of a queued message in addition to its payload (measured: tracemalloc over 10,000 of them).
_OVERHEAD_BYTES = 600
#: A batch of other messages is of at most so many senders, and so many batches are handled at a time: one is prepared
#: while the store commits the other.
_SENDERS, _AT_ONCE = 64, 2
#: Adapters stop reading at this share of the limits, so that messages already under way still fit.
_HIGH = 0.5

_OVERLOADED = Rejected(code="overloaded", reason="The receive queue is full", scope="server", retry_after_s=1.0)
_CLOSING = Rejected(code="overloaded", reason="The server is stopping", scope="server", retry_after_s=5.0)


class Receiver(Ingest):
    """The queue and the tasks that empty it.

    Args:
        process: handles a batch and calls every message's ``done``. Batches of readings never overlap, nor do batches
            with other messages of one sender.
    """

    def __init__(
        self,
        limits: Limits,
        clock: Clock,
        process: Callable[[list[Delivery]], Awaitable[None]],
        refusals: Refusals,
    ) -> None:
        self._now_ms, self._process, self._refusals = clock.now_ms, process, refusals
        self._readings: deque[Delivery] = deque()
        self._holder: Holder | None = None
        self._hold: Callable[[list[Delivery]], Awaitable[None]] = process
        self._held: deque[Delivery] = deque()
        #: Sender → its other messages that wait; also senders in progress, which take no turn.
        self._chains: dict[str, deque[Delivery]] = {}
        self._turns: deque[str] = deque()
        self._waiting = self._bytes = self._unfinished = 0
        self._most_messages, self._most_bytes = limits.queue_messages, limits.queue_bytes
        self._high_messages = int(limits.queue_messages * _HIGH)
        self._high_bytes = int(limits.queue_bytes * _HIGH)
        self._has_readings, self._has_others, self._has_held = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._ready = asyncio.Event()
        self._ready.set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = False
        self.refused_full = 0

    @property
    def waiting(self) -> int:
        """Messages in the queue."""
        return self._waiting

    def hold(self, holder: Holder, hold: Callable[[list[Delivery]], Awaitable[None]]) -> None:
        """From now on ``hold`` handles the messages that a holder keeps, a batch at a time and in their order.

        Messages that are submitted with the time of an earlier arrival pass.
        """
        self._holder, self._hold = holder, hold

    def deliver(self, session: Session, message: Inbound, done: Callable[[Outcome], None]) -> bool:
        return self._deliver(session, message, done, None)

    def _deliver(
        self, session: Session, message: Inbound, done: Callable[[Outcome], None], received_ms: int | None
    ) -> bool:
        size = self._bytes + len(message.payload) + _OVERHEAD_BYTES
        if self._waiting >= self._most_messages or size > self._most_bytes or self._closing:
            self.refused_full += 1
            refused = _CLOSING if self._closing else _OVERLOADED
            if isinstance(session, DeviceSession):
                self._refusals.add(session, message, refused)
            done(refused)
            return False
        received = self._now_ms() if received_ms is None else received_ms
        delivery: Delivery = (session, message, done, received)  # type: ignore[assignment]  # no other session is made
        holder = self._holder
        if holder is not None and received_ms is None and holder.holds and message.type in holder.types:
            self._held.append(delivery)
            self._has_held.set()
        elif message.type is TELEMETRY:
            if not self._readings:
                self._has_readings.set()
            self._readings.append(delivery)
        else:
            self._add_to_chain(session.identity, delivery)
        self._waiting += 1
        self._unfinished += 1
        self._bytes = size
        self._idle.clear()
        if self._waiting <= self._high_messages and size < self._high_bytes:
            return True
        self._ready.clear()
        return False

    def _add_to_chain(self, sender: str, delivery: Delivery) -> None:
        chain = self._chains.get(sender)
        if chain is None:
            chain = self._chains[sender] = deque()
            self._turns.append(sender)
            self._has_others.set()
        chain.append(delivery)

    async def ready(self) -> None:
        await self._ready.wait()

    async def submit(self, session: Session, message: Inbound, *, received_ms: int | None = None) -> Outcome:
        """See the interface; ``received_ms`` is for a message that arrived earlier."""
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def done(result: Outcome) -> None:
            if not outcome.done():
                outcome.set_result(result)

        self._deliver(session, message, done, received_ms)
        return await outcome

    async def run(self) -> None:
        """Empties the queue until cancelled; owned by the supervisor."""
        async with asyncio.TaskGroup() as lanes:
            lanes.create_task(self._run_readings(), name="readings")
            lanes.create_task(self._run_held(), name="held messages")
            for number in range(_AT_ONCE):
                lanes.create_task(self._run_others(), name=f"other messages {number}")

    async def _run_readings(self) -> None:
        while True:
            await self._has_readings.wait()
            batch = self._take_readings()
            if batch:
                await self._handle(batch)
            else:
                self._has_readings.clear()

    async def _run_held(self) -> None:
        while True:
            await self._has_held.wait()
            self._has_held.clear()
            while batch := self._up_to_a_batch(self._held, 0):
                self._taken(batch)
                await self._handle(batch, self._hold)

    async def _run_others(self) -> None:
        while True:
            await self._has_others.wait()
            senders, batch = self._take_others()
            if not batch:
                self._has_others.clear()
                continue
            try:
                await self._handle(batch)
            finally:
                for sender in senders:
                    if self._chains[sender]:
                        self._turns.append(sender)
                        self._has_others.set()
                    else:
                        del self._chains[sender]

    async def _handle(
        self, batch: list[Delivery], process: Callable[[list[Delivery]], Awaitable[None]] | None = None
    ) -> None:
        try:
            await (process or self._process)(batch)
        finally:
            self._unfinished -= len(batch)
            if not self._unfinished:
                self._idle.set()

    def _take_readings(self) -> list[Delivery]:
        batch = self._up_to_a_batch(self._readings, 0)
        self._taken(batch)
        return batch

    def _take_others(self) -> tuple[list[str], list[Delivery]]:
        """The chains of the next senders, and whose they are."""
        senders: list[str] = []
        batch: list[Delivery] = []
        size = 0
        while self._turns and len(senders) < _SENDERS and size < _BATCH_BYTES:
            senders.append(self._turns.popleft())
            some = self._up_to_a_batch(self._chains[senders[-1]], size)
            size += sum(len(delivery[1].payload) for delivery in some)
            batch += some
        self._taken(batch)
        return senders, batch

    def _up_to_a_batch(self, queue: deque[Delivery], size: int) -> list[Delivery]:
        """The first of a queue with which a batch of ``size`` bytes is full."""
        if self._bytes - self._waiting * _OVERHEAD_BYTES <= _BATCH_BYTES:
            batch = list(queue)
            queue.clear()
            return batch
        batch = []
        while queue and size < _BATCH_BYTES:
            batch.append(queue.popleft())
            size += len(batch[-1][1].payload)
        return batch

    def _taken(self, batch: list[Delivery]) -> None:
        self._waiting -= len(batch)
        self._bytes -= sum(len(delivery[1].payload) for delivery in batch) + len(batch) * _OVERHEAD_BYTES
        if not self._ready.is_set() and self._waiting < self._high_messages and self._bytes < self._high_bytes:
            self._ready.set()

    async def drain(self) -> None:
        """Refuses new messages and returns once every queued one has its outcome."""
        self._closing = True
        await self._idle.wait()
