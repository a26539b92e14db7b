"""The store against a row per point in SQLite and the machine's own limit.

Same points, same commits, same durability (write-ahead log, ``synchronous=FULL``): rates of commits, bytes per sealed
point, and a day of one series that reports every second, read back whole.
"""

import asyncio
import os
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.measure import Row, at_least, in_turn
from fleetcore.builtin.sqlite.config import SqliteConfig
from fleetcore.builtin.sqlite.storage import open_sqlite
from fleetcore.model.store import Commit, SeriesRequest
from fleetcore.model.telemetry import Float64, Int64, TelemetryBatch
from fleetcore.runtime.clock import SystemClock
from fleetcore.testing import context

_SERIES = 10_000
_START_MS = 1_767_225_600_000
_DAY_MS = 86_400_000
#: After all that the other readings say, so that the day is one series' own.
_DAY_START_MS = _START_MS + 100 * _DAY_MS
#: Commits that wait for one another's sync together, where a sender does not wait for each.
_UNDER_WAY = 8
#: What a chunk's two rows cost beside its body: their integers, SQLite's headers (file format, §2.1).
_CHUNK_ROWS = 56


def _day() -> tuple[Int64, Int64, Float64]:
    """86,400 readings of one series, one a second."""
    seconds = np.arange(86_400, dtype=np.int64)
    chance = np.random.default_rng(4)
    value = np.round(20 + 5 * np.sin(seconds / 7_000) + chance.normal(0, 0.2, len(seconds)), 2)
    return np.full(len(seconds), 7, np.int64), _DAY_START_MS + seconds * 1000, value


