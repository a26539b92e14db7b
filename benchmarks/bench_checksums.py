"""The cost of checksums: the store with them, and with functions that compute nothing instead.

Rows without a checksum are not compared when read, so the second side neither computes nor compares.
"""

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import numpy as np

from benchmarks.measure import Row, at_most, in_turn
from fleetcore import IoTFleetManager
from fleetcore.builtin.sqlite import checksum
from fleetcore.builtin.sqlite.config import SqliteConfig
from fleetcore.builtin.sqlite.storage import open_sqlite
from fleetcore.model.store import Commit, SeriesRequest
from fleetcore.model.telemetry import TelemetryBatch
from fleetcore.testing import context

_SERIES, _START_MS = 1000, 1_767_225_600_000
_RECORDS = 1000


@contextmanager
def _without() -> Iterator[None]:
    names = ("of_record", "of_log", "of_chunk", "of_blob", "of_row")
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(mock.patch.object(checksum, name, return_value=None))
        yield


@contextmanager
def _with() -> Iterator[None]:
    yield


async def _round(points: int, folder: Path) -> dict[str, float]:
    """Processor seconds: ingest with its seal, a read of all series, lists of devices."""
    chance = np.random.default_rng(1)
    index = np.arange(points, dtype=np.int64) % _SERIES
    when = _START_MS + np.arange(points, dtype=np.int64) // _SERIES * 60_000
    value = np.round(20 + chance.normal(0, 1, points), 2)
    async with open_sqlite(SqliteConfig(path=str(folder)), context("sqlite", in_memory=True)) as storage:
        wanted = [SeriesRequest(f"d{n}", "t") for n in range(_SERIES)]
        numbers = np.array([series.index for series in await storage.intern(wanted)])
        begun = time.process_time()
        for at in range(0, points, 10_000):
            part = slice(at, at + 10_000)
            await storage.commit(Commit(readings=TelemetryBatch.of(numbers[index[part]], when[part], value[part])))
        await storage.maintain(_START_MS * 2)
        ingested = time.process_time()
        for number in numbers.tolist():
            async for _ in storage.read(number, 0, 2**50):
                pass
        read = time.process_time()
    async with IoTFleetManager(folder / "fleet", create=True) as manager:
        registering = time.process_time()
        for n in range(_RECORDS):
            await manager.register_device(f"d{n:06}", "sensor", {"floor": n})
        registered = time.process_time()
        for _ in range(40):
            async for _device in manager.iter_devices():
                pass
        listed = time.process_time()
    return {
        "ingest": ingested - begun,
        "read of chunks": read - ingested,
        "registrations": registered - registering,
        "lists of devices": listed - registered,
    }


def run(*, quick: bool) -> list[Row]:
    """Ratios of processor time, with against without."""
    points, rounds = (500_000, 3) if quick else (2_000_000, 9)
    found: dict[str, dict[str, list[float]]] = {}

    def candidate(side: str, around: Callable[[], AbstractContextManager[None]]) -> Callable[[], float]:
        def measure() -> float:
            with tempfile.TemporaryDirectory() as folder, around():
                for name, seconds in asyncio.run(_round(points, Path(folder))).items():
                    found.setdefault(name, {}).setdefault(side, []).append(seconds)
            return 0.0

        return measure

    in_turn({"with": candidate("with", _with), "without": candidate("without", _without)}, rounds)
    limits = {"ingest": 1.03, "read of chunks": 1.05, "registrations": 1.05, "lists of devices": 1.05}
    return [
        at_most(f"checksums: {name}", sides["with"], "without them", sides["without"], "s", limits[name])
        for name, sides in found.items()
    ]
