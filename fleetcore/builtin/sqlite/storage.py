"""The built-in store's implementation of the storage interface: a thin layer over the engine."""

import asyncio
import sqlite3
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from fleetcore import files
from fleetcore.builtin.sqlite import (
    catalog,
    checksum,
    damage,
    feed,
    folder,
    marks,
    named,
    reads,
    records,
    texts,
)
from fleetcore.builtin.sqlite.commit import CommitChange, InternChange
from fleetcore.builtin.sqlite.config import SqliteConfig
from fleetcore.builtin.sqlite.engine import Engine
from fleetcore.builtin.sqlite.failure import storage_full, translated
from fleetcore.builtin.sqlite.order import Points
from fleetcore.builtin.sqlite.state import State
from fleetcore.builtin.sqlite.watermarks import NEVER
from fleetcore.errors import ConfigError, StorageError
from fleetcore.interfaces.provider import Context
from fleetcore.interfaces.storage import Storage
from fleetcore.model.catalog import Catalog
from fleetcore.model.file_span import FileSpan
from fleetcore.model.store import (
    ArtifactInfo,
    Commit,
    Committed,
    Expired,
    FeedEntry,
    FoundRecords,
    Index,
    MessageMark,
    PartInfo,
    Record,
    SeriesRequest,
    StoreSize,
    Verified,
)
from fleetcore.model.telemetry import (
    Aggregates,
    Latest,
    Series,
    SeriesData,
    TextReading,
    shown_value,
)
from fleetcore.query.ast import Clause

T = TypeVar("T")

#: Above this many times ``seal_points`` in memory, commits wait for the seal.
_TAIL_BOUND = 4

#: How often a waiting commit checks again, and how long it waits before it gives up.
_ROOM_POLL_S, _ROOM_TRIES = 0.05, 200

#: How often a read-only store checks for new commits of the server.
_FOLLOW_S = 0.25

_TEXT_PIECE = 1000


