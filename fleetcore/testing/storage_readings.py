"""The storage contract, readings: the winner's rule, accounting, ranges, aggregates, the latest value."""

from collections import Counter
from collections.abc import Sequence

import hypothesis.strategies as st
import numpy as np
import pytest
from attrs import frozen
from hypothesis import HealthCheck, example, given, settings

from fleetcore.errors import NotFound
from fleetcore.interfaces.storage import Storage
from fleetcore.model.store import Commit, SeriesRequest
from fleetcore.model.telemetry import NO_SEQ, Quality, SeriesKind, Tally, TelemetryBatch
from fleetcore.testing.storage_base import ALWAYS, OpenStorage, StorageCase, readings, series, store

#: Each example opens a new store, so one fixture may serve all of them; and each subclass runs the same test on another
#: store, so failures of one are not saved for the other.
_EXAMPLES = settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors, HealthCheck.too_slow],
)

_FINITE = st.floats(allow_nan=False, allow_infinity=False)


@frozen
class Point:
    """One reading of a property test."""

    series: int
    time: int
    value: float
    seq: int


_POINTS = st.lists(
    st.builds(
        Point,
        st.integers(0, 2),
        st.integers(0, 8).map(lambda t: 1_700_000_000_000 + 60_000 * t),
        st.sampled_from([-1.5, -0.0, 0.0, 2.25, 1e300]),
        st.sampled_from([NO_SEQ, 0, 1, 2]),
    ),
    max_size=60,
)


@frozen
class Arrival:
    """Readings in order of arrival: those of each commit, and whether maintenance follows it."""

    commits: Sequence[tuple[Sequence[Point], bool]]

    @property
    def points(self) -> list[Point]:
        """All arriving readings."""
        return [point for points, _ in self.commits for point in points]


@st.composite
def _arrivals(draw: st.DrawFn) -> Arrival:
    points = draw(_POINTS.flatmap(st.permutations))
    cuts = sorted(draw(st.lists(st.integers(0, len(points)), max_size=5)))
    places = zip([0, *cuts], [*cuts, len(points)], strict=True)
    return Arrival([(points[start:end], draw(st.booleans())) for start, end in places])


#: Explicit examples: late, repeated and contradicting readings, over commits with maintenance in between.
_MIXED = Arrival(
    [
        ([Point(0, 5_000, 2.25, NO_SEQ), Point(0, 2_000, 1.0, 2), Point(1, 1_000, 0.5, NO_SEQ)], True),
        ([Point(0, 2_000, 9.0, 1), Point(0, 3_000, -1.5, NO_SEQ), Point(1, 1_000, 7.5, NO_SEQ)], False),
        ([Point(0, 5_000, 2.25, NO_SEQ), Point(0, 1_000, 0.0, 0), Point(0, 1_000, -1.5, 0)], True),
    ]
)