def _columns(points: int) -> tuple[Int64, Int64, Float64]:
    """Series round robin, one reading a minute with a little jitter, a slow walk of two decimals."""
    chance = np.random.default_rng(3)
    index = np.arange(points, dtype=np.int64) % _SERIES
    when = _START_MS + (np.arange(points, dtype=np.int64) // _SERIES) * 60_000 + chance.integers(0, 50, points)
    value = np.round(20 + 5 * np.sin(np.arange(points) / points * 20) + chance.normal(0, 0.2, points), 2)
    return index, when, value


class _Ours:
    """One filled store; keeps what was measured on it."""

    def __init__(self, points: int, size: int, under_way: int = 1) -> None:
        self.points, self.size, self.under_way = points, size, under_way
        self.read_s = self.bytes_per_point = self.p99_ms = 0.0

    def __call__(self) -> float:
        return asyncio.run(self._run())

    async def _run(self) -> float:
        index, when, value = _columns(self.points)
        with tempfile.TemporaryDirectory() as folder:
            lent = context("storage", clock=SystemClock(), data=Path(folder))
            async with open_sqlite(SqliteConfig(), lent) as storage:
                made = await storage.intern([SeriesRequest(f"d{i // 10}", f"m{i % 10}") for i in range(_SERIES)])
                index = np.array([item.index for item in made])[index]
                waits: list[float] = []
                cuts = iter(range(0, self.points, self.size))

                async def send() -> None:
                    for at in cuts:
                        part = slice(at, at + self.size)
                        before = time.perf_counter()
                        await storage.commit(Commit(readings=TelemetryBatch.of(index[part], when[part], value[part])))
                        waits.append(time.perf_counter() - before)

                begun = time.perf_counter()
                await asyncio.gather(*(send() for _ in range(self.under_way)))
                rate = self.points / (time.perf_counter() - begun)
                self.p99_ms = float(np.percentile(waits, 99) * 1000)
                series, at, value = _day()
                await storage.commit(Commit(readings=TelemetryBatch.of(np.full(len(series), made[7].index), at, value)))
                for _ in range(20):
                    await storage.maintain(_START_MS + 400 * _DAY_MS)
                self.read_s = min([await self._read(storage, made[7].index) for _ in range(5)])
            with sqlite3.connect(next(Path(folder).glob("*.db"))) as database:  # noqa: ASYNC240 - nothing else runs
                sealed = database.execute(
                    "SELECT (SELECT sum(length(body)) FROM chunk_bodies), sum(n), count(*) FROM chunks"
                ).fetchone()
            self.bytes_per_point = (sealed[0] + _CHUNK_ROWS * sealed[2]) / sealed[1]
            return rate

    @staticmethod
    async def _read(storage: object, series: int) -> float:
        begun = time.perf_counter()
        async for _ in storage.read(series, _DAY_START_MS, _DAY_START_MS + _DAY_MS):  # type: ignore[attr-defined]  # a Storage
            pass
        return time.perf_counter() - begun


class _Rows:
    """A row per point, keyed by (series, time)."""

    def __init__(self, points: int, size: int) -> None:
        self.points, self.size, self.read_s = points, size, 0.0

    def __call__(self) -> float:
        index, when, value = (column.tolist() for column in _columns(self.points))
        with tempfile.TemporaryDirectory() as folder:
            database = sqlite3.connect(f"{folder}/rows.db", isolation_level=None)
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=FULL")
            database.execute("CREATE TABLE p(s INTEGER, t INTEGER, v REAL, PRIMARY KEY(s, t)) WITHOUT ROWID")
            begun = time.perf_counter()
            for at in range(0, self.points, self.size):
                part = slice(at, at + self.size)
                database.execute("BEGIN")
                database.executemany(
                    "INSERT OR REPLACE INTO p VALUES(?, ?, ?)", zip(index[part], when[part], value[part], strict=True)
                )
                database.execute("COMMIT")
            rate = self.points / (time.perf_counter() - begun)
            database.executemany("INSERT INTO p VALUES(?, ?, ?)", zip(*(c.tolist() for c in _day()), strict=True))
            reads = []
            for _ in range(5):
                begun = time.perf_counter()
                database.execute(
                    "SELECT t, v FROM p WHERE s = 7 AND t >= ? AND t < ?", (_DAY_START_MS, _DAY_START_MS + _DAY_MS)
                ).fetchall()
                reads.append(time.perf_counter() - begun)
            self.read_s = min(reads)
            database.close()
            return rate


def _raw(points: int, size: int) -> float:
    """Appending the packed columns to a file and syncing it: nothing can be quicker."""
    index, when, value = _columns(points)
    with tempfile.NamedTemporaryFile() as file:
        begun = time.perf_counter()
        for at in range(0, points, size):
            part = slice(at, at + size)
            file.write(index[part].tobytes() + when[part].tobytes() + value[part].tobytes())
            file.flush()
            os.fdatasync(file.fileno())
        return points / (time.perf_counter() - begun)


def run(*, quick: bool = False) -> list[Row]:
    """The rows of this benchmark."""
    points, rounds = (200_000, 1) if quick else (2_000_000, 3)
    # The row per point takes 20 s and more for 2 M points: one round of it says enough.
    ours, rows = _Ours(points, 10_000), _Rows(points, 10_000)
    found = in_turn({"ours": ours, "rows": rows, "raw": lambda: _raw(points, 10_000)}, 1)
    few = 200_000
    candidates: dict[str, Callable[[], float]] = {
        "small": _Ours(few, 1_000),
        "small rows": _Rows(few, 1_000),
        "group": _Ours(few, 1_000, _UNDER_WAY),
    }
    found |= in_turn({**candidates, "small raw": lambda: _raw(few, 1_000)}, rounds)
    unit = "points/s"
    return [
        at_least("store, commits of 10 k points", found["ours"], "row per point", found["rows"], unit, 10),
        at_least(
            "store, commits of 1 k points, one by one", found["small"], "row per point", found["small rows"], unit, 5
        ),
        at_least(
            f"store, commits of 1 k points, {_UNDER_WAY} under way", found["group"],
            "row per point", found["small rows"], unit, 5,
        ),
        Row(name="raw append and fsync of 10 k, the limit", value=statistics.median(found["raw"]), unit=unit),
        Row(name="raw append and fsync of 1 k, the limit", value=statistics.median(found["small raw"]), unit=unit),
        Row(name="commit of 10 k points, p99", value=ours.p99_ms, unit="ms"),
        Row(
            name="sealed", value=ours.bytes_per_point, unit="bytes/point", goal="≤ 5", met=ours.bytes_per_point <= 5,
        ),
        Row(
            name="a day of one series, a reading a second", value=ours.read_s * 1000, unit="ms",
            against=f"row per point ({rows.read_s * 1000:.3g} ms)",
            ratio=rows.read_s / ours.read_s, goal="≥ 8 ×", met=rows.read_s / ours.read_s >= 8,
        ),
    ]  # fmt: skip
