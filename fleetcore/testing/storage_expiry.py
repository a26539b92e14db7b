"""The storage contract, expiry: readings past their time are deleted, a part at a time, and nothing else changes."""

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path
from time import sleep

import pytest

from fleetcore.interfaces.storage import Storage
from fleetcore.model.store import Commit, Expired, SeriesRequest
from fleetcore.model.telemetry import SeriesKind, Tally, TelemetryBatch, TextReading
from fleetcore.testing.kill import Child, killed
from fleetcore.testing.storage_base import (
    OpenBackup,
    OpenStorage,
    StorageCase,
    problems,
    readings,
    series,
    shown,
    store,
    texts,
)

#: After every time in the tests: a store packs its data.
_LATER = 10**15


class ExpiryContract(StorageCase):
    """Deletes readings by age; skipped if the store leaves :meth:`~fleetcore.interfaces.Storage.expire` out."""

    async def test_readings_before_a_time_go_and_those_from_it_on_stay(self, storage: Storage) -> None:
        old, other = await _two(storage)
        await storage.maintain(_LATER)

        gone = await _expire(storage, [old], 3000)

        assert (gone.readings, gone.texts) == (2, 0)
        assert gone.size_bytes > 0
        assert await readings(storage, old) == [(3000, 3.0), (4000, 4.0), (5000, 5.0)]
        assert await readings(storage, other) == [(1000, 1.0), (2000, 2.0), (3000, 3.0), (4000, 4.0), (5000, 5.0)]
        assert await problems(storage) == []

    async def test_texts_before_a_time_go_and_the_newest_stays(self, storage: Storage) -> None:
        _can(storage)
        (state,) = await storage.intern([SeriesRequest("device", "state", None, SeriesKind.TEXT)])
        await storage.commit(Commit(texts=tuple(TextReading(state.index, 1000 * n, 7, f"t{n}") for n in range(1, 6))))
        await storage.maintain(_LATER)

        assert (await _expire(storage, [state.index], 3000)).texts == 2
        assert [text.value for text in await texts(storage, state.index)] == ["t3", "t4", "t5"]
        assert (await _expire(storage, [state.index], 10**12)).texts == 2
        assert [text.value for text in await texts(storage, state.index)] == ["t5"]

    async def test_the_newest_reading_of_a_series_stays_however_old_it_is(self, storage: Storage) -> None:
        old, _ = await _two(storage)
        await storage.maintain(_LATER)
        before = await storage.latest([old])

        assert (await _expire(storage, [old], 10**12)).readings == 4
        assert (await _expire(storage, [old], 10**12)).readings == 0
        assert await readings(storage, old) == [(5000, 5.0)]
        assert await storage.latest([old]) == before
        await store(storage, old, [6000], [6.0])
        await storage.maintain(_LATER)
        assert (await _expire(storage, [old], 10**12)).readings == 1
        assert await readings(storage, old) == [(6000, 6.0)]

    async def test_counting_says_what_would_go_and_drops_nothing(self, storage: Storage) -> None:
        old, other = await _two(storage)
        await storage.commit(Commit(texts=tuple(TextReading(other, 100 * n, 7, f"t{n}") for n in range(1, 4))))
        await storage.maintain(_LATER)
        everything = [await readings(storage, index) for index in (old, other)]

        counted = await storage.expire([old, other], 4000, count=True)

        await store(storage, old, [1500], [1.5])
        assert (await storage.expire([old], 4000, count=True)).readings == 4, "it is not packed yet, and old"
        await storage.maintain(_LATER)
        counted += Expired(readings=1)
        assert await readings(storage, old) == sorted([*everything[0], (1500, 1.5)])
        assert await readings(storage, other) == everything[1]
        assert len(await texts(storage, other)) == 3
        gone = await _expire(storage, [old, other], 4000)
        assert (counted.readings, counted.texts, counted.more) == (gone.readings, gone.texts, False)

    async def test_readings_may_stay_a_while_longer_and_no_longer(self, storage: Storage) -> None:
        (index,) = await series(storage, "t")
        _can(storage)
        for start in range(0, 100, 10):
            times = [1000 * n for n in range(start, start + 10)]
            await store(storage, index, times, [float(time) for time in times])
            await storage.maintain(_LATER)

        await _expire(storage, [index], 50_000, late_ms=20_000)

        stay = [time for time, _ in await readings(storage, index)]
        assert stay == sorted(stay)
        assert [time for time in stay if time >= 50_000] == [1000 * n for n in range(50, 100)]
        assert [time for time in stay if time < 30_000] == []

    async def test_of_any_readings_those_go_that_have_to(self, storage: Storage) -> None:
        _can(storage)
        chance = random.Random(7)  # noqa: S311 - the same times in each run
        for round_ in range(8):
            some = await series(storage, *(f"m{n}" for n in range(4)), device=f"device-{round_}")
            kept: dict[int, dict[int, float]] = {index: {} for index in some}
            for _ in range(chance.randrange(1, 6)):
                for index in some:
                    times = chance.sample(range(1000), chance.randrange(1, 60))
                    values = [float(chance.randrange(3)) for _ in times]
                    await store(storage, index, times, values, seq=chance.randrange(100))
                    kept[index] = dict(await readings(storage, index))
                await storage.maintain(_LATER)
            before, late_ms = chance.randrange(1100), chance.choice([0, 0, 100])

            gone = await _expire(storage, some, before, late_ms=late_ms)

            dropped = 0
            for index, points in kept.items():
                newest = max(points)
                there = dict(await readings(storage, index))
                dropped += len(points) - len(there)
                wanted = {time: value for time, value in points.items() if time >= before or time == newest}
                assert wanted.items() <= there.items() <= points.items(), (round_, index)
                assert [t for t in there if t < before - late_ms and t != newest] == [], (round_, index)
            # A reading sent again with another value may have been kept twice.
            assert gone.readings >= dropped
        assert await problems(storage) == []

    async def test_the_feed_shows_expired_readings_as_before(self, storage: Storage) -> None:
        old, _ = await _two(storage)
        before, position = await shown(storage), await storage.position()
        await storage.maintain(_LATER)

        await _expire(storage, [old], 10**12)

        assert await storage.position() == position
        assert await shown(storage) == before

    async def test_what_went_counts_as_new_where_it_is_sent_again(self, storage: Storage) -> None:
        old, _ = await _two(storage)
        await storage.maintain(_LATER)
        await _expire(storage, [old], 3000)

        done = await store(storage, old, [1000, 3000], [1.0, 3.0])

        assert done.tally == Tally(stored=1, duplicates=1)
        assert (await readings(storage, old))[0] == (1000, 1.0)

    async def test_series_that_are_not_there_are_skipped(self, storage: Storage) -> None:
        old, other = await _two(storage)
        await storage.maintain(_LATER)
        await storage.forget("device")

        assert await _expire(storage, [old, other, 10**6], 10**12) == Expired()

    async def test_a_read_that_is_under_way_fails_nowhere_and_shows_no_other_value(self, storage: Storage) -> None:
        (index,) = await series(storage, "t")
        _can(storage)
        count, size = 20, 8000
        for n in range(count):
            times = range(n * size, (n + 1) * size)
            await store(storage, index, times, [float(time) for time in times])
            await storage.maintain(_LATER)
        before = count * size // 2
        seen: list[int] = []

        async def read() -> None:
            async for piece in storage.read(index, 0, _LATER):
                assert piece.time.tolist() == piece.value.tolist()
                seen.extend(piece.time.tolist())
                await asyncio.sleep(0)

        await asyncio.gather(read(), read(), _expire(storage, [index], before))

        assert set(range(before, count * size)) <= set(seen)
        assert [time for time, _ in await readings(storage, index)] == list(range(before, count * size))

    async def test_commits_and_a_backup_go_on_beside_it(
        self, storage: Storage, open_backup: OpenBackup, tmp_path: Path
    ) -> None:
        old, other = await _two(storage)
        await storage.maintain(_LATER)

        async def write() -> None:
            for n in range(50):
                await store(storage, other, [10_000 + n], [float(n)])

        await asyncio.gather(write(), _expire(storage, [old], 4000), storage.backup(tmp_path / "copy"))

        assert [time for time, _ in await readings(storage, old)] == [4000, 5000]
        assert len(await readings(storage, other)) == 55
        async with open_backup(tmp_path / "copy") as copy:
            assert [time for time, _ in await readings(copy, old)][-2:] == [4000, 5000]
            assert await problems(copy) == []

    async def test_what_went_and_what_stayed_is_so_after_opening_again(self, open_again: OpenStorage) -> None:
        async with open_again() as storage:
            old, other = await _two(storage)
            await storage.maintain(_LATER)
            await _expire(storage, [old], 10**12)
            await _expire(storage, [other], 3000)
            before = await storage.latest([old, other])

        async with open_again() as storage:
            assert await storage.latest([old, other]) == before
            assert await readings(storage, old) == [(5000, 5.0)]
            assert await readings(storage, other) == [(3000, 3.0), (4000, 4.0), (5000, 5.0)]
            assert (await store(storage, old, [5000, 6000], [5.0, 6.0])).tally == Tally(stored=1, duplicates=1)
            assert await problems(storage) == []

    @pytest.mark.parametrize("later_s", [0.0, 0.002, 0.005])
    async def test_kill_9_in_the_middle_loses_nothing_that_stays(self, open_again: OpenStorage, later_s: float) -> None:
        series_count, times = 40, range(0, 4000, 10)
        before = 2000

        async def some_of(storage: Storage) -> list[int]:
            return await series(storage, *(f"m{n}" for n in range(series_count)))

        async def work(child: Child) -> None:
            async with open_again() as storage:
                _can(storage)
                some = await some_of(storage)
                for first in range(0, len(times), 50):
                    part = [time for time in times[first : first + 50] for _ in some]
                    batch = TelemetryBatch.of(some * 50, part, [float(time) for time in part])
                    await storage.commit(Commit(readings=batch))
                    await storage.maintain(_LATER)

                async def write() -> None:
                    for n in range(4000, 10**6):
                        await store(storage, some[0], [n], [float(n)])
                        child.acknowledge(str(n))

                writing = asyncio.ensure_future(write())
                for index in some:
                    await _expire(storage, [index], before)
                    child.acknowledge("expired")
                await writing

        def in_the_middle(said: Sequence[str]) -> bool:
            if said.count("expired") < series_count // 2:
                return False
            sleep(later_s)  # the work continues meanwhile, so the next step is interrupted somewhere
            return True

        async with open_again() as storage:
            _can(storage)
        done = [int(word) for word in killed(work, after=in_the_middle) if word != "expired"]

        async with open_again() as storage:
            some = await some_of(storage)
            for index in some:
                there = await readings(storage, index)
                assert [value for _, value in there] == [float(time) for time, _ in there]
                stay = [time for time, _ in there if before <= time < 4000]
                assert stay == [time for time in times if time >= before], "deleted before its time"
                assert {time for time, _ in there if time < before} <= set(times)
            assert set(done) <= {time for time, _ in await readings(storage, some[0])}, "acknowledged, and gone"
            assert await problems(storage) == []
            await _expire(storage, some, before)
            for index in some:
                assert (await readings(storage, index))[0] == (before, float(before))
            assert await problems(storage) == []


def _can(storage: Storage) -> None:
    if getattr(type(storage), "expire", None) is Storage.expire:
        pytest.skip("this store cannot drop readings by age")


async def _two(storage: Storage) -> tuple[int, int]:
    """Two series of five readings each, a second apart from 1,000 ms on."""
    _can(storage)
    old, other = await series(storage, "old", "other")
    for index in (old, other):
        await store(storage, index, [1000, 2000, 3000, 4000, 5000], [1.0, 2.0, 3.0, 4.0, 5.0])
    return old, other


async def _expire(storage: Storage, some: Sequence[int], before: int, *, late_ms: int = 0) -> Expired:
    """Expires everything, call after call."""
    total = Expired()
    while True:
        part = await storage.expire(some, before, late_ms=late_ms)
        total += part
        if not part.more:
            return total
