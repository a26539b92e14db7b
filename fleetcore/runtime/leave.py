"""Leaving tasks behind that do not heed being cancelled: the code in them is a plugin's.

``asyncio.run`` cancels what is left when its main coroutine ends, and waits for it without a bound. A task that is left
behind is not waited for: it is taken out of asyncio's list, and ends with the process.
"""

import asyncio
from collections.abc import Iterable
from typing import Any


def leave_behind(task: "asyncio.Task[Any]") -> None:
    """Nothing waits for the task any more, and nothing that it still raises is reported."""
    asyncio.tasks._unregister_task(task)
    # Else the loop complains of it when the task is dropped.
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # CPython's own switch for this
    task.add_done_callback(lambda done: done.cancelled() or done.exception())


async def end_within(tasks: "Iterable[asyncio.Task[Any]]", heed_s: float) -> "set[asyncio.Task[Any]]":
    """Cancels tasks; returns those that had not ended after ``heed_s``, which are left behind."""
    tasks = set(tasks)
    for task in tasks:
        task.cancel()
    if not tasks:
        return tasks
    _, stubborn = await asyncio.wait(tasks, timeout=heed_s)
    for task in stubborn:
        leave_behind(task)
    return stubborn
