"""How long a test waits for an event before it fails as hanging.

The clock decides no verdict: slowness of a busy machine is not a failure. The limit only ends a hang with a message; it
is far above anything on a machine that does ten other things. Where promptness itself is tested, it is tried
repeatedly: :func:`soonest`.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable

#: Seconds. Below the limit of a whole test, ``timeout`` in pyproject.toml, so that the message names the hang.
PATIENCE_S = 240.0

#: How often something prompt is tried, and how often a condition is checked, seconds.
_TRIES = 10
_LOOK_S = 0.005


async def until(condition: Callable[[], object]) -> None:
    """Waits until a condition holds; awaits it if it is a coroutine. Raises TimeoutError after :data:`PATIENCE_S`."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found = condition()
            if await found if inspect.isawaitable(found) else found:
                return
            await asyncio.sleep(_LOOK_S)


async def soonest(attempt: Callable[[], Awaitable[float]], within_s: float) -> float:
    """The seconds of the first attempt faster than ``within_s``; of the fastest of ten if none is.

    A busy machine makes some attempts slow; a slow implementation makes all of them slow.

    Args:
        attempt: does it once, and returns the seconds that it took.
    """
    quickest = await attempt()
    for _ in range(_TRIES - 1):
        if quickest < within_s:
            break
        quickest = min(quickest, await attempt())
    return quickest
