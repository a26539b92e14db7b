"""Waiting for the first of several things, and for tasks that are to end."""

import asyncio
from collections.abc import Coroutine
from typing import Any


async def first_of(*waits: Coroutine[Any, Any, object]) -> None:
    """Returns when one of these has ended; the others are cancelled, and have ended then too.

    What they return or raise is not told: the caller looks again.
    """
    waiting = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end_tasks(*waiting)


async def end_tasks(*tasks: "asyncio.Future[Any]") -> None:
    """Cancels tasks, and returns once they have ended; what they return or raise is not told.

    Raises CancelledError where the caller is cancelled meanwhile. ``suppress(CancelledError)`` around ``await task``
    would take that for the task's own, and the caller would never end.
    """
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
