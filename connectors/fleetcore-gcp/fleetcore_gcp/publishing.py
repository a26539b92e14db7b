"""Publishes: all messages of a request have one ordering key, and one request of a key is under way.

So nothing overtakes: a failure is reported before the next request of its key is sent, and the rest is decided again. A
request whose answer was lost may have been executed; it is sent again with the same ``fleetcore-id``.
"""

import asyncio
from collections.abc import Mapping, Sequence

from google.pubsub_v1.types import PublishRequest, PubsubMessage

from fleetcore.interfaces.clock import Clock
from fleetcore_gcp.clients import Clients
from fleetcore_gcp.config import GcpConfig
from fleetcore_gcp.failures import CallFailed
from fleetcore_gcp.making import Making
from fleetcore_gcp.topics import Names, Topic

#: Attributes of every message: its fleet, and the id that identifies repetitions. A repeated request gets other message
#: ids from Pub/Sub.
FLEET, ID = "fleetcore-fleet", "fleetcore-id"
#: The limits of one request (https://cloud.google.com/pubsub/quotas#resource_limits); some room is left for metadata.
MAX_MESSAGES, MAX_BYTES = 1000, 9_000_000
#: The limit of one ordering key per second; the same page.
_KEY_BYTES_S = 1_000_000.0


def message(data: bytes, key: str, attributes: Mapping[str, str]) -> PubsubMessage:
    """One message."""
    return PubsubMessage(data=data, ordering_key=key, attributes=dict(attributes))


class Publisher:
    """See the module."""

    def __init__(self, clients: Clients, config: GcpConfig, making: Making, clock: Clock) -> None:
        self._clients, self._config, self._making, self._clock = clients, config, making, clock
        self._names = Names(config)
        #: Requests under way or waiting, by topic and key; removed with the last of them.
        self._locks: dict[tuple[Topic, str], tuple[asyncio.Lock, int]] = {}
        #: When a key has bytes again, for keys that have used them up.
        self._until_s: dict[tuple[Topic, str], float] = {}

    async def publish(self, topic: Topic, key: str, messages: Sequence[PubsubMessage], size: int) -> None:
        """Publishes messages of one key, at most :data:`MAX_MESSAGES` and, by ``size``, :data:`MAX_BYTES`.

        Raises:
            CallFailed: none of them may be there, or all of them.
        """
        at = (topic, key)
        lock, users = self._locks.get(at, (asyncio.Lock(), 0))
        self._locks[at] = lock, users + 1
        try:
            async with lock:
                await self._turn(at, size)
                await self._published(topic, PublishRequest(topic=self._names.topic(topic), messages=messages), size)
        finally:
            lock, users = self._locks.pop(at)
            if users > 1:
                self._locks[at] = lock, users - 1

    async def _published(self, topic: Topic, request: PublishRequest, size: int) -> None:
        try:
            await self._once(request, size)
        except CallFailed as failed:
            if failed.kind != "missing" or not self._config.create:
                raise
            await self._making.topic(topic)
            await self._once(request, size)

    async def _once(self, request: PublishRequest, size: int) -> None:
        kilobytes = max(1, -(-size // 1000))  # a request counts as 1 kB at least
        answer = await self._clients.publishing(
            "pubsub.topics.publish", "publish", request, pace="publish_kb", units=kilobytes
        )
        if len(answer.message_ids) != len(request.messages):
            raise CallFailed(
                "pubsub.topics.publish", "unavailable", "the answer does not have an id for each message", lost=True
            )

    async def _turn(self, at: tuple[Topic, str], size: int) -> None:
        """Waits while a key has used up its bytes of this second."""
        now_s = self._clock.monotonic_s()
        if len(self._until_s) > 1000:
            self._until_s = {each: until_s for each, until_s in self._until_s.items() if until_s > now_s}
        until_s = self._until_s.get(at, now_s)
        self._until_s[at] = max(now_s, until_s) + size / _KEY_BYTES_S
        wait_s = until_s - now_s - 1.0  # a second's worth at once
        if wait_s > 0:
            await self._clock.sleep(wait_s)