class SqliteStorage(Storage):
    """See :class:`~fleetcore.interfaces.Storage` for the guarantees; made by :func:`open_sqlite`.

    A store in memory that is dropped without being closed ends its threads silently.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._end = weakref.finalize(self, engine.abandon)

    @property
    def _state(self) -> State:
        return self._engine.state

    @property
    def catalog(self) -> Catalog:
        return self._state.catalog

    @property
    def failure(self) -> StorageError | None:
        return self._engine.failure

    async def commit(self, change: Commit) -> Committed:
        if change.readings is not None:
            await self._room()
        result = await self._engine.change(CommitChange(self._state, change, self._engine.disk_space.admit))
        if self._state.tail.points >= self._engine.config.seal_points:
            self._engine.seal_soon()
        return result

    async def _room(self) -> None:
        """Waits while too many readings are in memory; if a seal cannot be written, the disk is full."""
        bound = _TAIL_BOUND * self._engine.config.seal_points
        for _ in range(_ROOM_TRIES):
            if self._state.tail.points < bound:
                return
            self._engine.seal_soon()
            await asyncio.sleep(_ROOM_POLL_S)
        raise storage_full()

    async def get(self, kind: str, key: str) -> Record | None:
        return await self._engine.read(lambda db: records.get(db, kind, key))

    async def get_many(self, kind: str, keys: Iterable[str]) -> Mapping[str, Record]:
        wanted = list(keys)
        return await self._engine.read(lambda db: records.get_many(db, kind, wanted)) if wanted else {}

    async def page(
        self, kind: str, index: Index | None, *, after: str | None, limit: int, newest: bool
    ) -> Sequence[tuple[str, Record]]:
        return await self._engine.read(
            lambda db: records.page(db, kind, index, after=after, limit=limit, newest=newest)
        )

    async def values(self, space: str, names: Iterable[str] | None = None) -> Mapping[str, bytes]:
        wanted = None if names is None else list(names)
        return await self._engine.read(lambda db: named.read(db, space, wanted))

    async def find(
        self,
        kind: str,
        *,
        ref: tuple[str, str] | None = None,
        where: Clause | None = None,
        after: str | None = None,
        limit: int = 1000,
        newest: bool = False,
        scan: int | None = None,
    ) -> FoundRecords:
        return await self._engine.read(
            lambda db: records.find(db, kind, ref=ref, where=where, after=after, limit=limit, newest=newest, scan=scan)
        )

    async def floor(self, space: str, name: str) -> int:
        row = await self._engine.read(
            lambda db: db.execute("SELECT value FROM floors WHERE space=? AND name=?", (space, name)).fetchone()
        )
        return 0 if row is None else int(row[0])

    async def find_unique(self, space: str, value: str) -> Record | None:
        return await self._engine.read(lambda db: records.find_unique(db, space, value))

    async def holders(self, space: str, values: Iterable[str]) -> Mapping[str, Record]:
        wanted = list(values)
        return await self._engine.read(lambda db: records.holders(db, space, wanted)) if wanted else {}

    async def due(self, kind: str, until: int, limit: int = 1000) -> Sequence[Record]:
        return await self._engine.read(lambda db: records.due(db, kind, until, limit))

    async def marks(self, device: str, ids: Sequence[str]) -> dict[str, MessageMark]:
        return await self._engine.read(lambda db: marks.look_up(db, device, ids)) if ids else {}

    async def intern(self, wanted: Sequence[SeriesRequest]) -> Sequence[Series]:
        known = self._state.catalog
        found = [known.find(request.device, request.metric) for request in wanted]
        if not any(catalog.lacks(series, request) for series, request in zip(found, wanted, strict=True)):
            return [series for series in found if series is not None]
        return await self._engine.change(InternChange(self._state, tuple(wanted)))

    async def series_of(self, device: str | None = None) -> Sequence[Series]:
        await self._follow()
        return self._state.catalog.of(device)

    async def read(self, series: int, start: int, end: int) -> AsyncIterator[SeriesData]:
        # int(): a numpy integer would be bound as bytes.
        series, end = int(series), int(end)
        at: int | None = int(start)
        while at is not None and at < end:
            here = at
            points, at = await self._engine.read(partial(self._piece, series, here, end))
            if len(points):
                yield SeriesData(
                    series=self._state.catalog.series(series),
                    time=points.time,
                    value=points.value,
                    quality=points.quality,
                )

    def _piece(self, series: int, start: int, end: int, db: sqlite3.Connection) -> tuple[Points, int | None]:
        return self._read(db, series, lambda: reads.piece(db, self._state.tail.view, series, start, end))

    def _read(self, db: sqlite3.Connection, series: int, work: Callable[[], T]) -> T:
        """Reads of a series; raises StorageError (``data_damaged``), which names device, metric and time span."""
        if series in self._state.damaged_series:
            raise checksum.damaged(f"The row of series {series}", series=series)
        try:
            return work()
        except StorageError as error:
            raise damage.named(db, self._state.catalog, error) from error

    async def read_texts(self, series: int, start: int, end: int) -> AsyncIterator[TextReading]:
        series, start, end = int(series), int(start), int(end)
        while start < end:
            here = start
            found = await self._engine.read(partial(self._spoken, series, here, end))
            for reading in found:
                yield reading
            if len(found) < _TEXT_PIECE:
                return
            start = found[-1].time + 1

    def _spoken(self, series: int, start: int, end: int, db: sqlite3.Connection) -> list[TextReading]:
        return self._read(db, series, lambda: texts.read(db, series, start, end, _TEXT_PIECE))

    async def aggregate(self, series: int, start: int, end: int, bucket_ms: int) -> Aggregates:
        found = await self._engine.read(partial(self._buckets, int(series), int(start), int(end), int(bucket_ms)))
        return Aggregates(
            series=self._state.catalog.series(series),
            start=found.start,
            count=found.count,
            min=found.min,
            max=found.max,
            mean=found.sum / found.count,
            sum=found.sum,
            first=found.first,
            last=found.last,
        )

    def _buckets(self, series: int, start: int, end: int, bucket_ms: int, db: sqlite3.Connection) -> reads.Buckets:
        return self._read(db, series, lambda: reads.aggregate(db, self._state.tail.view, series, start, end, bucket_ms))

    async def latest(self, series: Sequence[int]) -> Sequence[Latest | None]:
        await self._follow()
        state = self._state
        times, values, qualities = state.watermarks.latest(np.asarray(series, np.int64))
        result: list[Latest | None] = []
        newest = zip(series, times.tolist(), values.tolist(), qualities.tolist(), strict=True)
        for index, time, value, quality in newest:
            spoken = state.texts.get(index)
            if spoken is not None and spoken[0] >= time:
                result.append(Latest(state.catalog.series(index), *spoken))
            elif time != NEVER:
                known = state.catalog.series(index)
                result.append(Latest(known, time, shown_value(known, value, quality)))
            else:
                result.append(None)
        return result

    async def feed(self, after: int, limit: int = 1000) -> Sequence[FeedEntry]:
        await self._follow()
        self._state.feed.refuse_trimmed(after)
        found = self._state.feed.recent(after, limit)
        if found is None:
            found = await self._engine.read(lambda db: feed.read(db, after, limit))
            # It may have been trimmed during the read.
            self._state.feed.refuse_trimmed(after)
        return found

    async def wait_feed(self, after: int, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                while (waiting := self._state.feed.wait(after, asyncio.get_running_loop())) is not None:
                    if self._engine.config.read_only:
                        await asyncio.sleep(_FOLLOW_S)
                        await self._follow()
                    else:
                        await waiting
                return True
        except TimeoutError:
            return False

    async def position(self) -> int:
        await self._follow()
        return self._state.feed.position

    async def cursor(self, name: str) -> int | None:
        row = await self._engine.read(
            lambda db: db.execute("SELECT position FROM cursors WHERE name=?", (name,)).fetchone()
        )
        return None if row is None else int(row[0])

    async def maintain(self, now_ms: int) -> None:
        await self._engine.maintain(lambda: self._engine.upkeep(now_ms))

    async def give_up_feed(self, until: int) -> None:
        await self._engine.maintain(lambda: self._engine.give_up_feed(int(until)))

    async def forget(self, device: str) -> None:
        await self._engine.maintain(lambda: self._engine.forget(device))

    async def expire(self, series: Sequence[int], before: int, *, late_ms: int = 0, count: bool = False) -> Expired:
        wanted, must = list(series), int(before) - int(late_ms)
        return await self._engine.maintain(lambda: self._engine.expire(wanted, int(before), must, count=count))

    async def put_artifact(
        self, content: AsyncIterator[bytes], *, sha256: str | None, limit_bytes: int
    ) -> ArtifactInfo:
        self._engine.refuse_read_only()
        return await self._engine.artifacts.put(content, sha256, limit_bytes)

    async def artifact(self, sha256: str) -> ArtifactInfo | None:
        return self._engine.artifacts.info(sha256)

    def read_artifact(self, sha256: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        return self._engine.artifacts.read(sha256, start, end)

    def artifact_spans(self, sha256: str, start: int = 0, end: int | None = None) -> AsyncIterator[FileSpan] | None:
        return self._engine.artifacts.spans(sha256, start, end)

    async def drop_artifact(self, sha256: str) -> None:
        self._engine.refuse_read_only()
        await self._engine.artifacts.remove(sha256)

    async def parts(self) -> Sequence[PartInfo]:
        return await self._engine.artifacts.parts()

    async def append_part(
        self, content: AsyncIterator[bytes], *, sha256: str, size_bytes: int, offset: int, now_ms: int
    ) -> int:
        self._engine.refuse_read_only()
        return await self._engine.artifacts.append((sha256, size_bytes), content, offset, now_ms)

    async def finish_part(self, sha256: str, size_bytes: int) -> ArtifactInfo:
        self._engine.refuse_read_only()
        return await self._engine.artifacts.finish((sha256, size_bytes))

    async def drop_part(self, sha256: str, size_bytes: int) -> None:
        self._engine.refuse_read_only()
        await self._engine.artifacts.drop((sha256, size_bytes))

    async def backup(self, target: Path) -> None:
        await self._engine.maintain(lambda: self._engine.backup(target))

    async def size(self) -> StoreSize:
        return await self._engine.read(self._engine.disk_space.size)

    async def check(self) -> Sequence[str]:
        return await self._engine.maintain(self._engine.problems)

    async def verify(self, after: str | None = None) -> Verified:
        return await self._engine.maintain(lambda: self._engine.verify(after))

    async def _follow(self) -> None:
        """Loads new commits of the server, for a read-only store."""
        if self._engine.config.read_only:
            await self._engine.read(lambda _: None)

    async def close(self) -> None:
        """Finishes what is under way; everything that returned is already durable."""
        self._end.detach()
        await asyncio.to_thread(self._engine.stop)


class _Opening(AbstractAsyncContextManager["SqliteStorage"]):
    """A class instead of a generator: a dropped one must end silently."""

    def __init__(self, config: SqliteConfig, context: Context) -> None:
        self._config, self._create = config, context.create
        self._place = Path(config.path) if config.path is not None else context.data
        self._storage: SqliteStorage | None = None
        self._leased, self._lease = context.lease, ExitStack()

    async def __aenter__(self) -> SqliteStorage:
        await asyncio.to_thread(self._open)
        assert self._storage is not None
        return self._storage

    def _open(self) -> None:
        there = self._place is None or (self._place / folder.DATABASE).is_file()
        if not there and (self._config.read_only or not self._create):
            raise ConfigError(
                f"{self._place} does not hold a store",
                remedy="Name the folder of a fleet, or restore a backup",
                path=str(self._place),
            )
        if not there and self._place is not None and (log := self._place / f"{folder.DATABASE}-wal").exists():
            raise ConfigError(
                f"{folder.DATABASE} is missing, but its log {log.name} is still there",
                remedy=f"Put {folder.DATABASE} back, or move {log} away",
                path=str(log),
            )
        if self._place is not None and not self._config.read_only:
            files.make_data_folder(self._place)
            self._lease.enter_context(self._leased(self._place))
        try:
            self._storage = SqliteStorage(Engine(self._place, self._config))
        except Exception as error:
            self._lease.close()
            shown = translated(error)
            if shown is error:
                raise
            raise shown from error

    async def __aexit__(self, *_: object) -> None:
        assert self._storage is not None
        try:
            await self._storage.close()
        finally:
            self._lease.close()


def open_sqlite(config: SqliteConfig, context: Context) -> AbstractAsyncContextManager[SqliteStorage]:
    """Opens the store of ``config.path``, of the fleet's data folder, or one in memory.

    One process at a time may write to a folder: ``context.lease`` sees to it. Without the core, the default of
    ``context.lease`` does nothing, and the caller must prevent a second writer: SQLite's locks protect the file, but a
    second writer does not see the commits of the first and may use a position twice.

    Raises, on entering:
        DataFolderInUse: another process has the folder open for writing.
        ConfigError: the folder cannot be used.
        StorageError: the database is damaged or was written by a newer release.
    """
    return _Opening(config, context)
