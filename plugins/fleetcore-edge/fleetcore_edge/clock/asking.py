"""The time of the core: asked for after each connection, and from time to time."""

import asyncio
from collections.abc import Callable

from fleetcore.errors import FleetError
from fleetcore.interfaces.protocol import DeviceClient
from fleetcore.wire import messages
from fleetcore_edge.clock.gateway_clock import GatewayClock

#: The answer with the shortest of some round trips counts; one below this is short enough at once.
_TRIES, _SHORT_MS = 3, 1_000
#: How long an answer may take: NB-IoT takes 10 s.
_WITHIN_S = 20.0
#: How often it is asked for, while the time is known and while it is not.
_EVERY_S, _UNKNOWN_S = 3600.0, 30.0


class CoreTime:
    """Asks the core for its time, over the uplink's present connection.

    Attributes:
        refused: why the core has not told it, or empty.
    """

    def __init__(self, clock: GatewayClock) -> None:
        self._clock = clock
        self._client: DeviceClient | None = None
        self._checked = True
        self.refused = ""

    def opening(self) -> None:
        """A connection is about to be opened: its certificate is judged by its dates if the time is known now."""
        self._checked = self._clock.is_known

    async def greet(self, client: DeviceClient) -> bool:
        """Asks over a new connection; False where it is to be opened again.

        Its certificate was not judged by its dates while the time was not known; now it can be.
        """
        self._client = client
        await self.ask()
        return self._is_judged()

    def _is_judged(self) -> bool:
        return self._checked or not self._clock.is_known

    async def ask(self) -> None:
        """Asks, and tells the clock."""
        best: tuple[int, int, int] | None = None
        for _ in range(_TRIES):
            answer = await self._answer()
            if answer is None:
                break
            if best is None or answer[0] < best[0]:
                best = answer
            if best[0] <= _SHORT_MS:
                break
        if best is None:
            return
        round_trip, told, at = best
        passed = self._clock.boottime_ms() - at
        self._clock.told(told + round_trip // 2 + passed, half_ms=round_trip // 2)

    async def _answer(self) -> tuple[int, int, int] | None:
        """The round trip, the core's time when it answered, and since the start when the answer came; or None."""
        client = self._client
        if client is None:
            return None
        begun = self._clock.boottime_ms()
        try:
            async with asyncio.timeout(_WITHIN_S):
                reply = await client.request(messages.TIME, {"client": begun})
        except (FleetError, OSError, TimeoutError) as error:
            self.refused = str(error) or "it does not answer"
            return None
        came = self._clock.boottime_ms()
        body = reply.body or {}
        received, sent = body.get("received_ms"), body.get("sent_ms")
        if reply.error is not None or type(received) is not int or type(sent) is not int:
            self.refused = str((reply.error or {}).get("detail") or "its answer is not a time")
            return None
        self.refused = ""
        return max(0, came - begun - (sent - received)), sent, came

    async def run(self, reconnect: Callable[[], None]) -> None:
        """Asks from time to time until cancelled."""
        while True:
            await self._clock.sleep(_EVERY_S if self._clock.is_known else _UNKNOWN_S)
            await self.ask()
            if not self._is_judged():
                reconnect()
