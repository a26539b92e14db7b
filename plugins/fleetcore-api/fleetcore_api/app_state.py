"""The state that all parts of the API share: the fleet, the settings, and counts of failures."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from fleetcore.errors import FleetError, NotReady, Refused
from fleetcore.fleet.buckets import Buckets
from fleetcore.runtime.app import Fleet
from fleetcore_api.config import ApiConfig

#: Consumers that write to other systems: reads here do not wait for them.
_OUTWARD = ("mirror/", "notifier/")


class AppState:
    """One open API; ``name`` is the name of its section."""

    def __init__(self, *, name: str, config: ApiConfig, fleet: Fleet) -> None:
        self.name, self.config, self.fleet = name, config, fleet
        self.failures = Buckets(fleet.clock, config.failures_per_minute)
        self.requests = Buckets(fleet.clock, config.requests_per_minute)
        self.closing = asyncio.Event()
        self._end: asyncio.Future[None] | None = None

    def check_rate(self, principal: str) -> None:
        """Counts a request of a principal; raises Unavailable if it sends too many."""
        too_often = f"This principal sends too many requests: it may send {self.requests.per_minute} a minute"
        self.requests.check(principal, too_often, unit="requests/min", scope="principal")

    def close(self) -> None:
        """Ends event streams, and requests that wait for their body or for an event."""
        self.closing.set()
        if self._end is not None and not self._end.done():
            self._end.set_result(None)

    def until_end(self, receive: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
        """A request's ``receive``, which reports a disconnect once the API ends."""

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
        """The refusal of an interrupted request: its sender has left, or the API ends."""
        if self.closing.is_set():
            return NotReady("The server stops", remedy="Send it again when the server is back")
        return Refused(f"The {what} was interrupted", code="payload_unreadable")

    async def reach(self, position: int) -> None:
        """Returns once everything committed up to a position is visible in reads.

        Raises Refused for a position that this fleet has not reached, NotReady if waiting took too long.
        """
        storage = self.fleet.storage
        if position > await storage.position():
            raise Refused(
                f"The fleet has not reached position {position}", remedy="Send a position that this server returned"
            )
        inward = [consumer for consumer in self.fleet.consumers if not consumer.name.startswith(_OUTWARD)]
        try:
            async with asyncio.timeout(self.config.wait_s):
                for consumer in inward:
                    await consumer.catch_up(position)
        except TimeoutError as error:
            raise NotReady(f"The fleet has not reached position {position} yet", retry_after_s=1.0) from error
