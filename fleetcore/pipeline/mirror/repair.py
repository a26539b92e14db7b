"""Repair: finds where a hub differs from the fleet and corrects it, page by page as an operation.

Repeating a page after a crash does not find what was already repaired.
"""

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol, cast

from attrs import evolve

from fleetcore.fleet.operations import Kind, Operations
from fleetcore.model.mirror import EntityState
from fleetcore.model.operation import Operation, OperationState
from fleetcore.model.store import Commit
from fleetcore.pipeline.mirror.comparing import Comparing, Difference
from fleetcore.pipeline.mirror.entity_states import digest
from fleetcore.pipeline.mirror.hub import Hub
from fleetcore.pipeline.mirror.sender import StateSender

KIND = "mirror repair"
_PAGE = 200


class Repaired(Protocol):
    """A mirror as a repair uses it."""

    sender: StateSender
    comparing: Comparing

    async def hub(self) -> Hub:
        """The open hub."""
        ...


class Repair:
    """Runs repair operations for all mirrors of a fleet."""

    def __init__(self, mirrors: Mapping[str, Repaired], operations: Operations) -> None:
        self._mirrors, self._operations = mirrors, operations
        operations.register(KIND, Kind(driver=self._drive))

    async def start(self, mirror: str, *, actor: str, reason: str) -> Operation:
        """Starts one."""
        return await self._operations.start(KIND, [mirror], spec={"after": None}, actor=actor, reason=reason)

    async def _drive(self, operation: Operation, items: Sequence[object]) -> Operation | None:
        mirror = self._mirrors.get(cast("str", items[0]))
        if mirror is None:
            return evolve(operation, state=OperationState.STOPPED)
        after = cast("str | None", operation.spec["after"])
        part = await mirror.comparing.drift(await mirror.hub(), after, _PAGE)
        await mend(mirror.sender, part.differences)
        counts = Counter(operation.result) + Counter(compared=part.compared)
        counts.update(difference.state for difference in part.differences)
        done = operation.done + part.compared
        spec = {"after": part.after}
        if part.after is None:
            ended = OperationState.SUCCEEDED
            return evolve(operation, done=done, total=done, result=dict(counts), state=ended, spec=spec)
        return evolve(operation, done=done, total=max(operation.total, done), result=dict(counts), spec=spec)


async def mend(sender: StateSender, found: Sequence[Difference]) -> None:
    """Records the hub's real state of these entities, and enqueues them: the sender does the rest.

    Entities that only the hub has stay there if the mirror does not remove.
    """
    found = [each for each in found if each.state != "extra" or sender.removes(each.key.facet)]
    for each in (item for item in found if item.seen):
        await sender.amend(each.key, functools.partial(_as_found, each))
    await sender.enqueue([each.key for each in found], Commit())


def _as_found(found: Difference, recorded: EntityState) -> EntityState:
    if found.held is None:
        return evolve(recorded, digest=None, remote_version=None)
    return evolve(recorded, digest=digest(found.held.body), remote_version=found.held.remote_version)
