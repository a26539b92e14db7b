"""The write-ahead log is bounded in bytes of its file, whatever the changes are: few bytes of many pages, or many of few."""

import random

import numpy as np
import pytest

from fleetcore.model.store import Commit, Put, SeriesRequest
from fleetcore.model.telemetry import TelemetryBatch

_MAX = 32 * 1024**2


async def records(storage, number):
    chance = random.Random(number)
    await storage.commit(
        Commit(
            puts=tuple(
                Put(
                    kind="twin", key=f"d{chance.randrange(20_000)}", body={"x": "y" * 300}, refs=frozenset({("r", "1")})
                )
                for _ in range(8)
            )
        )
    )


async def telemetry(storage, number):
    (series,) = await storage.intern([SeriesRequest("d", "t")])
    times = number * 10_000 + np.arange(10_000)
    await storage.commit(Commit(readings=TelemetryBatch.of([series.index] * 10_000, times, times / 7)))


@pytest.mark.parametrize(("write", "count"), [(records, 1500), (telemetry, 300)])
async def test_the_file_of_the_log_stays_within_its_bound(open_at, tmp_path, write, count):
    largest = 0
    async with open_at(tmp_path) as storage:
        for number in range(count):
            await write(storage, number)
            largest = max(largest, (tmp_path / "fleet.db-wal").stat().st_size)
    assert 1024**2 < largest <= _MAX
