"""The state that all peers of a listener share."""

import asyncio
from collections.abc import Coroutine
from random import Random
from typing import Protocol

from attrs import define, field

from fleetcore.interfaces.ingest import Ingest
from fleetcore.interfaces.protocol import DevicePlane
from fleetcore.interfaces.provider import Context
from fleetcore.interfaces.waits import end_tasks


class Waking(Protocol):
    """A peer, as the tick uses it."""

    def tick(self) -> bool:
        """Handles the passing of time; returns whether it needs further ticks."""


@define(kw_only=True, eq=False)
class AppState:
    """The shared state.

    Attributes:
        tasks: work under way: requests, notifications, key lookups.
        awake: peers with something to repeat, acknowledge or forget.
    """

    context: Context
    plane: DevicePlane
    ingest: Ingest
    random: Random
    tasks: set["asyncio.Task[None]"] = field(factory=set)
    awake: set["Waking"] = field(factory=set)

    def spawn(self, work: Coroutine[object, object, None], what: str) -> "asyncio.Task[None]":
        """Runs ``work`` in a task of the listener."""
        task = asyncio.get_running_loop().create_task(work, name=f"{self.context.name}: {what}")
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def end(self) -> None:
        """Cancels the tasks under way."""
        leftover = tuple(self.tasks)
        await end_tasks(*leftover)
