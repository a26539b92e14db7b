"""Commands from Pub/Sub, over the subscription of the commands topic.

A message is acknowledged when the next one is requested, which confirms that it was stored. Its form:
``{"device": ID, "command": NAME, "args": {…}, "id": TEXT}``; ``device``, ``command`` and ``id`` may be attributes, the
ordering key is the default of the device, and without ``id`` the message's own is used. A publisher that repeats a
message gets another id from Pub/Sub, so senders should give their own.

An unreadable message is logged and acknowledged, because it would stay unreadable, and would block everything after it
with its ordering key. Pub/Sub moves messages that were delivered too often, because the fleet could not store them, to
the dead letters of the subscription.
"""

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import cast

from google.pubsub_v1.types import PubsubMessage, ReceivedMessage

from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.cloud import Arrived, CloudCommand
from fleetcore_gcp.clients import Clients
from fleetcore_gcp.config import GcpConfig
from fleetcore_gcp.failures import CallFailed, for_all
from fleetcore_gcp.making import Making
from fleetcore_gcp.stream import Stream
from fleetcore_gcp.topics import Names

#: Pub/Sub ends every stream from time to time. One that has lived this long is silently opened again.
_LIVED_S = 10.0


class Inbound:
    """See the module."""

    def __init__(self, clients: Clients, config: GcpConfig, making: Making, clock: Clock) -> None:
        self._clients, self._config, self._making, self._clock = clients, config, making, clock
        self._subscription = Names(config).commands

    async def arriving(self) -> AsyncGenerator[Arrived, None]:
        """As in the interface; the subscription itself tracks messages, so there are no positions."""
        while True:
            begun_s = self._clock.monotonic_s()
            try:
                async with Stream(self._clients, self._subscription, self._clock) as stream:
                    while True:
                        messages = await stream.next()
                        yield _arrived(messages)
                        await self._kept(stream, messages)
            except CallFailed as failed:
                self._clients.refused(failed.kind)
                await self._again(failed, self._clock.monotonic_s() - begun_s)

    async def _kept(self, stream: Stream, messages: Sequence[ReceivedMessage]) -> None:
        try:
            await stream.acknowledge([each.ack_id for each in messages])
        except CallFailed as failed:
            # They come again, and the engine knows their ids; without the permission they would come forever.
            if failed.kind == "credentials":
                raise

    async def _again(self, failed: CallFailed, lived_s: float) -> None:
        """Returns if a stream must be opened again; raises errors for the engine."""
        if failed.kind == "missing" and self._config.create:
            try:
                await self._making.commands()
            except CallFailed as not_made:
                raise for_all("The subscription of commands", not_made) from not_made
        elif failed.kind != "unavailable" or lived_s < _LIVED_S:
            raise for_all("The subscription of commands", failed) from failed


def _arrived(messages: Sequence[ReceivedMessage]) -> Arrived:
    events: list[CloudCommand] = []
    invalid: list[str] = []
    for each in messages:
        try:
            events.append(read(each.message))
        except ValueError as error:
            invalid.append(f"The message {each.message.message_id} cannot be read: {error}")
    return Arrived(events=events, invalid=invalid)


def read(message: PubsubMessage) -> CloudCommand:
    """The content of a message. Raises ValueError."""
    try:
        body = json.loads(message.data or b"{}")
    except RecursionError as error:
        raise ValueError("it is too deeply nested") from error
    if not isinstance(body, dict):
        raise ValueError("it is not an object")  # noqa: TRY004 - what a sender wrote, not a programmer
    said = {**dict(message.attributes), **body}
    device = said.get("device", message.ordering_key)
    if not isinstance(device, str) or not device:
        raise ValueError("it names no device of the fleet")
    name, args = said.get("command"), body.get("args", {})
    if not isinstance(name, str) or not name or not isinstance(args, dict):
        raise ValueError("it has no command with args")
    given = said.get("id")
    return CloudCommand(
        id=given if isinstance(given, str) and given else message.message_id,
        device=device,
        name=name,
        args=cast("Mapping[str, object]", args),
    )