class ReadingsContract(StorageCase):
    """Numbers and booleans."""

    async def test_a_series_is_interned_once_with_the_kind_of_the_first_call(self, storage: Storage) -> None:
        first = await storage.intern(
            [SeriesRequest("d", "t", "celsius"), SeriesRequest("d", "on", None, SeriesKind.BOOLEAN)]
        )
        again = await storage.intern(
            [SeriesRequest("d", "t", "kelvin"), SeriesRequest("e", "t"), SeriesRequest("d", "t")]
        )

        assert [(item.device, item.metric, item.unit, item.kind) for item in first] == [
            ("d", "t", "celsius", SeriesKind.NUMBER),
            ("d", "on", None, SeriesKind.BOOLEAN),
        ]
        assert again[0] == again[2] == first[0] == storage.catalog.series(first[0].index)
        assert len({item.index for item in (*first, *again)}) == 3
        assert min(item.index for item in (*first, *again)) >= 0

    async def test_a_series_has_the_unit_of_the_first_call_that_has_one(self, storage: Storage) -> None:
        (without,) = await storage.intern([SeriesRequest("d", "t")])
        (given,) = await storage.intern([SeriesRequest("d", "t", "celsius")])
        (later,) = await storage.intern([SeriesRequest("d", "t", "kelvin")])

        assert without.unit is None, without
        assert given == later == storage.catalog.series(without.index), (given, later)
        assert (given.index, given.unit) == (without.index, "celsius"), given

    async def test_the_newest_reading_is_true_or_false_where_it_was_sent_so(self, storage: Storage) -> None:
        item, other = await series(storage, "one", "other")
        await storage.commit(
            Commit(
                readings=TelemetryBatch.of(
                    [item, item, other, other], [1000, 2000, 1000, 2000], [7.0, 1.0, 1.0, 1.0],
                    quality=[0, Quality.BOOLEAN, Quality.BOOLEAN, 0],
                )
            )
        )  # fmt: skip
        await storage.maintain(10**13)

        found = [latest.value for latest in await storage.latest([item, other]) if latest is not None]
        assert [(value, type(value)) for value in found] == [(True, bool), (1.0, float)]

    async def test_the_catalog_does_not_know_an_index_that_was_not_given_out(self, storage: Storage) -> None:
        (index,) = await series(storage, "t")

        with pytest.raises(KeyError):
            storage.catalog.series(index + 1000)

    async def test_series_are_listed_by_device_and_metric(self, storage: Storage) -> None:
        await series(storage, "b", "a", device="two")
        await series(storage, "z", device="one")

        assert [(item.device, item.metric) for item in await storage.series_of()] == [
            ("one", "z"),
            ("two", "a"),
            ("two", "b"),
        ]
        assert [item.metric for item in await storage.series_of("two")] == ["a", "b"]
        assert list(await storage.series_of("three")) == []

    async def test_readings_come_back_in_time_order_from_the_start_to_before_the_end(self, storage: Storage) -> None:
        item, other = await series(storage, "one", "other")
        await store(storage, item, [3000, 1000, 2000], [3.0, 1.0, 2.0])
        await store(storage, other, [2000], [-1.0])
        await store(storage, item, [1500], [1.5])

        assert await readings(storage, item, 1000, 3000) == [(1000, 1.0), (1500, 1.5), (2000, 2.0)]
        assert await readings(storage, item, 1001, 3001) == [(1500, 1.5), (2000, 2.0), (3000, 3.0)]
        assert await readings(storage, item, 5000, 6000) == []
        assert await readings(storage, item, 3000, 1000) == []

    @given(values=st.lists(_FINITE, min_size=1, max_size=30))
    @_EXAMPLES
    async def test_every_finite_value_comes_back_bit_by_bit(
        self, open_storage: OpenStorage, values: list[float]
    ) -> None:
        async with open_storage() as storage:
            (index,) = await series(storage, "t")
            await store(storage, index, range(len(values)), values)
            await storage.maintain(10**15)

            found = [value for _, value in await readings(storage, index)]

        assert [value.hex() for value in found] == [(value + 0.0).hex() for value in values]

    async def test_a_long_series_comes_in_pieces_of_bounded_size(self, storage: Storage) -> None:
        (index,) = await series(storage, "t")
        n = 200_000
        for at in range(0, n, 100_000):
            time = np.arange(at, at + 100_000, dtype=np.int64) * 1000
            await storage.commit(Commit(readings=TelemetryBatch.of(np.full(100_000, index), time, time / 1000)))

        sizes, times = [], []
        async for piece in storage.read(index, *ALWAYS):
            sizes.append(len(piece))
            times.append(piece.time)
            assert piece.series.index == index

        assert max(sizes) <= 150_000
        assert np.array_equal(np.concatenate(times), np.arange(n) * 1000)

    async def test_an_equal_reading_is_a_duplicate_and_changes_nothing(self, storage: Storage) -> None:
        (index,) = await series(storage, "t")
        await store(storage, index, [1000, 2000], [1.0, 0.0])

        done = await store(storage, index, [1000, 2000, 3000], [1.0, -0.0, 3.0])

        assert done.tally == Tally(stored=1, duplicates=2)
        assert await readings(storage, index) == [(1000, 1.0), (2000, 0.0), (3000, 3.0)]

    async def test_duplicates_within_a_commit_are_counted_too(self, storage: Storage) -> None:
        (index,) = await series(storage, "t")

        done = await store(storage, index, [1000, 1000, 1000], [1.0, 1.0, 2.0])

        assert done.tally == Tally(stored=1, duplicates=1, conflicts=1)
        assert await readings(storage, index) == [(1000, 2.0)]

    async def test_of_two_values_the_higher_sequence_wins_in_either_order(self, storage: Storage) -> None:
        a, b = await series(storage, "a", "b")
        for index, order in ((a, (0, 1)), (b, (1, 0))):
            for i in order:
                done = await store(storage, index, [1000], [[9.0, 1.0][i]], seq=[[4, 5][i]])

            assert done.tally == Tally(conflicts=1)
            assert await readings(storage, index) == [(1000, 1.0)]

    async def test_of_two_values_with_one_sequence_the_larger_wins_in_either_order(self, storage: Storage) -> None:
        a, b = await series(storage, "a", "b")
        for index, order in ((a, (1.0, 9.0)), (b, (9.0, 1.0))):
            for value in order:
                await store(storage, index, [1000], [value])

            assert await readings(storage, index) == [(1000, 9.0)]

    async def test_a_duplicate_with_a_higher_sequence_is_remembered(self, storage: Storage) -> None:
        (index,) = await series(storage, "t")
        await store(storage, index, [1000], [1.0], seq=[1])
        await store(storage, index, [1000], [1.0], seq=[5])

        await store(storage, index, [1000], [2.0], seq=[3])

        assert await readings(storage, index) == [(1000, 1.0)]

    @given(arrival=_arrivals())
    @example(arrival=_MIXED)
    @_EXAMPLES
    async def test_any_order_and_cutting_of_the_same_readings_stores_the_same(
        self, open_storage: OpenStorage, arrival: Arrival
    ) -> None:
        async with open_storage() as storage:
            indices = await series(storage, "a", "b", "c")
            total = Tally()
            for points, maintained in arrival.commits:
                total += (await storage.commit(Commit(readings=_batch(points, indices)))).tally
                if maintained:
                    await storage.maintain(10**15)
            found = [await readings(storage, index) for index in indices]
            newest = await storage.latest(indices)

        expected = oracle(arrival.points)
        assert found == [sorted(place.items()) for place in expected]
        assert total.sent == len(arrival.points)
        assert total.stored == sum(len(place) for place in expected)
        assert [(item.time, item.value) if item else None for item in newest] == [
            max(place.items()) if place else None for place in expected
        ]

    async def test_readings_of_an_unknown_series_are_refused_with_their_commit(self, storage: Storage) -> None:
        (index,) = await series(storage, "t")

        with pytest.raises(NotFound):
            await storage.commit(Commit(readings=TelemetryBatch.of([index, index + 1000], [1, 1], [1.0, 1.0])))

        assert await readings(storage, index) == []

    async def test_times_of_the_server_are_made_unique_and_never_duplicates(self, storage: Storage) -> None:
        (index,) = await series(storage, "t")
        await store(storage, index, [1000, 1002], [1.0, 1.0])

        done = await store(storage, index, [1000, 1000, 1000], [1.0, 1.0, 1.0], quality=Quality.SERVER_TIME)
        again = await store(storage, index, [1000], [1.0], quality=Quality.SERVER_TIME)

        assert done.tally == Tally(stored=3)
        assert again.tally == Tally(stored=1)
        assert [time for time, _ in await readings(storage, index)] == [1000, 1001, 1002, 1003, 1004, 1005]

    async def test_times_of_the_server_give_way_to_those_of_devices_in_the_same_commit(self, storage: Storage) -> None:
        (index,) = await series(storage, "t")

        done = await store(storage, index, [1000, 1000], [5.0, 7.0], quality=[Quality.SERVER_TIME, 0])

        assert done.tally == Tally(stored=2)
        assert await readings(storage, index) == [(1000, 7.0), (1001, 5.0)]

    async def test_a_clock_that_stands_still_loses_no_reading(self, storage: Storage) -> None:
        (index,) = await series(storage, "t")

        for i in range(20):
            done = await store(storage, index, [1000] * 10, [float(i)] * 10, quality=Quality.SERVER_TIME)
            assert done.tally == Tally(stored=10)

        found = await readings(storage, index)
        assert (len(found), [time for time, count in Counter(time for time, _ in found).items() if count > 1]) == (
            200,
            [],
        )

    async def test_quality_is_kept_and_quarantined_readings_are_read(self, storage: Storage) -> None:
        (index,) = await series(storage, "t")
        await store(storage, index, [1000, 2000, 3000], [1.0, 2.0, 3.0], quality=[0, Quality.QUARANTINED, 4])
        await storage.maintain(10**15)

        kept = [quality async for piece in storage.read(index, *ALWAYS) for quality in piece.quality.tolist()]

        assert kept == [0, Quality.QUARANTINED, 4]

    async def test_the_latest_is_the_newest_by_event_time_not_by_arrival(self, storage: Storage) -> None:
        item, other, none = await series(storage, "one", "other", "none")
        await store(storage, item, [5000], [5.0])
        await store(storage, item, [1000], [1.0])
        await store(storage, other, [2000, 1000], [2.0, 1.0])

        found = await storage.latest([other, none, item, item])

        assert [(latest.series.index, latest.time, latest.value) if latest else None for latest in found] == [
            (other, 2000, 2.0),
            None,
            (item, 5000, 5.0),
            (item, 5000, 5.0),
        ]

    async def test_the_latest_follows_a_won_conflict(self, storage: Storage) -> None:
        (index,) = await series(storage, "t")
        await store(storage, index, [1000], [1.0])
        await store(storage, index, [1000], [0.5], seq=[1])
        await store(storage, index, [1000], [8.0], seq=[0])

        (latest,) = await storage.latest([index])

        assert latest is not None
        assert latest.value == 0.5

    @given(points=_POINTS, late=_POINTS, bucket=st.sampled_from([1, 60_000, 90_000, 7_000_000]))
    @example(
        points=[Point(0, 1_700_000_000_000 + 60_000 * n, 2.25 - n, NO_SEQ) for n in (1, 2, 4, 8)],
        late=[Point(0, 1_700_000_000_000 + 60_000 * 3, 0.0, NO_SEQ)],
        bucket=90_000,
    )
    @_EXAMPLES
    async def test_aggregates_are_those_of_the_stored_readings_also_with_late_ones(
        self, open_storage: OpenStorage, points: list[Point], late: list[Point], bucket: int
    ) -> None:
        points = [point for point in points if abs(point.value) < 1e9]
        late = [point for point in late if abs(point.value) < 1e9]
        # The range ends at a stored reading, which is not part of it.
        start = 1_700_000_000_000 + 60_000
        end = max((point.time for point in [*points, *late]), default=start + 1) if points else start + 340_000
        async with open_storage() as storage:
            indices = await series(storage, "a", "b", "c")
            await storage.commit(Commit(readings=_batch(points, indices)))
            await storage.maintain(10**15)
            await storage.commit(Commit(readings=_batch(late, indices)))
            found = await storage.aggregate(indices[0], start, end, bucket)

        expected: dict[int, list[float]] = {}
        for time, value in sorted(oracle([*points, *late])[0].items()):
            if start <= time < end:
                expected.setdefault(time // bucket * bucket, []).append(value)
        assert found.series.index == indices[0]
        assert found.start.tolist() == list(expected)
        assert found.count.tolist() == [len(values) for values in expected.values()]
        assert found.min.tolist() == [min(values) for values in expected.values()]
        assert found.max.tolist() == [max(values) for values in expected.values()]
        assert found.sum.tolist() == [sum(values) for values in expected.values()]
        assert found.first.tolist() == [values[0] for values in expected.values()]
        assert found.last.tolist() == [values[-1] for values in expected.values()]
        assert np.allclose(found.mean, [sum(values) / len(values) for values in expected.values()])

    async def test_buckets_before_the_epoch_are_aligned_like_those_after_it(self, storage: Storage) -> None:
        (index,) = await series(storage, "t")
        await store(storage, index, [-1, -1000, -1001, 0], [1.0, 2.0, 3.0, 4.0])

        found = await storage.aggregate(index, -5000, 5000, 1000)

        assert found.start.tolist() == [-2000, -1000, 0]
        assert found.count.tolist() == [1, 2, 1]

    async def test_upkeep_changes_nothing_that_is_read(self, storage: Storage) -> None:
        indices = await series(storage, *"abcdef")
        rng = np.random.default_rng(7)
        for _ in range(30):
            n = int(rng.integers(1, 400))
            time = rng.integers(0, 3000, n) * 1000
            batch = TelemetryBatch.of(
                rng.choice(indices, n), time, rng.integers(0, 5, n) / 4, seq=rng.integers(-1, 3, n)
            )
            await storage.commit(Commit(readings=batch))
            before = [await readings(storage, index) for index in indices]
            newest = await storage.latest(indices)

            await storage.maintain(10**15)

            assert [await readings(storage, index) for index in indices] == before
            assert await storage.latest(indices) == newest


def oracle(points: Sequence[Point]) -> list[dict[int, float]]:
    """Time and value of what must be stored of each of three series, in any order of the points."""
    winners: list[dict[int, tuple[int, float]]] = [{}, {}, {}]
    for point in points:
        place = winners[point.series]
        claim = (point.seq, point.value + 0.0)
        place[point.time] = max(claim, place.get(point.time, claim))
    return [{time: value for time, (_, value) in place.items()} for place in winners]


def _batch(points: Sequence[Point], indices: Sequence[int]) -> TelemetryBatch:
    return TelemetryBatch.of(
        [indices[point.series] for point in points],
        [point.time for point in points],
        [point.value for point in points],
        seq=[point.seq for point in points],
    )
