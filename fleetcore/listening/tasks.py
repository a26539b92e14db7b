"""Tasks that belong to a listener or a connection: they end with it, and their errors are logged."""

import asyncio
from collections.abc import Coroutine
from logging import Logger
from typing import Any


class Tasks:
    """The running tasks of one owner."""

    def __init__(self, logger: Logger) -> None:
        self._logger = logger
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Runs ``work`` until it ends or :meth:`end` cancels it."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._logger.error("%s failed", task.get_name(), exc_info=error)

    async def end(self) -> None:
        """Cancels the tasks, and returns once they have ended."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
