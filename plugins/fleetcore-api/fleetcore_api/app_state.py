"""What all parts of the API share while it is open: the fleet, the settings, who failed how often."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from fleetcore.errors import FleetError, NotReady, Refused
from fleetcore.fleet.buckets import Buckets
from fleetcore.runtime.app import Fleet
from fleetcore_api.config import ApiConfig

#: Consumers that tell the outside: nothing that is read here waits for them.
_OUTWARD = ("mirror/", "notifier/")


class AppState:
    """One open API; ``name`` is that of its section."""

    def __init__(self, *, name: str, config: ApiConfig, fleet: Fleet) -> None:
        self.name, self.config, self.fleet = name, config, fleet
        self.failures = Buckets(fleet.clock, config.failures_per_minute)
        self.requests = Buckets(fleet.clock, config.requests_per_minute)
        self.closing = asyncio.Event()
        self._end: asyncio.Future[None] | None = None

    def check_rate(self, principal: str) -> None:
        """Counts a request of a principal; raises Unavailable where it asks too often."""
        too_often = f"This principal asks too often: it may ask {self.requests.per_minute} times a minute"
        self.requests.check(principal, too_often, unit="requests/min", scope="principal")

    def close(self) -> None:
        """Ends event streams, and requests that wait: for their body, or for something to happen."""
        self.closing.set()
        if self._end is not None and not self._end.done():
            self._end.set_result(None)

    def until_end(self, receive: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
        """A request's ``receive``, to which it is as if the reader had left once the API ends."""

        async def receiving() -> Any:
            if self._end is None:
                self._end = asyncio.get_running_loop().create_future()
            coming = asyncio.ensure_future(receive())
            try:
                if not self.closing.is_set():
                    await asyncio.wait({coming, self._end}, return_when=asyncio.FIRST_COMPLETED)
                return coming.result() if coming.done() else {"type": "http.disconnect"}
            finally:
                coming.cancel()

        return receiving

    def cut_off(self, what: str) -> FleetError:
        """The refusal of what did not come to its end: its sender left, or the API ends."""
        if self.closing.is_set():
            return NotReady("The server stops", remedy="Send it again when it is back")
        return Refused(f"The {what} was cut off", code="payload_unreadable")

    async def reach(self, position: int) -> None:
        """Returns once what was committed up to a position shows in everything that is read here.

        Raises Refused for a position that this fleet never was at, NotReady where waiting took too long.
        """
        storage = self.fleet.storage
        if position > await storage.position():
            raise Refused(f"The fleet has not been at position {position}", remedy="Send one that this server answered")
        inward = [consumer for consumer in self.fleet.consumers if not consumer.name.startswith(_OUTWARD)]
        try:
            async with asyncio.timeout(self.config.wait_s):
                for consumer in inward:
                    await consumer.catch_up(position)
        except TimeoutError as error:
            raise NotReady(f"The fleet is not at position {position} yet", retry_after_s=1.0) from error
