"""Turns: at most so many of something at once; those that wait are served first come first served, source by source.

The sources take turns too. So a source that asks for thousands waits for itself, and the next one of another source
waits for about as many turns as there are sources.
"""

import asyncio
from collections import deque


class Turn:
    """A place among those that are at it; :meth:`end` is idempotent."""

    __slots__ = ("_ended", "_turns")

    def __init__(self, turns: "Turns") -> None:
        self._turns, self._ended = turns, False

    def end(self) -> None:
        """Gives the place to the next one."""
        if not self._ended:
            self._ended = True
            self._turns._left()


class Turns:
    """Hands out places, to each source in the order in which it asks.

    Attributes:
        under_way: places that are taken.
        begun: turns since the start.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        #: By source; the source whose turn it is stands first, and none is empty.
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        self.under_way = 0
        self.begun = 0

    @property
    def waiting(self) -> int:
        """How many wait for theirs."""
        return sum(map(len, self._waiting.values()))

    async def take(self, source: str = "") -> Turn:
        """Returns when it is this one's turn; a wait that is cancelled gives its place on."""
        if self.under_way < self._most and not self._waiting:
            self.under_way += 1
        else:
            place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(source, deque()).append(place)
            try:
                await place
            except asyncio.CancelledError:
                if place.done() and not place.cancelled():
                    self._left()
                else:
                    self._leave_queue(source, place)
                raise
        self.begun += 1
        return Turn(self)

    def _leave_queue(self, source: str, place: "asyncio.Future[None]") -> None:
        queue = self._waiting.get(source)
        if queue is not None and place in queue:  # not where a turn ended meanwhile, which has passed it over
            queue.remove(place)
            if not queue:
                del self._waiting[source]

    def _left(self) -> None:
        while self._waiting:
            source = next(iter(self._waiting))
            queue = self._waiting.pop(source)
            place = queue.popleft()
            if queue:
                self._waiting[source] = queue  # behind all others
            if not place.done():
                place.set_result(None)  # the place goes over: it is never free in between
                return
        self.under_way -= 1
