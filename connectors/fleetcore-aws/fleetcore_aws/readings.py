"""Readings as messages: one a device and call, in the device's order, over whichever service is configured.

What was not taken is sent again, and with it all of its device that came after, so that each device's order holds.
"""

import asyncio
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import cast

from attrs import frozen

from fleetcore.interfaces.cloud import Sent
from fleetcore.model.telemetry import Series, SeriesCatalog, TelemetryBatch, TextReading, shown
from fleetcore_aws import answers
from fleetcore_aws.actions import SENDING
from fleetcore_aws.clients import Clients
from fleetcore_aws.config import AwsConfig
from fleetcore_aws.failures import CallFailed, for_all, is_for_all, unavailable
from fleetcore_aws.names import THING

#: Of one message: 128 KB of AWS IoT is the least of the services' bounds; room is left for what is around readings.
_LARGEST = 120 * 1024
#: Messages and bytes of one call, by service (quotas: see the table of actions).
_AT_ONCE: Mapping[str, tuple[int, int]] = {
    "kinesis": (500, 4 * 1024 * 1024),
    "firehose": (500, 3 * 1024 * 1024),
    "sqs": (10, 240 * 1024),
}


@frozen(kw_only=True)
class _Reading:
    """One reading and where it stands in what is sent."""

    at: int
    series: Series
    time: int
    said: float | bool | str


@frozen(kw_only=True)
class _Message:
    """Readings of one device: their indices in the batch, and the text that is sent."""

    thing: str
    indices: Sequence[int]
    data: bytes


