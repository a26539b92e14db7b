"""The store's threads and their shared state: one writes, two read, one maintains.

Nothing here refers to the object that callers hold, so that a dropped store can end its threads.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar, cast

from fleetcore import threads
from fleetcore.builtin.sqlite import check, headers, marks, schema, seal
from fleetcore.builtin.sqlite.artifacts import Artifacts, FileArtifacts, MemoryArtifacts
from fleetcore.builtin.sqlite.checked import MISSING_BYTES, add_missing
from fleetcore.builtin.sqlite.checkpoint import Checkpointer
from fleetcore.builtin.sqlite.config import SqliteConfig
from fleetcore.builtin.sqlite.disk_space import DiskSpace
from fleetcore.builtin.sqlite.expire import Expiry
from fleetcore.builtin.sqlite.folder import ARTIFACTS, DATABASE, FILE_MODE
from fleetcore.builtin.sqlite.forget import Forget, erase_traces
from fleetcore.builtin.sqlite.readers import Readers
from fleetcore.builtin.sqlite.state import State
from fleetcore.builtin.sqlite.trim import Trim, cut_free, shrink
from fleetcore.builtin.sqlite.writer import Change, Reply, Statements, Writer
from fleetcore.errors import Refused, StorageError
from fleetcore.files import make_private
from fleetcore.model.store import Expired, Verified

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

_READERS = 2

#: After a failed seal, for example on a full disk, commits do not request the next one before this.
_SEAL_AGAIN_S = 5.0


class Engine:
    """Opens the database of a prepared folder, or one in memory (``folder`` None)."""

    def __init__(self, folder: Path | None, config: SqliteConfig) -> None:
        self.config = config
        self.state = State()
        self.in_memory = folder is None
        self._writer: Writer | None = None
        self._readers: Readers | None = None
        self._checkpointer: Checkpointer | None = None
        opened: list[sqlite3.Connection] = []
        try:
            self.artifacts: Artifacts
            if folder is None:
                opened.append(schema.connect(None))
                schema.migrate(opened[0])
                self.state.load(opened[0])
                self.artifacts = MemoryArtifacts()
                self._writer = Writer(opened[0])
                # A connection that is never used: only the writer can see the database in memory.
                opened.append(schema.connect(None))
                self._maintainer = Readers(opened[1:])
            elif config.read_only:
                opened.append(schema.connect(folder / DATABASE, read_only=True))
                self.state.load(opened[0])
                self.artifacts = FileArtifacts(folder / ARTIFACTS)
                # One reader: its view of the log is brought up to date before each job.
                self._maintainer = self._readers = Readers(opened)
                self._seen = self._version(opened[0])
            else:
                (folder / DATABASE).touch(FILE_MODE)
                opened.append(schema.connect(folder / DATABASE, limit_bytes=config.limit_bytes))
                schema.migrate(opened[0])
                seal.clear_staged(opened[0])
                headers.mend(opened[0])
                self.state.load(opened[0])
                files = FileArtifacts(folder / ARTIFACTS, self._admit_artifact)
                files.clean()
                self.artifacts = files
                opened.append(schema.connect(folder / DATABASE))
                wal_bytes = schema.wal_bytes(config.limit_bytes)
                self._checkpointer = Checkpointer(opened[1], self._between_commits, wal_bytes)
                self._writer = Writer(opened[0], self._checkpointer.wrote)
                opened.extend(schema.connect(folder / DATABASE, read_only=True) for _ in range(_READERS + 1))
                self._readers = Readers(opened[2 : 2 + _READERS])
                self._maintainer = Readers(opened[2 + _READERS :])
            self.disk_space = DiskSpace(folder, config.limit_bytes, self.artifacts)
            if self._writer is not None:
                self.disk_space.fit(opened[0])
        except BaseException:
            for db in opened:
                db.close()
            raise
        self.sealing = False
        self._seal_again = 0.0
        self._maintaining = opened[-1]
        for part in {self._writer, self._checkpointer, self._readers, self._maintainer}:
            if part is not None:
                part.start()
        threads.stop_at_exit(self.abandon)

    @property
    def failure(self) -> StorageError | None:
        """The error that ended a thread early, or None."""
        parts = (self._writer, self._readers, self._maintainer, self._checkpointer)
        return next((part.failure for part in parts if part is not None and part.failure is not None), None)

    # Called by coroutines

    async def change(self, change: Change[T]) -> T:
        """Commits a change. Cancelling the caller does not undo it."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._writing().submit(change, Reply(loop, future))
        return cast("T", await future)

    async def read(self, work: Work[T]) -> T:
        """Reads on a reading thread; in memory, on the writer between two commits."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        place = self._readers or self._writing()
        place.look(self._fresh(work) if self.config.read_only else work, Reply(loop, future))
        return cast("T", await future)

    async def maintain(self, work: Callable[[], T]) -> T:
        """Runs maintenance after the one under way."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._maintainer.look(lambda _: work(), Reply(loop, future))
        return cast("T", await future)

    def seal_soon(self) -> None:
        """Starts a seal unless one is waiting or has just failed; failing shows in the tail, which does not shrink."""
        if not self.sealing and monotonic() >= self._seal_again:
            self.sealing = True
            self._maintainer.look(lambda _: self._seal(), Reply(None, Future()))

    # Called by the maintaining thread

    def write(self, change: Change[T]) -> T:
        """Commits a change and waits for it; see :class:`~fleetcore.builtin.sqlite.seal.Maintenance`."""
        future: Future[Any] = Future()
        self._writing().submit(change, Reply(None, future))
        return cast("T", future.result())

    def look(self, work: Work[T]) -> T:
        """Reads and waits for it."""
        if not self.in_memory:
            return work(self._maintaining)
        return self._beside(work)

    def _admit_artifact(self, size_bytes: int) -> None:
        self.disk_space.admit_artifact(size_bytes)

    def _between_commits(self, work: Work[object]) -> None:
        self._writing().look(work, Reply(None, Future()))

    def _beside(self, work: Work[T]) -> T:
        future: Future[Any] = Future()
        self._writing().look(work, Reply(None, future))
        return cast("T", future.result())

    def _seal(self) -> None:
        try:
            seal.seal(self.state, self)
            while seal.merge(self.state, self):
                pass
            while self.write(Trim(self.state, self.config)):
                pass
        except BaseException:
            self._seal_again = monotonic() + _SEAL_AGAIN_S
            raise
        finally:
            self.sealing = False

    def give_up_feed(self, until: int) -> None:
        """Everything that :meth:`~fleetcore.interfaces.Storage.give_up_feed` guarantees."""
        self._seal()
        while self.write(Trim(self.state, self.config, until)):
            pass

    def upkeep(self, now_ms: int) -> None:
        """Everything that :meth:`~fleetcore.interfaces.Storage.maintain` guarantees."""
        tail = self.state.tail
        oldest = tail.oldest_received
        aged = oldest is not None and now_ms - oldest >= self.config.seal_age_s * 1000
        if tail.points == 0 or tail.points >= self.config.seal_points or aged:
            self._seal()
        while self.write(Statements(add_missing, weight=MISSING_BYTES)):
            pass
        self.write(Statements(lambda db: marks.prune(db, now_ms, self.state.mark_counts.crowded())))
        while self._beside(shrink):
            pass
        self._beside(self.disk_space.fit)

    def expire(self, series: Sequence[int], may: int, must: int, *, count: bool) -> Expired:
        """Drops some of what :meth:`~fleetcore.interfaces.Storage.expire` drops, or counts all of it."""
        expiry = Expiry(self.state, self, series, may, must)
        return expiry.count() if count else expiry.step()

    def forget(self, device: str) -> None:
        """Erases a device; commits wait meanwhile."""
        self._seal()
        self._beside(lambda db: db.execute("PRAGMA secure_delete=ON").fetchall())
        try:
            self.write(Forget(self.state, device))
            while self._beside(cut_free):
                pass
            self._beside(erase_traces)
        finally:
            self._beside(lambda db: db.execute("PRAGMA secure_delete=FAST").fetchall())

    def backup(self, target: Path) -> None:
        """Copies the database in one read transaction, then the artifacts, which never change."""
        make_private(target)
        if any(target.iterdir()):
            raise Refused(f"{target} is not empty", code="already_exists", remedy="Name a new folder", path=str(target))
        (target / DATABASE).touch(FILE_MODE)
        copy = sqlite3.connect(target / DATABASE, check_same_thread=False)
        try:
            self.look(lambda db: db.backup(copy))
        finally:
            copy.close()
        self.artifacts.copy_to(target / ARTIFACTS)

    def problems(self) -> list[str]:
        """Broken consistency rules of the tables."""
        return self.look(lambda db: check.promises(db, self.state))

    def verify(self, after: str | None) -> Verified:
        """One part of a check that reads everything."""
        return self.look(lambda db: check.verify(db, self.state.catalog, self.artifacts, after))

    # Opening and ending

    def stop(self) -> None:
        """Finishes what is under way and ends the threads."""
        self._stop(wait=True)

    def abandon(self) -> None:
        """Ends the threads without waiting: the store was dropped, perhaps during a garbage collection."""
        self._stop(wait=False)

    def _stop(self, *, wait: bool) -> None:
        # Threads that use the writer end before it.
        for part in (self._maintainer, self._checkpointer, self._readers, self._writer):
            if part is not None:
                part.stop(wait=wait)

    def refuse_read_only(self) -> None:
        """Raises StorageError if the store is read-only."""
        self._writing()

    def _writing(self) -> Writer:
        if self._writer is None:
            raise StorageError("The store is open for reading only", remedy="Open it without read_only")
        return self._writer

    # Reading while another process writes

    def _fresh(self, work: Work[T]) -> Work[T]:
        def job(db: sqlite3.Connection) -> T:
            self._catch_up(db)
            return work(db)

        return job

    def _version(self, db: sqlite3.Connection) -> int:
        return int(db.execute("PRAGMA data_version").fetchone()[0])

    def _catch_up(self, db: sqlite3.Connection) -> None:
        version = self._version(db)
        if version == self._seen:
            return
        db.execute("BEGIN")
        try:
            meta = schema.meta(db)
            if (meta["sealed"], meta["forgotten"]) != (self.state.sealed, self.state.forgotten):
                fresh = State()
                fresh.load(db)
                self.state = fresh
            else:
                self.state.follow(db, meta["trimmed"])
        finally:
            db.execute("COMMIT")
        self._seen = version
