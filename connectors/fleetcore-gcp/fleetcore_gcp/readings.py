"""Readings as messages: one each, a row of the table that a BigQuery subscription writes, in the device's order.

Messages of a device share requests, up to 1,000 in one. A refused one is sent again, with all later ones of its device.
``telemetry.bigquery.json`` is the schema of the table.
"""

import asyncio
import hashlib
from collections.abc import Sequence

from google.pubsub_v1.types import PubsubMessage

from fleetcore.interfaces.bundles import Message, Reading, of_numbers, of_texts, sent_of
from fleetcore.interfaces.cloud import Sent
from fleetcore.model.telemetry import SeriesCatalog, TelemetryBatch, TextReading
from fleetcore.wire.strict_json import dumps
from fleetcore.wire.times import format_time
from fleetcore_gcp.failures import CallFailed, missing
from fleetcore_gcp.publishing import FLEET, ID, MAX_BYTES, MAX_MESSAGES, Publisher, message

#: The bytes that attributes, the ordering key and Pub/Sub's framing add to a message.
_AROUND_BYTES = 256


def row(fleet: str, reading: Reading) -> bytes:
    """One reading as a row: ``value``, ``text`` or ``boolean`` has its value, the others are left out."""
    said = reading.said
    column = "boolean" if isinstance(said, bool) else "text" if isinstance(said, str) else "value"
    plain: dict[str, object] = {
        "fleet": fleet,
        "device": reading.series.device,
        "metric": reading.series.metric,
        "time": format_time(reading.time),
        column: said,
    }
    if reading.series.unit is not None:
        plain["unit"] = reading.series.unit
    return dumps(plain)


class Readings:
    """See the module."""

    def __init__(self, publisher: Publisher, fleet: str, mark: str) -> None:
        self._publisher, self._fleet, self._mark = publisher, fleet, mark

    async def send(self, batch: TelemetryBatch, catalog: SeriesCatalog) -> Sent:
        """As in the interface."""
        readings, refused = of_numbers(batch, catalog)
        return await self._send(readings, refused)

    async def send_texts(self, texts: Sequence[TextReading], catalog: SeriesCatalog) -> Sent:
        """As in the interface."""
        return await self._send(of_texts(texts, catalog), {})

    async def _send(self, readings: Sequence[Reading], refused: dict[int, str]) -> Sent:
        count = len(readings) + len(refused)
        devices: dict[str, list[Message]] = {}
        for request in self._requests(readings, refused):
            devices.setdefault(request.name, []).append(request)
        found = await asyncio.gather(*(self._published(requests) for requests in devices.values()))
        failures = [failed for each in found for failed in each]
        for failed in failures:
            if failed is not None and failed.kind == "missing":
                raise missing("The topic of telemetry", failed) from failed
        return sent_of(count, [each for requests in devices.values() for each in requests], failures, refused)

    def _requests(self, readings: Sequence[Reading], refused: dict[int, str]) -> list[Message]:
        """Rows of one device each, one per line, at most as many as a request can have."""
        devices: dict[str, list[tuple[Reading, bytes]]] = {}
        for each in readings:
            data = row(self._fleet, each)
            if len(data) + _AROUND_BYTES > MAX_BYTES:
                refused[each.at] = (
                    f"the reading is {len(data)} bytes long as a message, and Pub/Sub's limit is {MAX_BYTES}"
                )
                continue
            devices.setdefault(each.series.device, []).append((each, data))
        return [_request(device, part) for device, rows in devices.items() for part in _cut(rows)]

    async def _published(self, requests: Sequence[Message]) -> list[CallFailed | None]:
        """Requests of one device, one after another, until one fails."""
        found: list[CallFailed | None] = []
        for request in requests:
            messages = [self._message(request.name, line) for line in request.data.split(b"\n")]
            try:
                await self._publisher.publish(
                    "telemetry", request.name, messages, len(request.data) + _AROUND_BYTES * len(messages)
                )
            except CallFailed as failed:
                found.append(failed)
                if failed.kind != "invalid":
                    return found + [failed] * (len(requests) - len(found))  # in order, or not at all
            else:
                found.append(None)
        return found

    def _message(self, device: str, data: bytes) -> PubsubMessage:
        # The same reading always has the same id, whenever it is sent again.
        return message(data, device, {FLEET: self._mark, ID: hashlib.sha256(data).hexdigest()[:32]})


def _request(device: str, rows: Sequence[tuple[Reading, bytes]]) -> Message:
    times = [each.time for each, _ in rows]
    return Message(
        name=device,
        indices=[each.at for each, _ in rows],
        first=min(times),
        last=max(times),
        data=b"\n".join(data for _, data in rows),  # JSON contains no line ends
    )


def _cut(rows: Sequence[tuple[Reading, bytes]]) -> list[list[tuple[Reading, bytes]]]:
    found: list[list[tuple[Reading, bytes]]] = [[]]
    length = 0
    for each in rows:
        size = len(each[1]) + _AROUND_BYTES
        if found[-1] and (len(found[-1]) == MAX_MESSAGES or length + size > MAX_BYTES):
            found.append([])
            length = 0
        found[-1].append(each)
        length += size
    return found