class Readings:
    """See the module."""

    def __init__(self, clients: Clients, config: AwsConfig, fleet: str) -> None:
        self._clients, self._fleet, self._prefix = clients, fleet, config.thing_prefix
        self._to = config.telemetry

    async def send(self, batch: TelemetryBatch, catalog: SeriesCatalog) -> Sent:
        """As the interface has it."""
        refused: dict[int, str] = {}
        readings = []
        for at, (index, time, value) in enumerate(
            zip(batch.series.tolist(), batch.time.tolist(), batch.value.tolist(), strict=True)
        ):
            series = catalog.series(index)
            if not math.isfinite(value):
                refused[at] = "JSON has no form for a number that is not finite"
                continue
            (said,) = shown(series, batch.value[at : at + 1], batch.quality[at : at + 1])
            readings.append(_Reading(at=at, series=series, time=time, said=said))
        return await self._send(readings, refused)

    async def send_texts(self, texts: Sequence[TextReading], catalog: SeriesCatalog) -> Sent:
        """As the interface has it."""
        readings = [
            _Reading(at=at, series=catalog.series(text.series), time=text.time, said=text.value)
            for at, text in enumerate(texts)
        ]
        return await self._send(readings, {})

    async def _send(self, readings: Sequence[_Reading], refused: dict[int, str]) -> Sent:
        count = len(readings) + len(refused)
        messages, unnamed = self._messages(readings)
        refused |= unnamed
        failures = await (self._published(messages) if self._to.via == "iot-data" else self._put(messages))
        errors = [failed for failed in failures if failed is not None]
        for error in errors:
            if is_for_all(error):
                raise for_all(error) from error
        if errors and len(errors) == len(messages) and all(error.lost for error in errors):
            raise unavailable(errors[0]) from errors[0]
        rest: list[int] = []
        stopped: set[str] = set()
        for message, failed in zip(messages, failures, strict=True):
            if failed is not None and failed.kind == "invalid" and message.thing not in stopped:
                refused |= dict.fromkeys(message.indices, str(failed))
            elif failed is not None or message.thing in stopped:
                stopped.add(message.thing)
                rest += message.indices
        return Sent(
            taken=count - len(refused) - len(rest),
            refused=refused,
            rest=sorted(rest),
            retry_after_s=max((error.retry_after_s for error in errors), default=0.0),
        )

    # -- messages ---------------------------------------------------------------------------------------------------

    def _messages(self, readings: Sequence[_Reading]) -> tuple[list[_Message], dict[int, str]]:
        """Messages, and what there can be none of."""
        devices: dict[str, list[tuple[int, bytes]]] = {}
        for each in readings:
            plain: dict[str, object] = {"metric": each.series.metric, "time": each.time, "value": each.said}
            if each.series.unit is not None:
                plain["unit"] = each.series.unit
            text = json.dumps(plain, separators=(",", ":")).encode()
            devices.setdefault(each.series.device, []).append((each.at, text))
        refused: dict[int, str] = {}
        messages = []
        for device, parts in devices.items():
            thing = THING.encode(device, self._prefix)
            if thing is None:
                refused |= {at: "The device's id is too long for a thing's name" for at, _ in parts}
                continue
            messages += self._cut(device, thing, parts)
        return messages, refused

    def _cut(self, device: str, thing: str, readings: Sequence[tuple[int, bytes]]) -> list[_Message]:
        head = json.dumps({"device": device, "fleet": self._fleet}, separators=(",", ":"))[:-1].encode()
        found: list[_Message] = []
        part: list[tuple[int, bytes]] = []
        length = 0
        for each in (*readings, None):
            if part and (each is None or length + len(each[1]) > _LARGEST):
                data = head + b',"readings":[' + b",".join(text for _, text in part) + b"]}"
                found.append(_Message(thing=thing, indices=[at for at, _ in part], data=data))
                part, length = [], 0
            if each is not None:
                part.append(each)
                length += len(each[1]) + 1
        return found

    # -- calls ------------------------------------------------------------------------------------------------------

    async def _published(self, messages: Sequence[_Message]) -> list[CallFailed | None]:
        """Devices side by side, the messages of each one after another."""
        devices: dict[str, list[int]] = {}
        for at, message in enumerate(messages):
            devices.setdefault(message.thing, []).append(at)
        found: list[CallFailed | None] = [None] * len(messages)

        async def publish(numbers: Sequence[int]) -> None:
            for done, at in enumerate(numbers):
                topic = f"{self._to.topic}/{self._fleet}/{messages[at].thing}/telemetry"
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

    async def _put(self, messages: Sequence[_Message]) -> list[CallFailed | None]:
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

    async def _put_at_once(self, part: Sequence[_Message]) -> list[CallFailed | None]:
        action = SENDING[self._to.via]
        match self._to.via:
            case "kinesis":
                records = [{"Data": each.data + b"\n", "PartitionKey": each.thing} for each in part]
                answer = await self._clients.call(action, StreamName=self._to.stream, Records=records)
                return self._each(action, answers.records(action, answer, "Records"), part)
            case "firehose":
                lines = [{"Data": each.data + b"\n"} for each in part]
                answer = await self._clients.call(action, DeliveryStreamName=self._to.stream, Records=lines)
                return self._each(action, answers.records(action, answer, "RequestResponses"), part)
            case _:
                return await self._enqueued(action, part)

    def _each(self, action: str, said: Sequence[answers.Answer], part: Sequence[_Message]) -> list[CallFailed | None]:
        if len(said) != len(part):
            raise CallFailed(action, "unavailable", "the answer has not a record for each; it was cut off", lost=True)
        return [
            CallFailed(action, "throttled", f"{each['ErrorCode']}: {each.get('ErrorMessage', '')}")
            if each.get("ErrorCode")
            else None
            for each in said
        ]

    async def _enqueued(self, action: str, part: Sequence[_Message]) -> list[CallFailed | None]:
        queue = str(self._to.queue)
        entries: list[dict[str, str]] = []
        for at, each in enumerate(part):
            entry = {"Id": str(at), "MessageBody": each.data.decode()}
            if queue.endswith(".fifo"):
                entry["MessageGroupId"] = each.thing
                entry["MessageDeduplicationId"] = hashlib.sha256(each.data).hexdigest()
            entries.append(entry)
        answer = await self._clients.call(action, QueueUrl=queue, Entries=entries)
        failed = {str(each.get("Id")): each for each in cast("Sequence[answers.Answer]", answer.get("Failed") or ())}
        taken = {str(each.get("Id")) for each in cast("Sequence[answers.Answer]", answer.get("Successful") or ())}
        found: list[CallFailed | None] = []
        for at in range(len(part)):
            one = failed.get(str(at))
            if one is not None:
                kind = "invalid" if one.get("SenderFault") else "throttled"
                found.append(CallFailed(action, kind, f"{one.get('Code')}: {one.get('Message', '')}"))  # type: ignore[arg-type]  # one of two kinds
            elif str(at) in taken:
                found.append(None)
            else:
                raise CallFailed(action, "unavailable", "the answer is not whole", lost=True)
        return found
