"""Upgrades what earlier releases stored, once, before anything else reads it.

The store upgrades its own tables (its schema). This module upgrades what capabilities store beside their records: index
entries, counters, floors. Each step can be repeated, and its "done" mark is part of the last commit: an interrupted
upgrade starts again at the next opening.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen

from fleetcore.errors import StorageError
from fleetcore.fleet.commands import SEQUENCE, Commands
from fleetcore.fleet.repository import Repository
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.model.store import Commit, Counter
from fleetcore.query.ast import Clause
from fleetcore.runtime.recount import differences

_log = logging.getLogger(__name__)

#: The format that this release writes; format 1 had neither counters nor sorted index entries.
FORMAT = 2
MARK = "fleet/format"
_TOLD_S = 5.0
_FLOORS = 10_000


@frozen(kw_only=True)
class Upgrade:
    """An upgrade of one store.

    Attributes:
        reindexed: the kinds whose index entries have changed in this release, all records or the selected ones.
        counted: those of them that are counted.
    """

    storage: Storage
    clock: Clock
    commands: Commands
    reindexed: Mapping[Repository[Any], Clause | None]
    counted: Sequence[Repository[Any]]

    async def run(self, *, new: bool) -> None:
        """Runs the necessary steps; marks a new store. Raises StorageError for one of a later release."""
        mark = Commit(blobs={MARK: str(FORMAT).encode()})
        kept = await self.storage.blob(MARK)
        if kept is not None and int(kept) > FORMAT:
            raise StorageError(
                f"A later release wrote this folder: it has format {int(kept)}; this release reads up to {FORMAT}",
                remedy="Install that release again, or restore a backup from before it",
                format=int(kept),
            )
        if kept is not None and int(kept) == FORMAT:
            return
        if not new:
            _log.info("Data of an earlier release is upgraded; that release can then no longer read it")
            await self._reindex()
            await self._floors()
            mark = mark + Commit(add=await differences(self.storage, self.counted))
        await self.storage.commit(mark)
        if not new:
            _log.info("The upgrade is complete")

    async def _reindex(self) -> None:
        told = self.clock.monotonic_s()
        for repository, where in self.reindexed.items():
            done = 0
            async for count in repository.reindex(where):
                done += count
                if self.clock.monotonic_s() - told >= _TOLD_S:
                    told = self.clock.monotonic_s()
                    _log.info("%d records of kind %s are indexed", done, repository.kind)

    async def _floors(self) -> None:
        highest: dict[Counter, int] = {}
        async for command in self.commands.records.iterate():
            name = (SEQUENCE, command.device)
            highest[name] = max(command.sequence, highest.get(name, 0))
            if len(highest) >= _FLOORS:
                await self.storage.commit(Commit(floors=highest))
                highest = {}
        await self.storage.commit(Commit(floors=highest))
