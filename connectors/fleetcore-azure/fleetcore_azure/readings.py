"""Readings as device-to-cloud messages over HTTPS, under each device's name: one per device and call.

They are sent with the token of a shared access policy, which may act for every device with keys. It may not for one
with certificates: those readings are refused, with the reason, like those of a device that another writer has created
again.
"""

import asyncio
import datetime as dt
from collections.abc import Mapping, Sequence

from fleetcore.interfaces.bundles import Message, Reading, bundled, of_numbers, of_texts, sent_of
from fleetcore.interfaces.call_failed import CallFailed
from fleetcore.interfaces.cloud import Sent
from fleetcore.model.telemetry import SeriesCatalog, TelemetryBatch, TextReading
from fleetcore_azure.clients import Clients
from fleetcore_azure.failures import HubFailed
from fleetcore_azure.held import TOO_LONG, Devices

#: The limit of one message: 256 kB with its properties (quotas, other limits), with some room left.
_MAX_SIZE = 240 * 1024
#: How long the reason of a device's refusal is cached.
_KNOWN_S = 60.0
_SEND = "messages/send"


class Readings:
    """See the module."""

    def __init__(self, clients: Clients, devices: Devices, fleet: str) -> None:
        self._clients, self._devices, self._fleet = clients, devices, fleet
        self._refused: dict[str, tuple[float, str]] = {}

    async def send(self, batch: TelemetryBatch, catalog: SeriesCatalog) -> Sent:
        """As in the interface."""
        return await self._send(*of_numbers(batch, catalog))

    async def send_texts(self, texts: Sequence[TextReading], catalog: SeriesCatalog) -> Sent:
        """As in the interface."""
        return await self._send(of_texts(texts, catalog), {})

    async def _send(self, readings: Sequence[Reading], refused: Mapping[int, str]) -> Sent:
        messages, unnamed = bundled(readings, self._devices.name, self._fleet, _MAX_SIZE, TOO_LONG)
        failures = await self._published(messages)
        return sent_of(len(readings) + len(refused), messages, failures, {**refused, **unnamed})

    async def _published(self, messages: Sequence[Message]) -> list[CallFailed | None]:
        """Devices in parallel, the messages of each one after another."""
        devices: dict[str, list[int]] = {}
        for at, message in enumerate(messages):
            devices.setdefault(message.name, []).append(at)
        found: list[CallFailed | None] = [None] * len(messages)

        async def publish(numbers: Sequence[int]) -> None:
            for done, at in enumerate(numbers):
                try:
                    await self._publish(messages[at])
                except CallFailed as failed:
                    found[at] = failed
                    if failed.kind != "invalid":
                        for later in numbers[done + 1 :]:  # in order, or not at all
                            found[later] = failed
                        return

        await asyncio.gather(*(publish(numbers) for numbers in devices.values()))
        return found

    async def _publish(self, message: Message) -> None:
        now_s = self._clients.clock.monotonic_s()
        known_s, why = self._refused.get(message.name, (0.0, ""))
        if why and now_s - known_s < _KNOWN_S:
            raise HubFailed(_SEND, "invalid", why)
        try:
            await self._clients.for_device(
                _SEND, "POST", message.name, "events", body=message.data, headers=self._properties(message)
            )
        except HubFailed as failed:
            if failed.kind not in {"credentials", "missing"}:
                raise
            # The hub gives the same error for an invalid key and for a device that the policy may not use.
            reason = await self._devices.why_closed(message.name)
            if reason is None:
                raise
            self._refused[message.name] = (now_s, reason)
            raise HubFailed(_SEND, "invalid", reason) from failed
        self._refused.pop(message.name, None)

    def _properties(self, message: Message) -> Mapping[str, str]:
        """Properties for routes and queries of the hub, which do not see the body."""
        return {
            "content-type": "application/json",
            "iothub-contenttype": "application/json",
            "iothub-contentencoding": "utf-8",
            "iothub-creation-time-utc": _utc(message.last),
            "iothub-app-fleet": self._fleet,
            "iothub-app-kind": "telemetry",
            "iothub-app-first": str(message.first),
            "iothub-app-last": str(message.last),
        }


def _utc(time_ms: int) -> str:
    return dt.datetime.fromtimestamp(time_ms / 1000, dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
