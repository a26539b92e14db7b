"""How long a test waits for what is to happen, before it says that it hangs.

No verdict by the clock: what a busy machine makes slow is not a failure. A bound is there so that a hang ends with a
message; it is far beyond what anything takes on a machine that does ten other things. Where promptness is the thing
that is asked for, it is tried again: :func:`soonest`.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable

#: Seconds. Below the limit of a whole test, ``timeout`` in pyproject.toml, so that the message names what hangs.
PATIENCE_S = 240.0

#: How often a thing that has to be prompt is tried, and how often a condition is looked at, seconds.
_TRIES = 10
_LOOK_S = 0.005


async def until(condition: Callable[[], object]) -> None:
    """Until a condition holds, awaited where it is a coroutine's. Raises TimeoutError after :data:`PATIENCE_S`."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found = condition()
            if await found if inspect.isawaitable(found) else found:
                return
            await asyncio.sleep(_LOOK_S)


async def soonest(attempt: Callable[[], Awaitable[float]], within_s: float) -> float:
    """The seconds of the first attempt that takes less than ``within_s``; of the quickest of ten where none does.

    A busy machine makes some attempts slow; what is slow by itself is slow each time.

    Args:
        attempt: does the thing once, and returns how many seconds it took.
    """
    quickest = await attempt()
    for _ in range(_TRIES - 1):
        if quickest < within_s:
            break
        quickest = min(quickest, await attempt())
    return quickest
