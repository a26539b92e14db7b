"""A streaming pull: messages arrive as they are available, and stay leased while they are held.

One thread reads the stream and passes messages on. Deadlines of held messages are extended; on exit, unacknowledged
ones are returned, and come again at once.
"""

import asyncio
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Self
from uuid import uuid4

from google.pubsub_v1.types import (
    AcknowledgeRequest,
    ModifyAckDeadlineRequest,
    ReceivedMessage,
    StreamingPullRequest,
)

from fleetcore import threads
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.waits import end_tasks
from fleetcore_gcp.clients import Clients
from fleetcore_gcp.failures import CallFailed, from_sdk
from fleetcore_gcp.making import ACK_DEADLINE_S

CONSUME = "pubsub.subscriptions.consume"
#: The maximum of unacknowledged messages.
_OUTSTANDING, _OUTSTANDING_BYTES = 100, 50_000_000
#: Acknowledged in one call (512 KiB a request; an ack id has about 200 bytes).
_ACKS = 1000


class Stream:
    """One stream; open it with ``async with``."""

    def __init__(self, clients: Clients, subscription: str, clock: Clock) -> None:
        self._clients, self._subscription, self._clock = clients, subscription, clock
        self._loop = asyncio.get_running_loop()
        self._requests: SimpleQueue[StreamingPullRequest | None] = SimpleQueue()
        self._arrived: asyncio.Queue[Sequence[ReceivedMessage] | CallFailed] = asyncio.Queue()
        self._call: Any = None
        self._ended = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._read, name="fleetcore gcp stream", daemon=True)
        #: Ack ids of messages neither acknowledged nor returned.
        self._held: dict[str, None] = {}
        self._extending: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._requests.put(
            StreamingPullRequest(
                subscription=self._subscription,
                stream_ack_deadline_seconds=ACK_DEADLINE_S,
                client_id=uuid4().hex,
                max_outstanding_messages=_OUTSTANDING,
                max_outstanding_bytes=_OUTSTANDING_BYTES,
            )
        )
        threads.start(self._thread)
        self._extending = asyncio.create_task(self._extend(), name="fleetcore gcp leases")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._extending is not None:
            await end_tasks(self._extending)
        with self._lock:
            self._ended = True
            call = self._call
        self._requests.put(None)
        if call is not None:
            call.cancel()
        await asyncio.to_thread(self._thread.join)
        await asyncio.sleep(0)  # the last messages from the thread have arrived
        while not self._arrived.empty():
            self._hold(self._arrived.get_nowait())
        await self._deadline(list(self._held), 0)

    async def next(self) -> Sequence[ReceivedMessage]:
        """The next messages, at least one.

        Raises:
            CallFailed: the stream has ended.
        """
        messages = self._hold(await self._arrived.get())
        if isinstance(messages, CallFailed):
            raise messages
        return messages

    def _hold(self, messages: Sequence[ReceivedMessage] | CallFailed) -> Sequence[ReceivedMessage] | CallFailed:
        if not isinstance(messages, CallFailed):
            self._held.update(dict.fromkeys(each.ack_id for each in messages))
        return messages

    async def acknowledge(self, ack_ids: Collection[str]) -> None:
        """Acknowledged messages normally do not come again; but an acknowledgement may be lost.

        Raises:
            CallFailed: they come again.
        """
        ids = list(ack_ids)
        for each in ids:
            self._held.pop(each, None)
        for start in range(0, len(ids), _ACKS):
            request = AcknowledgeRequest(subscription=self._subscription, ack_ids=ids[start : start + _ACKS])
            await self._clients.subscribing(CONSUME, "acknowledge", request, pace="stream")

    async def _extend(self) -> None:
        while True:
            await self._clock.sleep(ACK_DEADLINE_S / 3)
            await self._deadline(list(self._held), ACK_DEADLINE_S)

    async def _deadline(self, ack_ids: Sequence[str], seconds: int) -> None:
        """A failure is harmless: the messages come again, as they would without this call."""
        for start in range(0, len(ack_ids), _ACKS):
            request = ModifyAckDeadlineRequest(
                subscription=self._subscription, ack_ids=ack_ids[start : start + _ACKS], ack_deadline_seconds=seconds
            )
            with suppress(CallFailed):
                await self._clients.subscribing(CONSUME, "modify_ack_deadline", request, pace="stream")

    # -- the thread -------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        try:
            self._read_all()
        except Exception as error:  # noqa: BLE001 - whatever it is, it ends the stream
            self._hand_on(from_sdk(CONSUME, error))
        else:
            self._hand_on(CallFailed(CONSUME, "unavailable", "the stream has ended", lost=True))

    def _read_all(self) -> None:
        routing = (("x-goog-request-params", f"subscription={self._subscription}"),)
        call = self._clients.stream(self._outgoing(), routing)
        with self._lock:
            if self._ended:
                call.cancel()
            self._call = call
        for response in call:
            if response.received_messages:
                self._hand_on(list(response.received_messages))

    def _outgoing(self) -> Iterator[StreamingPullRequest]:
        while (request := self._requests.get()) is not None:
            yield request

    def _hand_on(self, what: Sequence[ReceivedMessage] | CallFailed) -> None:
        with suppress(RuntimeError):  # the loop is closed, so no task waits
            self._loop.call_soon_threadsafe(self._arrived.put_nowait, what)
