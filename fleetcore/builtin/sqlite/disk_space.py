"""The size of the store's files, and its limit: ``limit_bytes`` counts every file below the folder.

A share of the limit is set aside for the write-ahead log, artifacts and other files take what they need, and the
database has the rest. Readings are refused a little before the database reaches its end: packing, expiry, cursors and
operators' changes need room too, and free some.
"""

import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

from fleetcore.builtin.sqlite import schema
from fleetcore.builtin.sqlite.artifacts import Artifacts
from fleetcore.builtin.sqlite.failure import limit_reached
from fleetcore.builtin.sqlite.folder import ARTIFACTS, DATABASE
from fleetcore.model.store import StoreSize

#: The part that readings leave free: an eighth of the limit, at most 64 MiB (a seal of 16 M readings).
_RESERVE, _MAX_RESERVE = 8, 64 * 1024**2


class DiskSpace:
    """The files of a folder; without a folder or a limit, nothing is refused.

    Args:
        folder: None for a store in memory.
        limit_bytes: None for no limit.
        artifacts: the store's artifacts, which know their size.
    """

    def __init__(self, folder: Path | None, limit_bytes: int | None, artifacts: Artifacts) -> None:
        self._folder, self._artifacts = folder, artifacts
        self.limit_bytes = limit_bytes if folder is not None else None
        #: The size of log and other files, when last measured.
        self._beside = 0
        #: Pages in use when they were first found to exceed the database's limit.
        self._over: int | None = None
        self._look()

    def fit(self, db: sqlite3.Connection) -> None:
        """Measures the files again; ``db`` is the writing connection, which SQLite itself keeps within the limit."""
        if self.limit_bytes is not None:
            self._look()
            pages, free, page = _pages(db)
            most, used = self._for_database() // page, pages - free
            if most >= used:
                self._over = None
            else:
                # The limit was lowered, or other files were added. Erasing frees room, but needs some first.
                self._over = used if self._over is None else self._over
                most = self._over + self._reserve(self.limit_bytes) // page
            db.execute(f"PRAGMA max_page_count={max(1, most)}").fetchall()

    @staticmethod
    def _reserve(limit_bytes: int) -> int:
        return min(_MAX_RESERVE, limit_bytes // _RESERVE)

    def admit(self, db: sqlite3.Connection) -> None:
        """Raises Unavailable (``storage_full``) if readings are no longer accepted."""
        if self.limit_bytes is None:
            return
        size, free, page = _pages(db)
        if (size - free) * page > self._for_database() - self._reserve(self.limit_bytes):
            raise limit_reached(self.limit_bytes)

    def admit_artifact(self, size_bytes: int) -> None:
        """Raises Unavailable (``storage_full``) if there is no room for an artifact of that many bytes."""
        if self.limit_bytes is None:
            return
        assert self._folder is not None
        if _size(self._folder / DATABASE) + size_bytes > self._for_database():
            raise limit_reached(self.limit_bytes)

    def size(self, db: sqlite3.Connection) -> StoreSize:
        """The current size of the files."""
        pages, free, page = _pages(db)
        if self._folder is None:
            return StoreSize(parts={"memory": pages * page}, free_bytes=free * page)
        parts = {
            "database": _size(self._folder / DATABASE),
            "log": self._log(),
            "artifacts": self._artifacts.taken(),
            "other": sum(_others(self._folder)),
        }
        return StoreSize(parts=parts, free_bytes=free * page, limit_bytes=self.limit_bytes)

    def _look(self) -> None:
        if self.limit_bytes is not None and self._folder is not None:
            log = max(self._log(), schema.wal_bytes(self.limit_bytes))
            self._beside = log + sum(_others(self._folder))

    def _for_database(self) -> int:
        assert self.limit_bytes is not None
        return self.limit_bytes - self._beside - self._artifacts.taken()

    def _log(self) -> int:
        assert self._folder is not None
        return sum(_size(self._folder / f"{DATABASE}{end}") for end in ("-wal", "-shm"))


def _pages(db: sqlite3.Connection) -> tuple[int, int, int]:
    """The number of database pages, how many are free, and the bytes of one."""
    return tuple(  # type: ignore[return-value]  # three
        int(db.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("page_count", "freelist_count", "page_size")
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _others(folder: Path) -> Iterator[int]:
    """The sizes of the files that belong neither to the database nor to artifacts; temporary ones are left out."""
    for place, folders, names in os.walk(folder):
        if Path(place) == folder:
            folders[:] = [name for name in folders if name != ARTIFACTS]
            names = [name for name in names if not name.startswith(DATABASE)]
        for name in names:
            try:
                found = os.lstat(os.path.join(place, name))  # noqa: PTH118 - a Path for each file takes ten times as long
            except FileNotFoundError:
                continue
            if stat.S_ISREG(found.st_mode):
                yield found.st_size
