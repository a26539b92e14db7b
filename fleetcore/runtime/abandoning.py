"""Abandoning tasks that do not end when cancelled: they run a plugin's code.

``asyncio.run`` cancels the remaining tasks when its main coroutine ends, and waits for them without a limit. An
abandoned task is removed from asyncio's list, so it is not waited for, and ends with the process.
"""

import asyncio
from collections.abc import Iterable
from typing import Any


def abandon(task: "asyncio.Task[Any]") -> None:
    """Abandons a task: nothing waits for it any more, and its errors are not reported."""
    asyncio.tasks._unregister_task(task)
    # Otherwise the loop complains when the task is dropped.
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # CPython's own switch for this
    task.add_done_callback(lambda done: done.cancelled() or done.exception())


async def end_within(tasks: "Iterable[asyncio.Task[Any]]", heed_s: float) -> "set[asyncio.Task[Any]]":
    """Cancels tasks; returns those still running after ``heed_s``, which are abandoned."""
    tasks = set(tasks)
    for task in tasks:
        task.cancel()
    if not tasks:
        return tasks
    _, stubborn = await asyncio.wait(tasks, timeout=heed_s)
    for task in stubborn:
        abandon(task)
    return stubborn
