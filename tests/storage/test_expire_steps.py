"""Dropping what is old holds nothing up: a call is a bounded piece of work, and a damaged chunk ends no pass."""

import sqlite3

import numpy as np

from fleetcore.model.store import Commit, Expired, SeriesRequest
from fleetcore.model.telemetry import TelemetryBatch, TextReading
from fleetcore.testing.storage_base import problems, readings, texts

_LATER = 10**15


async def sealed(storage, count, times):
    """Series that have a chunk for each of some lists of times."""
    some = [each.index for each in await storage.intern([SeriesRequest(f"d{n}", "t") for n in range(count)])]
    for part in times:
        every = np.repeat(np.array(part), count)
        batch = TelemetryBatch.of(np.tile(some, len(part)), every, every.astype(np.float64))
        await storage.commit(Commit(readings=batch))
        await storage.maintain(_LATER)
    return some


async def dropped(storage, series, before, late_ms=0):
    found = [Expired(more=True)]
    while found[-1].more:
        found.append(await storage.expire(series, before, late_ms=late_ms))
        assert len(found) < 1000
    return found[1:]


async def test_a_call_drops_a_bounded_number_of_chunks(open_at, tmp_path):
    async with open_at(tmp_path) as storage:
        some = await sealed(storage, 500, [[1000, 1001], [2000, 2001], [3000, 3001]])

        calls = await dropped(storage, some, 3000)

        assert sum(call.readings for call in calls) == 500 * 4
        assert max(call.readings for call in calls) <= 128 * 2
        assert await readings(storage, some[-1]) == [(3000, 3000.0), (3001, 3001.0)]
        assert await problems(storage) == []


async def test_a_call_cuts_a_bounded_number_of_chunks(open_at, tmp_path):
    async with open_at(tmp_path) as storage:
        some = await sealed(storage, 100, [list(range(1000, 1010))])

        calls = await dropped(storage, some, 1005)

        assert sum(call.readings for call in calls) == 500
        assert max(call.readings for call in calls) <= 16 * 5
        assert {time for index in some for time, _ in await readings(storage, index)} == set(range(1005, 1010))


async def test_a_call_drops_a_bounded_number_of_texts(open_at, tmp_path):
    async with open_at(tmp_path) as storage:
        (series,) = await storage.intern([SeriesRequest("d", "state")])
        await storage.commit(Commit(texts=tuple(TextReading(series.index, n, 1, "x") for n in range(2500))))

        assert [call.texts for call in await dropped(storage, [series.index], 2400)] == [1000, 1000, 400]
        assert [text.time for text in await texts(storage, series.index)] == list(range(2400, 2500))


async def test_series_that_were_silent_for_long_are_no_work_again_and_again(open_at, tmp_path):
    """What stays of them, one old reading each, must not fill the calls of those that have more to drop."""
    async with open_at(tmp_path) as storage:
        some = await sealed(storage, 300, [[1000, 1001]])
        await dropped(storage, some, 10**9)
        (busy,) = await storage.intern([SeriesRequest("z", "t")])
        await storage.commit(Commit(readings=TelemetryBatch.of([busy.index] * 2, [1000, 10**9], [1.0, 2.0])))
        await storage.maintain(_LATER)

        first = await storage.expire([*some, busy.index], 10**9)

        assert (first.readings, first.more) == (1, False)


async def test_a_damaged_chunk_goes_when_all_of_it_is_old_and_ends_no_pass(open_at, tmp_path):
    async with open_at(tmp_path) as storage:
        broken, intact = await sealed(storage, 2, [list(range(1000, 1010)), [9000, 9001]])
    db = sqlite3.connect(tmp_path / "fleet.db")
    db.execute(
        "UPDATE chunk_bodies SET body = zeroblob(length(body)) WHERE id ="
        " (SELECT id FROM chunks WHERE series = ? AND t_min = 1000)",
        (broken,),
    )
    db.commit()
    db.close()

    async with open_at(tmp_path) as storage:
        await dropped(storage, [broken, intact], 1005)
        assert (await readings(storage, intact))[0] == (1005, 1005.0)
        assert len(await problems(storage)) > 0
        await dropped(storage, [broken, intact], 2000)
        assert await readings(storage, broken) == [(9000, 9000.0), (9001, 9001.0)]
        assert await problems(storage) == []
    async with open_at(tmp_path) as storage:
        assert await problems(storage) == []
