"""Waiting for the first of several awaitables, and for cancelled tasks to end."""

import asyncio
from collections.abc import Coroutine
from typing import Any


async def first_of(*waits: Coroutine[Any, Any, object]) -> None:
    """Returns when one of these has ended, after cancelling the others and waiting for their end.

    Their results and exceptions are dropped: the caller looks again.
    """
    waiting = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end_tasks(*waiting)


async def end_tasks(*tasks: "asyncio.Future[Any]") -> None:
    """Cancels tasks, and returns when they have ended; their results and exceptions are dropped.

    Raises CancelledError where the caller is cancelled meanwhile. ``suppress(CancelledError)`` around ``await task``
    would mistake that for the task's own, and the caller would never end.
    """
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def end_task(task: "asyncio.Future[Any]") -> None:
    """As :func:`end_tasks`, for one task whose failure matters: raises what it raised, except its own cancellation."""
    await end_tasks(task)
    if not task.cancelled():
        task.result()


async def end_process(process: asyncio.subprocess.Process) -> None:
    """Kills a process unless it has ended, and waits for its end, also where the caller is cancelled."""
    if process.returncode is None:
        process.kill()
        await asyncio.shield(process.wait())
