"""Deadlines are the peer's: what came while the server was busy is read before anything is judged to be late."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Protocol

_SWEEP_S = 1.0
#: Turns of the loop: timers may run before the sockets are looked at, and what they bring is handled one turn later.
_TURNS = 3


class Ticking(Protocol):
    """What is needed of a clock."""

    def monotonic_s(self) -> float:
        """Seconds since some fixed moment."""

    async def sleep(self, seconds: float) -> None:
        """Returns after ``seconds``."""


async def sweeps(clock: Ticking) -> AsyncGenerator[float, None]:
    """The moments at which deadlines are judged, about a second apart, for ever: seconds of ``clock``.

    What peers had sent by then has been read, as far as it is read at all.
    """
    while True:
        await clock.sleep(_SWEEP_S)
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        yield clock.monotonic_s()
