"""The storage contract, text readings: stored beside the numbers under the same rule."""

from itertools import permutations

from fleetcore.interfaces.storage import Storage
from fleetcore.model.store import Commit, SeriesRequest
from fleetcore.model.telemetry import Quality, SeriesKind, Tally, TextReading
from fleetcore.testing.storage_base import ALWAYS, StorageCase, kept, series, store, texts


class TextsContract(StorageCase):
    """Text readings."""

    async def test_texts_come_back_in_time_order_and_whole(self, storage: Storage) -> None:
        index = await _state(storage)
        late = TextReading(index, 1000, 5001, "größer \u2603", quality=4, seq=3)
        await storage.commit(Commit(texts=(TextReading(index, 2000, 5000, ""),)))

        done = await storage.commit(Commit(texts=(late,)))

        assert done.tally == Tally(stored=1)
        assert kept(await texts(storage, index)) == kept([late, TextReading(index, 2000, 5000, "")])
        assert kept(await texts(storage, index, 1000, 2000)) == kept([late])

    async def test_the_winner_of_texts_does_not_depend_on_their_order(self, storage: Storage) -> None:
        claims = [("b", 1), ("z", 0), ("a", 1), ("b", 1)]
        for i, order in enumerate(permutations(claims)):
            (item,) = await storage.intern([SeriesRequest(f"device-{i}", "state", None, SeriesKind.TEXT)])

            total = Tally()
            for value, seq in order:
                total += (await storage.commit(Commit(texts=(TextReading(item.index, 1000, 1, value, seq=seq),)))).tally

            assert [reading.value for reading in await texts(storage, item.index)] == ["b"]
            assert (total.stored, total.sent) == (1, 4)

    async def test_texts_of_one_commit_are_counted_like_those_of_several(self, storage: Storage) -> None:
        index = await _state(storage)
        some = tuple(TextReading(index, 1000, 1, value) for value in ("a", "a", "b"))

        done = await storage.commit(Commit(texts=some))

        assert done.tally == Tally(stored=1, duplicates=1, conflicts=1)
        assert [text.value for entry in await storage.feed(0) for text in entry.texts] == ["b"]

    async def test_the_feed_shows_texts_that_changed_the_store(self, storage: Storage) -> None:
        index = await _state(storage)
        first = TextReading(index, 1000, 1, "m")
        await storage.commit(Commit(texts=(first,)))
        await storage.commit(Commit(texts=(first,)))
        await storage.commit(Commit(texts=(TextReading(index, 1000, 1, "a"),)))
        winner = TextReading(index, 1000, 1, "z")
        await storage.commit(Commit(texts=(winner,)))

        assert [text for entry in await storage.feed(0) for text in entry.texts] == [first, winner]

    async def test_the_latest_of_a_text_series_is_its_newest_text(self, storage: Storage) -> None:
        index = await _state(storage)
        for time, value in ((2000, "newest"), (1000, "older")):
            await storage.commit(Commit(texts=(TextReading(index, time, 1, value),)))

        (latest,) = await storage.latest([index])

        assert latest is not None
        assert (latest.time, latest.value) == (2000, "newest")

    async def test_of_numbers_and_texts_in_one_series_the_newest_is_the_latest(self, storage: Storage) -> None:
        (index,) = await series(storage, "mixed")
        await store(storage, index, [2000], [1.0])
        await storage.commit(Commit(texts=(TextReading(index, 1000, 1, "old"),)))
        before = await storage.latest([index])
        await storage.commit(Commit(texts=(TextReading(index, 3000, 1, "new"),)))

        values = [latest.value if latest else None for latest in (*before, *await storage.latest([index]))]

        assert values == [1.0, "new"]

    async def test_a_text_at_a_time_of_the_server_moves_to_a_free_one(self, storage: Storage) -> None:
        index = await _state(storage)
        await storage.commit(Commit(texts=(TextReading(index, 1000, 1, "a"),)))
        ours = TextReading(index, 1000, 1, "a", quality=Quality.SERVER_TIME)

        done = await storage.commit(Commit(texts=(ours, ours)))

        assert done.tally == Tally(stored=2)
        assert [reading.time for reading in await texts(storage, index)] == [1000, 1001, 1002]

    async def test_thousands_of_texts_are_read_without_gap(self, storage: Storage) -> None:
        index = await _state(storage)
        some = tuple(TextReading(index, 1000 * i, 1, str(i)) for i in range(2500))
        await storage.commit(Commit(texts=some))

        assert kept(await texts(storage, index, *ALWAYS)) == kept(some)


async def _state(storage: Storage) -> int:
    (item,) = await storage.intern([SeriesRequest("device", "state", None, SeriesKind.TEXT)])
    return item.index
