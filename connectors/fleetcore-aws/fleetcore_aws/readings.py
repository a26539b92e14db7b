"""Readings as messages: one per device and call, in the device's order, over the configured service."""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import cast

from fleetcore.interfaces.bundles import Message, Reading, bundled, of_numbers, of_texts, sent_of
from fleetcore.interfaces.cloud import Sent
from fleetcore.model.telemetry import SeriesCatalog, TelemetryBatch, TextReading
from fleetcore_aws import answers
from fleetcore_aws.actions import SENDING
from fleetcore_aws.clients import Clients
from fleetcore_aws.config import AwsConfig
from fleetcore_aws.failures import CallFailed
from fleetcore_aws.names import THING

#: The limit of one message: 128 KB of AWS IoT is the smallest of the services; some room is left for metadata.
_MAX_SIZE = 120 * 1024
#: Messages and bytes of one call, by service (quotas: see the table of actions).
_AT_ONCE: Mapping[str, tuple[int, int]] = {
    "kinesis": (500, 4 * 1024 * 1024),
    "firehose": (500, 3 * 1024 * 1024),
    "sqs": (10, 240 * 1024),
}


class Readings:
    """Sends readings; see the module."""

    def __init__(self, clients: Clients, config: AwsConfig, fleet: str) -> None:
        self._clients, self._fleet, self._prefix = clients, fleet, config.thing_prefix
        self._to = config.telemetry

    async def send(self, batch: TelemetryBatch, catalog: SeriesCatalog) -> Sent:
        """As in the interface."""
        return await self._send(*of_numbers(batch, catalog))

    async def send_texts(self, texts: Sequence[TextReading], catalog: SeriesCatalog) -> Sent:
        """As in the interface."""
        return await self._send(of_texts(texts, catalog), {})

    async def _send(self, readings: Sequence[Reading], refused: Mapping[int, str]) -> Sent:
        name_of = partial(THING.encode, prefix=self._prefix)
        why = "The device's id is too long for a thing's name"
        messages, unnamed = bundled(readings, name_of, self._fleet, _MAX_SIZE, why)
        failures = await (self._published(messages) if self._to.via == "iot-data" else self._put(messages))
        return sent_of(len(readings) + len(refused), messages, failures, {**refused, **unnamed})

    # -- calls ------------------------------------------------------------------------------------------------------

    async def _published(self, messages: Sequence[Message]) -> list[CallFailed | None]:
        """Devices in parallel, the messages of each one after another."""
        devices: dict[str, list[int]] = {}
        for at, message in enumerate(messages):
            devices.setdefault(message.name, []).append(at)
        found: list[CallFailed | None] = [None] * len(messages)

        async def publish(numbers: Sequence[int]) -> None:
            for done, at in enumerate(numbers):
                topic = f"{self._to.topic}/{self._fleet}/{messages[at].name}/telemetry"
                try:
                    await self._clients.call("iot:Publish", topic=topic, qos=self._to.qos, payload=messages[at].data)
                except CallFailed as failed:
                    found[at] = failed
                    if failed.kind != "invalid":
                        for later in numbers[done + 1 :]:  # in order, or not at all
                            found[later] = failed
                        return

        await asyncio.gather(*(publish(numbers) for numbers in devices.values()))
        return found

    async def _put(self, messages: Sequence[Message]) -> list[CallFailed | None]:
        """Batches one after another; after a failed call nothing more is tried."""
        most, largest = _AT_ONCE[self._to.via]
        found: list[CallFailed | None] = []
        while len(found) < len(messages):
            start, end = len(found), len(found) + 1
            length = len(messages[start].data)
            while end < len(messages) and end - start < most and length + len(messages[end].data) <= largest:
                length += len(messages[end].data)
                end += 1
            try:
                found += await self._put_at_once(messages[start:end])
            except CallFailed as failed:
                found += [failed] * (len(messages) - start)
        return found

    async def _put_at_once(self, part: Sequence[Message]) -> list[CallFailed | None]:
        action = SENDING[self._to.via]
        match self._to.via:
            case "kinesis":
                records = [{"Data": each.data + b"\n", "PartitionKey": each.name} for each in part]
                answer = await self._clients.call(action, StreamName=self._to.stream, Records=records)
                return self._each(action, answers.records(action, answer, "Records"), part)
            case "firehose":
                lines = [{"Data": each.data + b"\n"} for each in part]
                answer = await self._clients.call(action, DeliveryStreamName=self._to.stream, Records=lines)
                return self._each(action, answers.records(action, answer, "RequestResponses"), part)
            case _:
                return await self._enqueued(action, part)

    def _each(self, action: str, said: Sequence[answers.Answer], part: Sequence[Message]) -> list[CallFailed | None]:
        if len(said) != len(part):
            raise CallFailed(
                action, "unavailable", "the answer does not have a record for each; it was truncated", lost=True
            )
        return [
            CallFailed(action, "throttled", f"{each['ErrorCode']}: {each.get('ErrorMessage', '')}")
            if each.get("ErrorCode")
            else None
            for each in said
        ]

    async def _enqueued(self, action: str, part: Sequence[Message]) -> list[CallFailed | None]:
        queue = str(self._to.queue)
        entries: list[dict[str, str]] = []
        for at, each in enumerate(part):
            entry = {"Id": str(at), "MessageBody": each.data.decode()}
            if queue.endswith(".fifo"):
                entry["MessageGroupId"] = each.name
                entry["MessageDeduplicationId"] = hashlib.sha256(each.data).hexdigest()
            entries.append(entry)
        answer = await self._clients.call(action, QueueUrl=queue, Entries=entries)
        failed = {str(each.get("Id")): each for each in cast("Sequence[answers.Answer]", answer.get("Failed") or ())}
        taken = {str(each.get("Id")) for each in cast("Sequence[answers.Answer]", answer.get("Successful") or ())}
        found: list[CallFailed | None] = []
        for at in range(len(part)):
            item = failed.get(str(at))
            if item is not None:
                kind = "invalid" if item.get("SenderFault") else "throttled"
                found.append(CallFailed(action, kind, f"{item.get('Code')}: {item.get('Message', '')}"))  # type: ignore[arg-type]  # one of two kinds
            elif str(at) in taken:
                found.append(None)
            else:
                raise CallFailed(action, "unavailable", "the answer is incomplete", lost=True)
        return found
