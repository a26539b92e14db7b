"""A storage that fails, stalls or fills up when told to, and is otherwise the real one."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

from fleetcore.errors import FleetError, StorageError, Unavailable
from fleetcore.interfaces.storage import Storage
from fleetcore.model.store import Commit, Committed


@Storage.register  # it delegates the whole interface
class FaultyStorage:
    """Wraps a storage; ``cast`` to Storage by :func:`faulty`.

    Attributes:
        commits: how many were requested.
        reading_commits: how many of them had readings.
    """

    def __init__(self, inner: Storage) -> None:
        self._inner = inner
        self._error: Callable[[], FleetError] | None = None
        self._left = 0
        self._open = asyncio.Event()
        self._open.set()
        self.commits = self.reading_commits = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def fill(self, commits: int = 1 << 60) -> None:
        """The next commits fail as on a full disk."""
        self._error, self._left = lambda: Unavailable("The disk is full", code="storage_full"), commits

    def fail(self, commits: int = 1 << 60) -> None:
        """The next commits fail as on a broken disk."""
        self._error, self._left = lambda: StorageError("The disk is broken"), commits

    def heal(self) -> None:
        """Commits succeed again."""
        self._error, self._left = None, 0
        self._open.set()

    def stall(self) -> None:
        """Commits hang until :meth:`heal`."""
        self._open.clear()

    async def commit(self, change: Commit) -> Committed:
        """As told."""
        self.commits += 1
        self.reading_commits += change.readings is not None
        await self._open.wait()
        if self._error is not None and self._left > 0:
            self._left -= 1
            raise self._error()
        return await self._inner.commit(change)


def faulty(inner: Storage) -> tuple[Storage, FaultyStorage]:
    """A storage with faults: the interface, and the handle that controls them."""
    wrapper = FaultyStorage(inner)
    return cast("Storage", wrapper), wrapper
