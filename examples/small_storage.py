"""A complete store in one file, on an SQL database: Python's own sqlite3 here, yours with few changes.

[fleet]
plugins = ["./small_storage.py"]

[storage]
kind = "small"

``plan`` computes a commit's changes, and one transaction writes them. Methods that a store may leave out are derived.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

from attrs import astuple, evolve, frozen
from msgspec import json

from fleetcore import hookimpl, offer_storage
from fleetcore.errors import ConfigError, NotFound, Refused, StorageError, Unavailable
from fleetcore.interfaces import Context, Provider, Storage
from fleetcore.interfaces.commit_plan import CommitPlan, StoredRecord, plan
from fleetcore.model.catalog import Catalog
from fleetcore.model.store import (
    Commit,
    Committed,
    Expired,
    FeedEntry,
    Index,
    Put,
    Record,
    SeriesRequest,
    index_entries,
    place,
    split_place,
)
from fleetcore.model.telemetry import NumberReading, Series, SeriesData, SeriesKind, TelemetryBatch, TextReading
from fleetcore.model.values import CURSORS, marks_of

T = TypeVar("T")
FILE, PIECE = "small.db", 10_000
#: The index with every record of a kind.
ALL: Index = ("", "all")
SCHEMA = """
PRAGMA secure_delete = ON; PRAGMA synchronous = FULL;
CREATE TABLE IF NOT EXISTS records(kind, key, version, put, PRIMARY KEY (kind, key));
CREATE TABLE IF NOT EXISTS places(kind, name, value, sort, key, PRIMARY KEY (kind, name, value, sort, key));
CREATE INDEX IF NOT EXISTS place_of ON places(kind, key);
CREATE TABLE IF NOT EXISTS named(space, name, value, PRIMARY KEY (space, name));
CREATE TABLE IF NOT EXISTS series(id INTEGER PRIMARY KEY AUTOINCREMENT, device, metric, unit, kind);
CREATE TABLE IF NOT EXISTS numbers(series, time, received, value, quality, seq, PRIMARY KEY (series, time));
CREATE TABLE IF NOT EXISTS texts(series, time, received, value, quality, seq, PRIMARY KEY (series, time));
CREATE TABLE IF NOT EXISTS feed(position INTEGER PRIMARY KEY AUTOINCREMENT, plan);
"""


class SmallStorage(Storage):
    """See the module. Operations run one after the other, on a thread, each in a transaction."""

    def __init__(self, file: Path) -> None:
        file.touch(0o600)
        self._db = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
        self._db.executescript(SCHEMA)
        self._lock, self._catalog = asyncio.Lock(), Catalog()
        self._catalog.add(_series(*row) for row in self._sql("SELECT * FROM series"))

    def _sql(self, query: str, *given: object) -> list[Any]:
        return self._db.execute(query, given).fetchall()

    async def _do(self, work: Callable[[], T], *, begin: str = "BEGIN IMMEDIATE") -> T:
        async def alone() -> T:
            async with self._lock:
                return await asyncio.to_thread(self._transaction, work, begin)

        # To its end, even if the caller is cancelled.
        return await asyncio.shield(asyncio.ensure_future(alone()))

    def _transaction(self, work: Callable[[], T], begin: str) -> T:
        try:
            self._sql(begin)
            result = work()
            self._sql("COMMIT")
        except BaseException as error:
            if self._db.in_transaction:
                self._sql("ROLLBACK")
            if not isinstance(error, sqlite3.Error):
                raise
            if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                raise Unavailable("The disk is full", code="storage_full") from error
            raise StorageError(f"The database refuses: {error}") from error
        return result

    # The input of `plan`.

    def record(self, kind: str, key: str) -> StoredRecord | None:
        rows = self._sql("SELECT version, put FROM records WHERE kind = ? AND key = ?", kind, key)
        return StoredRecord(rows[0][0], json.decode(rows[0][1], type=Put)) if rows else None

    def value(self, space: str, name: str) -> bytes | None:
        rows = self._sql("SELECT value FROM named WHERE space = ? AND name = ?", space, name)
        return bytes(rows[0][0]) if rows else None

    def number(self, series: int, time: int) -> NumberReading | None:
        rows = self._readings("numbers", series, time, time + 1)
        return NumberReading(*rows[0]) if rows else None

    def text(self, series: int, time: int) -> TextReading | None:
        rows = self._readings("texts", series, time, time + 1)
        return TextReading(*rows[0]) if rows else None

    def _readings(self, table: str, series: int, start: int, end: int) -> list[Any]:
        condition = "series = ? AND time >= ? AND time < ? ORDER BY time LIMIT ?"
        return self._sql(f"SELECT * FROM {table} WHERE {condition}", series, start, end, PIECE)

    # The twelve.

    async def commit(self, change: Commit) -> Committed:
        return await self._do(lambda: self._write(plan(change, self, self._catalog, self._position())))

    def _write(self, done: CommitPlan) -> Committed:
        for record in done.records:
            put = record.put
            self._sql("DELETE FROM records WHERE kind = ? AND key = ?", put.kind, put.key)
            self._sql("DELETE FROM places WHERE kind = ? AND key = ?", put.kind, put.key)
            if record.version:
                self._sql(
                    "INSERT INTO records VALUES (?, ?, ?, ?)", put.kind, put.key, record.version, json.encode(put)
                )
                for index, sort in {ALL: "", **index_entries(put)}.items():
                    self._sql("INSERT INTO places VALUES (?, ?, ?, ?, ?)", put.kind, *index, sort, put.key)
        for kept in done.values:
            self._sql("DELETE FROM named WHERE space = ? AND name = ?", kept.space, kept.name)
            if kept.value is not None:
                self._sql("INSERT INTO named VALUES (?, ?, ?)", kept.space, kept.name, kept.value)
        numbers, texts = done.numbers + done.quiet_numbers, done.texts + done.quiet_texts
        self._db.executemany("REPLACE INTO numbers VALUES (?, ?, ?, ?, ?, ?)", map(astuple, numbers))
        self._db.executemany("REPLACE INTO texts VALUES (?, ?, ?, ?, ?, ?)", map(astuple, texts))
        if done.is_shown:
            self._sql("INSERT INTO feed VALUES (?, ?)", done.position, json.encode(done.shown))
        return done.committed

    async def get(self, kind: str, key: str) -> Record | None:
        found = await self._do(lambda: self.record(kind, key))
        return None if found is None else found.record

    async def page(
        self, kind: str, index: Index | None, *, after: str | None, limit: int, newest: bool
    ) -> Sequence[tuple[str, Record]]:
        beyond, order = ("<", "DESC") if newest else (">", "")
        bound = () if after is None else split_place(after)
        behind = f"AND (p.sort, p.key) {beyond} (?, ?)" if bound else ""
        query = (
            "SELECT p.sort, r.version, r.put FROM places p JOIN records r ON r.kind = p.kind AND r.key = p.key"
            f" WHERE p.kind = ? AND p.name = ? AND p.value = ? {behind}"
            f" ORDER BY p.sort {order}, p.key {order} LIMIT ?"
        )
        rows = await self._do(lambda: self._sql(query, kind, *(index or ALL), *bound, limit))
        found = [(sort, StoredRecord(version, json.decode(put, type=Put)).record) for sort, version, put in rows]
        return [(place(sort, record.key), record) for sort, record in found]

    async def values(self, space: str, names: Iterable[str] | None = None) -> Mapping[str, bytes]:
        wanted = None if names is None else json.encode(list(names)).decode()
        condition = "space = ?1 AND (?2 IS NULL OR name IN (SELECT value FROM json_each(?2)))"
        query = f"SELECT name, value FROM named WHERE {condition}"
        return dict(await self._do(lambda: self._sql(query, space, wanted)))

    @property
    def catalog(self) -> Catalog:
        return self._catalog

    async def intern(self, wanted: Sequence[SeriesRequest]) -> Sequence[Series]:
        def work() -> list[Series]:
            return [self._series(item) for item in wanted]

        return await self._do(work)

    def _series(self, series_request: SeriesRequest) -> Series:
        found = self._catalog.find(series_request.device, series_request.metric)
        if found is None:
            return self._new_series(series_request)
        if found.unit is None and series_request.unit is not None:
            self._sql("UPDATE series SET unit = ? WHERE id = ?", series_request.unit, found.index)
            found = evolve(found, unit=series_request.unit)
            self._catalog.add([found])
        return found

    def _new_series(self, series_request: SeriesRequest) -> Series:
        values = (series_request.device, series_request.metric, series_request.unit, series_request.kind.value)
        rows = self._sql("INSERT INTO series VALUES (NULL, ?, ?, ?, ?) RETURNING id", *values)
        made = _series(rows[0][0], *values)
        self._catalog.add([made])
        return made

    async def read(self, series: int, start: int, end: int) -> AsyncIterator[SeriesData]:
        while rows := await self._do(partial(self._readings, "numbers", series, start, end)):
            piece = TelemetryBatch.of_rows([NumberReading(*row) for row in rows])
            yield SeriesData(
                series=self._catalog.series(series), time=piece.time, value=piece.value, quality=piece.quality
            )
            start = rows[-1][1] + 1

    async def read_texts(self, series: int, start: int, end: int) -> AsyncIterator[TextReading]:
        while rows := await self._do(partial(self._readings, "texts", series, start, end)):
            for row in rows:
                yield TextReading(*row)
            start = rows[-1][1] + 1

    async def feed(self, after: int, limit: int = 1000) -> Sequence[FeedEntry]:
        def work() -> list[FeedEntry]:
            ((oldest,),) = self._sql("SELECT min(position) FROM feed")
            oldest = self._position() + 1 if oldest is None else oldest
            if after < oldest - 1:
                raise NotFound(f"The feed begins at {oldest}", oldest=oldest)
            rows = self._sql("SELECT plan FROM feed WHERE position > ? ORDER BY position LIMIT ?", after, limit)
            return [json.decode(text, type=CommitPlan).entry for (text,) in rows]

        return await self._do(work)

    async def position(self) -> int:
        return await self._do(self._position)

    def _position(self) -> int:
        rows = self._sql("SELECT seq FROM sqlite_sequence WHERE name = 'feed'")
        return int(rows[0][0]) if rows else 0

    async def forget(self, device: str) -> None:
        def work() -> None:
            gone = {series.index for series in self._catalog.of(device)}
            for index in gone:
                for table, column in (("numbers", "series"), ("texts", "series"), ("series", "id")):
                    self._sql(f"DELETE FROM {table} WHERE {column} = ?", index)
            self._sql("DELETE FROM named WHERE space = ?", marks_of(device))
            for position, text in self._sql("SELECT * FROM feed") if gone else ():
                less = json.encode(json.decode(text, type=CommitPlan).without(gone))
                self._sql("UPDATE feed SET plan = ? WHERE position = ?", less, position)
            self._catalog.remove(device)

        await self._do(work)

    async def backup(self, target: Path) -> None:
        def work() -> None:
            target.mkdir(mode=0o700, parents=True, exist_ok=True)
            if any(target.iterdir()):
                raise Refused(f"{target} is not empty", code="already_exists", remedy="Name a new folder")
            (target / FILE).touch(0o600)
            copy = sqlite3.connect(target / FILE)
            self._db.backup(copy)
            copy.close()

        # SQLite copies nothing while the same connection writes.
        await self._do(work, begin="BEGIN")

    # Faster than the derived ones.

    async def maintain(self, now_ms: int) -> None:
        del now_ms
        passed = "SELECT min(CAST(value AS INTEGER)) FROM named WHERE space = ?"
        await self._do(lambda: self._sql(f"DELETE FROM feed WHERE position <= ({passed})", CURSORS))

    async def expire(self, series: Sequence[int], before: int, *, late_ms: int = 0, count: bool = False) -> Expired:
        del late_ms  # a reading goes at its time

        def work() -> Expired:
            gone = {"numbers": 0, "texts": 0}
            for index, table in product(series, gone):
                last = f"(SELECT max(time) FROM {table} WHERE series = ?1)"
                old = f"SELECT time FROM {table} WHERE series = ?1 AND time < ?2 AND time < {last} LIMIT ?3"
                rows = self._sql(old, index, before, -1 if count else PIECE - sum(gone.values()))
                gone[table] += len(rows)
                if not count:
                    self._db.executemany(
                        f"DELETE FROM {table} WHERE series = ? AND time = ?", [(index, *r) for r in rows]
                    )
            total = sum(gone.values())
            return Expired(readings=gone["numbers"], texts=gone["texts"], size_bytes=64 * total, more=total >= PIECE)

        done = await self._do(work)
        return evolve(done, more=done.more and not count)

    async def close(self) -> None:
        """Waits for the operation under way."""
        async with self._lock:
            self._db.close()


def _series(index: int, device: str, metric: str, unit: str | None, kind: str) -> Series:
    return Series(index=index, device=device, metric=metric, unit=unit, kind=SeriesKind(kind))


@frozen(kw_only=True)
class SmallConfig:
    """``[storage]``. Attributes: path: the database's folder; by default the fleet's data folder."""

    path: str | None = None


@asynccontextmanager
async def open_small(config: SmallConfig, context: Context) -> AsyncIterator[SmallStorage]:
    """Opens the store; one process at a time."""
    folder = Path(config.path) if config.path is not None else context.data
    if folder is None:
        raise ConfigError("This store needs a folder", remedy="Write data under [fleet], or path under [storage]")
    if not (folder / FILE).exists() and not context.create:
        raise ConfigError(f"There is no store in {folder}", remedy="Name the folder of a fleet, or restore a backup")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with context.lease(folder):
        storage = await asyncio.to_thread(SmallStorage, folder / FILE)
        try:
            yield storage
        finally:
            await storage.close()


@hookimpl
def fleetcore_storages() -> Iterable[Provider[Storage]]:
    """One kind of store, ``small``."""
    return [offer_storage("small", SmallConfig, open_small, summary="an SQL database, one operation at a time")]
