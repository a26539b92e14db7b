"""What was deleted leaves the file too: a file that only grows has no end, and free pages hold what was erased."""

import pytest

from fleetcore.model.store import Commit, Delete, Put, SeriesRequest
from fleetcore.model.telemetry import TextReading

_MIB = 1024**2


async def records(storage, count, body):
    for first in range(0, count, 50):
        some = range(first, min(count, first + 50))
        await storage.commit(Commit(puts=tuple(Put(kind="k", key=f"{n}", body={"x": body}) for n in some)))


@pytest.mark.parametrize("kept", [0, 100])
async def test_a_file_that_is_mostly_free_gets_shorter_by_the_next_maintenance(open_at, tmp_path, kept):
    file = tmp_path / "fleet.db"
    async with open_at(tmp_path) as storage:
        await records(storage, 1500, "x" * 60_000)
        before = (await storage.size()).parts["database"]
        assert before > 60 * _MIB
        for first in range(0, 1500 - kept, 100):
            await storage.commit(Commit(deletes=tuple(Delete(kind="k", key=f"{n}") for n in range(first, first + 100))))

        await storage.maintain(10**15)

        assert (await storage.size()).free_bytes <= 32 * _MIB
    assert file.stat().st_size <= before - 25 * _MIB


async def test_no_free_page_is_left_where_a_device_was_erased(open_at, tmp_path):
    async with open_at(tmp_path) as storage:
        (series,) = await storage.intern([SeriesRequest("gone", "t")])
        for n in range(20):
            await storage.commit(Commit(texts=(TextReading(series.index, n, 1, "secret" * 20_000),)))

        await storage.forget("gone")

        assert (await storage.size()).free_bytes == 0
    assert b"secretsecret" not in (tmp_path / "fleet.db").read_bytes()
