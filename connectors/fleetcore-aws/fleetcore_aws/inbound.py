"""Messages from AWS: an SQS queue into which rules of AWS IoT write commands and changed shadows.

A message is deleted when the next one is requested, which confirms that it was stored; on exit, unconfirmed messages
are made visible again at once. Supported forms:

- ``{"device": ID, "command": NAME, "args": {…}, "id": TEXT}``; ``thing`` instead of ``device``, and without ``id`` the
  message's own;
- the messages of ``$aws/things/THING/shadow/name/twin/update/documents``, with ``thing`` added by the rule.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from typing import cast

from fleetcore.interfaces.call_failed import for_all, is_for_all
from fleetcore.interfaces.cloud import Arrived, CloudChange, CloudCommand
from fleetcore.model.mirror import EntityKey
from fleetcore_aws import answers
from fleetcore_aws.clients import Clients
from fleetcore_aws.config import AwsConfig
from fleetcore_aws.failures import CallFailed
from fleetcore_aws.names import THING

_RECEIVE = "sqs:ReceiveMessage"
#: When a message was sent to the queue, ms since the epoch.
_SENT = "SentTimestamp"
_AT_ONCE = 10


class Inbound:
    """See the module."""

    def __init__(self, clients: Clients, config: AwsConfig) -> None:
        self._clients, self._queue, self._prefix = clients, config.commands_queue, config.thing_prefix
        self._wait_s = config.queue_wait_s

    async def arriving(self) -> AsyncGenerator[Arrived, None]:
        """As in the interface; the queue itself tracks messages, so there are no positions."""
        held: list[str] = []
        try:
            while True:
                messages = await self._polled()
                held = [answers.text(_RECEIVE, each, "ReceiptHandle") for each in messages]
                events: list[CloudCommand | CloudChange] = []
                invalid: list[str] = []
                for each in messages:
                    try:
                        events.append(self._read(each))
                    except ValueError as error:
                        invalid.append(f"The message {each.get('MessageId')} cannot be read: {error}")
                if messages:
                    yield Arrived(events=events, invalid=invalid)
                    await self._taken(held)
                    held = []
        finally:
            if held:
                await self._given_back(held)

    async def _polled(self) -> Sequence[answers.Answer]:
        """Waits for messages. If it is cancelled, messages that the call under way still receives are returned."""
        asked = asyncio.ensure_future(
            self._clients.call(
                _RECEIVE,
                QueueUrl=self._queue,
                MaxNumberOfMessages=_AT_ONCE,
                WaitTimeSeconds=self._wait_s,
                AttributeNames=[_SENT],
            )
        )
        try:
            answer = await asyncio.shield(asked)
        except asyncio.CancelledError:
            with suppress(CallFailed):
                if handles := [str(each["ReceiptHandle"]) for each in _messages(await asked)]:
                    await self._given_back(handles)
            raise
        except CallFailed as failed:
            raise for_all(failed) from failed
        return _messages(answer)

    async def _taken(self, handles: Sequence[str]) -> None:
        entries = [{"Id": str(at), "ReceiptHandle": handle} for at, handle in enumerate(handles)]
        try:
            await self._clients.call("sqs:DeleteMessage", QueueUrl=self._queue, Entries=entries)
        except CallFailed as failed:
            # They come again, and the engine knows their ids; without the permission they would come forever.
            if is_for_all(failed):
                raise for_all(failed) from failed

    async def _given_back(self, handles: Sequence[str]) -> None:
        entries = [
            {"Id": str(at), "ReceiptHandle": handle, "VisibilityTimeout": 0} for at, handle in enumerate(handles)
        ]
        await self._clients.beside("sqs:ChangeMessageVisibility", QueueUrl=self._queue, Entries=entries)

    def _read(self, message: answers.Answer) -> CloudCommand | CloudChange:
        """The content of a message. Raises ValueError."""
        body = json.loads(answers.text(_RECEIVE, message, "Body"))
        if not isinstance(body, dict):
            raise ValueError("it is not an object")  # noqa: TRY004 - what a sender wrote, not a programmer
        device = body.get("device")
        if not isinstance(device, str) and isinstance(body.get("thing"), str):
            device = THING.decode(body["thing"], self._prefix)
        if not isinstance(device, str) or not device:
            raise ValueError("it names no device of the fleet")
        if "command" not in body and "current" in body:
            return CloudChange(entity=EntityKey("twin", device))
        name, args = body.get("command"), body.get("args", {})
        if not isinstance(name, str) or not name or not isinstance(args, dict):
            raise ValueError("it has no command with args")
        given = body.get("id")
        return CloudCommand(
            id=given if isinstance(given, str) and given else answers.text(_RECEIVE, message, "MessageId"),
            device=device,
            name=name,
            args=cast("Mapping[str, object]", args),
            given=_sent(message),
        )


def _sent(message: answers.Answer) -> int | None:
    attributes = message.get("Attributes")
    sent = attributes.get(_SENT) if isinstance(attributes, dict) else None
    return int(sent) if isinstance(sent, str) and sent.isascii() and sent.isdigit() else None


def _messages(answer: answers.Answer) -> Sequence[answers.Answer]:
    # The answer of an empty queue lacks the member, like a truncated one: both are repeated.
    return cast("Sequence[answers.Answer]", answer.get("Messages") or ())
