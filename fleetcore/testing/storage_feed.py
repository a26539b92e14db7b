"""The storage contract, feed: commits in one order, for consumers with cursors."""

import asyncio

from fleetcore.errors import NotFound
from fleetcore.interfaces.storage import Storage
from fleetcore.model.store import Commit, MessageMark
from fleetcore.model.telemetry import TelemetryBatch
from fleetcore.testing.patience import PATIENCE_S
from fleetcore.testing.storage_base import StorageCase, columns, event, put, readings, series, shown, store


class FeedContract(StorageCase):
    """The feed, cursors, blobs and message marks."""

    async def test_an_empty_store_is_at_position_zero(self, storage: Storage) -> None:
        assert await storage.position() == 0
        assert list(await storage.feed(0)) == []

    async def test_the_feed_shows_what_was_committed_in_its_order(self, storage: Storage) -> None:
        (index,) = await series(storage, "t")
        batch = TelemetryBatch.of(
            [index] * 3, [2000, 1000, 3000], [2.5, 1.5, 3.5], received=9000, quality=[0, 1, 2], seq=[4, 5, 6]
        )

        first = await storage.commit(Commit(readings=batch, events=(event(1), event(2))))
        second = await storage.commit(Commit(events=(event(3),)))

        entries = await storage.feed(0)
        assert [entry.position for entry in entries] == [first.position, second.position]
        assert entries[0].readings is not None
        assert columns(entries[0].readings) == columns(batch)
        assert entries[0].readings.received.tolist() == batch.received.tolist()
        assert entries[0].events == (event(1), event(2))
        assert entries[1].readings is None
        assert entries[1].events == (event(3),)
        assert await storage.position() == second.position > first.position > 0

    async def test_the_feed_pages_without_gap_or_repetition(self, storage: Storage) -> None:
        positions = [(await storage.commit(Commit(events=(event(i),)))).position for i in range(25)]

        seen: list[int] = []
        while page := await storage.feed(seen[-1] if seen else 0, limit=4):
            assert len(page) <= 4
            seen += [entry.position for entry in page]

        assert seen == positions

    async def test_the_feed_never_skips_one_of_many_concurrent_commits(self, storage: Storage) -> None:
        (index,) = await series(storage, "t")

        async def consume() -> list[int]:
            seen: list[int] = []
            after = 0
            while len(seen) < 100:
                # Bounded: with a feed that skips one, the wait would be endless.
                if not await storage.wait_feed(after, 5.0):
                    break
                for entry in await storage.feed(after, limit=3):
                    after = entry.position
                    seen += [e.time for e in entry.events]
            return seen

        async def commit(i: int) -> tuple[int, int]:
            batch = TelemetryBatch.of([index], [1000 * i], [1.0])
            return (await storage.commit(Commit(events=(event(i),), readings=batch))).position, i

        consumer = asyncio.ensure_future(consume())
        done = await asyncio.gather(*(commit(i) for i in range(100)))
        seen = await consumer

        assert seen == [i for _, i in sorted(done)]

    async def test_exact_duplicates_and_losers_are_not_shown(self, storage: Storage) -> None:
        (index,) = await series(storage, "t")
        await store(storage, index, [1000], [5.0])
        await store(storage, index, [1000, 2000], [5.0, 1.0])
        await store(storage, index, [1000], [4.0])
        await store(storage, index, [1000], [5.0], seq=[3])
        await store(storage, index, [1000], [6.0], seq=[4])

        assert await shown(storage) == [(index, 1000, 5.0), (index, 2000, 1.0), (index, 1000, 6.0)]

    async def test_the_feed_shows_the_time_that_a_reading_was_moved_to(self, storage: Storage) -> None:
        (index,) = await series(storage, "t")
        await store(storage, index, [1000, 1000], [1.0, 2.0], quality=1)

        assert await shown(storage) == [(index, time, value) for time, value in await readings(storage, index)]

    async def test_what_shows_nothing_takes_no_place_so_a_consumer_does_not_wake_itself(self, storage: Storage) -> None:
        (index,) = await series(storage, "t")
        before = (await store(storage, index, [1000], [1.0])).position

        for silent in (
            Commit(cursors={"detectors": before}, blobs={"detectors": b"state"}),
            Commit(marks=(MessageMark(device="device", id="m", time=1, answer={}),)),
            Commit(readings=TelemetryBatch.of([index], [1000], [1.0])),
            Commit(),
        ):
            assert (await storage.commit(silent)).position == before

        assert await storage.position() == before
        assert list(await storage.feed(before)) == []

    async def test_a_record_change_takes_a_position(self, storage: Storage) -> None:
        first = await storage.commit(Commit(puts=(put("a"),)))
        second = await storage.commit(Commit(puts=(put("a"),)))

        assert 0 < first.position < second.position == await storage.position()

    async def test_waiting_ends_with_the_next_commit(self, storage: Storage) -> None:
        first = (await storage.commit(Commit(events=(event(1),)))).position
        waiting = asyncio.ensure_future(storage.wait_feed(first, 2 * PATIENCE_S))
        await asyncio.sleep(0)

        await storage.commit(Commit(events=(event(2),)))

        assert await asyncio.wait_for(waiting, PATIENCE_S) is True

    async def test_waiting_for_what_is_there_returns_at_once(self, storage: Storage) -> None:
        await storage.commit(Commit(events=(event(1),)))

        assert await asyncio.wait_for(storage.wait_feed(0, 2 * PATIENCE_S), PATIENCE_S) is True

    async def test_waiting_in_vain_ends_at_the_time_out(self, storage: Storage) -> None:
        assert await storage.wait_feed(0, 0.01) is False

    async def test_cursors_are_kept_moved_and_forgotten(self, storage: Storage) -> None:
        assert await storage.cursor("a") is None
        await storage.commit(Commit(cursors={"a": 5, "b": 0}))
        await storage.commit(Commit(cursors={"a": 7}))
        found = [await storage.cursor(name) for name in "ab"]
        await storage.commit(Commit(cursors={"a": None, "c": None}))

        assert found == [7, 0]
        assert await storage.cursor("a") is None

    async def test_blobs_are_kept_replaced_and_forgotten(self, storage: Storage) -> None:
        await storage.commit(Commit(blobs={"a": b"\x00\xff" * 1000, "b": b""}))
        await storage.commit(Commit(blobs={"a": b"new"}))
        found = [await storage.blob(name) for name in "ab"]
        await storage.commit(Commit(blobs={"a": None}))

        assert found == [b"new", b""]
        assert await storage.blob("a") is None

    async def test_upkeep_keeps_every_commit_that_some_cursor_has_not_passed(self, storage: Storage) -> None:
        (index,) = await series(storage, "t")
        positions = [(await store(storage, index, [1000 * i], [float(i)])).position for i in range(20)]
        await storage.commit(Commit(cursors={"slow": positions[4], "fast": positions[19]}))

        await storage.maintain(10**15)

        assert [entry.position for entry in await storage.feed(positions[4])] == positions[5:]
        assert await shown(storage, positions[17]) == [(index, 18_000, 18.0), (index, 19_000, 19.0)]

    async def test_a_trimmed_position_is_told_with_the_oldest_that_is_left(self, storage: Storage) -> None:
        (index,) = await series(storage, "t")
        for i in range(5):
            await store(storage, index, [1000 * i], [float(i)])
        last = await storage.position()
        await storage.commit(Commit(cursors={"only": last}))
        await storage.maintain(10**15)

        try:
            entries = await storage.feed(0)
        except NotFound as gone:
            oldest = gone.ids["oldest"]
            assert isinstance(oldest, int)
            entries = await storage.feed(oldest - 1)
            assert [entry.position for entry in entries if entry.position < oldest] == []
        assert [entry.position for entry in entries] == list(range(last - len(entries) + 1, last + 1))
        assert await storage.position() == last

    async def test_marks_tell_which_ids_a_device_used_and_its_first_answer(self, storage: Storage) -> None:
        await storage.commit(Commit(marks=(_mark("m1", 1), _mark("m2", 2))))
        await storage.commit(Commit(marks=(_mark("m2", 3),)))

        found = await storage.marks("device", ["m2", "m3", "m1"])

        assert found == {"m1": _mark("m1", 1), "m2": _mark("m2", 2)}
        assert await storage.marks("other", ["m1"]) == {}
        assert await storage.marks("device", []) == {}

    async def test_the_last_ten_thousand_marks_of_a_day_stay_known(self, storage: Storage) -> None:
        for at in range(0, 10_000, 1000):
            await storage.commit(Commit(marks=tuple(_mark(f"m{i}", 1000 + i) for i in range(at, at + 1000))))
        await storage.commit(Commit(marks=(MessageMark(device="other", id="m", time=1000, answer={}),)))

        await storage.maintain(1000 + 24 * 3600 * 1000)

        ids = [f"m{i}" for i in range(10_000)]
        assert list(await storage.marks("device", ids)) == ids
        assert list(await storage.marks("other", ["m"])) == ["m"]


def _mark(index: str, time: int) -> MessageMark:
    return MessageMark(device="device", id=index, time=time, answer={"stored": time, "refused": []})
