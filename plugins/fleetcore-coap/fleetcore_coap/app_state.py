"""What all peers of a listener have in common."""

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
    """A peer, as the tick needs it."""

    def tick(self) -> bool:
        """Time has passed; says whether more of it matters."""


@define(kw_only=True, eq=False)
class AppState:
    """What the peers are lent.

    Attributes:
        tasks: work under way: requests, notifications, keys that are looked for.
        awake: peers for which time matters: something of theirs is to be repeated, acknowledged or forgotten.
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
        """Cancels what is under way."""
        leftover = tuple(self.tasks)
        await end_tasks(*leftover)
