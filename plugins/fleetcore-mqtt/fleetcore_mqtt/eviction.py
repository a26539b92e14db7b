"""Ending a revoked device at a broker, which keeps a connection it has once let in.

First the broker reads the new revocation list, by the command in ``reload``, so that the device cannot come back. Then
the server connects in the device's name, with a certificate made for this: the broker ends the older connection of one
client id. With the session it ends what waits for the device there. Mosquitto 2.0.11 did not end it by any other way.
"""

import asyncio
from collections.abc import Sequence

import paho.mqtt.client as paho

from fleetcore.interfaces import Context
from fleetcore_mqtt.addresses import Address
from fleetcore_mqtt.takeover import take_over

#: The command that reloads takes at most this long.
TIMEOUT_S = 10.0

#: Devices that are thrown out side by side.
_AT_ONCE = 16


class Eviction:
    """Throws devices out of the broker at ``address``."""

    def __init__(self, address: Address, reload: Sequence[str], context: Context) -> None:
        self._address, self._reload, self._context = address, tuple(reload), context
        self._turn = asyncio.Semaphore(_AT_ONCE)

    async def carry_out(self, devices: frozenset[str]) -> None:
        """Reloads the broker's list, then ends the devices' connections; what fails is logged and counted."""
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
            assert self._context.tls is not None  # as carry_out has looked
            done = await asyncio.to_thread(take_over, self._address, self._context.tls, device, _leave)
        if not done:
            self._context.count("mqtt_eviction_failed")
            self._context.logger.error(
                "The broker did not let %s be thrown out; its list keeps it from returning", device
            )


def _leave(client: paho.Client) -> None:
    client.disconnect()
