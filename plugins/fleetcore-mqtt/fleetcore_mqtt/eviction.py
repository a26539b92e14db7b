"""Disconnects revoked devices from a broker, which keeps open connections.

First the command in ``reload`` makes the broker read the new revocation list, so that the device cannot come back. Then
the server connects under the device's name, with a certificate made for this: the broker ends the older connection with
the same client id, and deletes its session with all waiting messages. Mosquitto 2.0.11 did not end it in any other way.
"""

import asyncio
from collections.abc import Sequence

import paho.mqtt.client as paho

from fleetcore.interfaces import Context
from fleetcore_mqtt.addresses import Address
from fleetcore_mqtt.takeover import take_over

#: The time limit of the reload command.
TIMEOUT_S = 10.0

#: Devices disconnected in parallel.
_AT_ONCE = 16


class Eviction:
    """Disconnects devices from the broker at ``address``."""

    def __init__(self, address: Address, reload: Sequence[str], context: Context) -> None:
        self._address, self._reload, self._context = address, tuple(reload), context
        self._turn = asyncio.Semaphore(_AT_ONCE)

    async def carry_out(self, devices: frozenset[str]) -> None:
        """Reloads the broker's list, then ends the devices' connections; failures are logged and counted."""
        if not self._reload:
            if devices:
                self._context.count("mqtt_eviction_impossible")
                self._context.logger.warning(
                    "%s keeps the connections of revoked devices: set reload in [protocols.%s]",
                    self._address.host,
                    self._context.name,
                )
            return
        if not await self._reloaded():
            return
        if self._context.tls is not None and self._address.secure:
            await asyncio.gather(*(self._evict(device) for device in devices))

    async def _reloaded(self) -> bool:
        problem = ""
        try:
            process = await asyncio.create_subprocess_exec(
                *self._reload, stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
            )
        except OSError as error:
            problem = str(error)
        else:
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    _, err = await process.communicate()
                if process.returncode:
                    problem = f"exit {process.returncode}: {err.decode(errors='replace').strip()[-500:]}"
            except TimeoutError:
                process.kill()
                await process.wait()
                problem = f"it took longer than {TIMEOUT_S:g} s"
        if problem:
            self._context.count("mqtt_reload_failed")
            self._context.logger.error("The broker's list was not reloaded by %s: %s", self._reload[0], problem)
        return not problem

    async def _evict(self, device: str) -> None:
        async with self._turn:
            assert self._context.tls is not None  # as carry_out has checked
            done = await asyncio.to_thread(take_over, self._address, self._context.tls, device, _leave)
        if not done:
            self._context.count("mqtt_eviction_failed")
            self._context.logger.error(
                "The broker did not disconnect %s; its list keeps the device from returning", device
            )


def _leave(client: paho.Client) -> None:
    client.disconnect()
