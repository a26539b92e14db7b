"""Turns: a limited number of things at once; the others wait, first come, first served within each source.

The sources take turns too. A source that asks for thousands waits for itself; the next request of another source waits
for about as many turns as there are sources.
"""

import asyncio
from collections import deque


class Turn:
    """A place among those under way; :meth:`end` is idempotent."""

    __slots__ = ("_ended", "_turns")

    def __init__(self, turns: "Turns") -> None:
        self._turns, self._ended = turns, False

    def end(self) -> None:
        """Gives the place to the next in line."""
        if not self._ended:
            self._ended = True
            self._turns._left()


class Turns:
    """Gives out places, to each source in the order in which it asks.

    Attributes:
        under_way: places that are taken.
        begun: turns begun since the start.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        #: By source; the source whose turn it is comes first, and no queue is empty.
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        self.under_way = 0
        self.begun = 0

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(map(len, self._waiting.values()))

    async def take(self, source: str = "") -> Turn:
        """Returns when the caller's turn has come; a cancelled wait passes its place on."""
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
        if queue is not None and place in queue:  # not where a turn that ended meanwhile has skipped it
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
                place.set_result(None)  # the place passes on directly: it is never free in between
                return
        self.under_way -= 1
