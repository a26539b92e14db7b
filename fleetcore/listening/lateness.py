"""Judging deadlines fairly: what arrived while the server was busy is read before a peer counts as late."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Protocol

_SWEEP_S = 1.0
#: Turns of the loop: timers may run before the sockets are polled, and what they bring is handled one turn later.
_TURNS = 3


class Ticking(Protocol):
    """The part of a clock that is needed here."""

    def monotonic_s(self) -> float:
        """Seconds since some fixed moment."""

    async def sleep(self, seconds: float) -> None:
        """Returns after ``seconds``."""


async def sweeps(clock: Ticking) -> AsyncGenerator[float, None]:
    """Yields the moments at which deadlines are judged, about a second apart, without end: seconds of ``clock``.

    What peers had sent by then has been read, unless the connection is paused.
    """
    while True:
        await clock.sleep(_SWEEP_S)
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        yield clock.monotonic_s()
