"""A point stays what it was sent as. It guards against a first value, or a first reading, that decides for all later ones.

The same points are given in several orders, and each front end is asked: pages, buckets, series, the newest, columns.
"""

from itertools import permutations

import pytest

from fleetcore import IoTFleetManager

T = 1_764_251_700_000
#: Each at a time of its own, so that the order of arrival is all that differs.
SENT = {T: "initialising", T + 1000: True, T + 2000: 7.0, T + 3000: 0.25, T + 4000: False, T + 5000: 1.0}
ORDERS = [list(SENT), list(SENT)[::-1], [*list(SENT)[1:], T], [*list(SENT)[2:], T, T + 1000]]


def exactly(points):
    """With the kinds, since ``True == 1.0``."""
    return [(int(time), value, type(value)) for time, value in points]


async def answers(manager):
    (page,) = (await manager.list_readings("m", device="d")).items
    (buckets,) = (await manager.list_buckets("m", device="d")).items
    (series,) = (await manager.list_series("d")).items
    (latest,) = (await manager.list_latest_readings("d")).items
    view = await manager.query_telemetry("d", "m")
    columns = zip(view.time.tolist(), view.value.tolist(), strict=True)
    return exactly(page.points), exactly(columns), buckets, series.kind, (latest.value, type(latest.value))


@pytest.mark.parametrize("order", ORDERS, ids=["forwards", "backwards", "boolean first", "number first"])
async def test_every_front_end_shows_each_point_as_it_was_sent_in_any_order(order, tmp_path):
    async with IoTFleetManager(tmp_path / "fleet") as manager:
        await manager.register_device("d", "sensor")
        for time in order:
            await manager.collect_telemetry("d", "m", SENT[time], time=time)
        now = await answers(manager)
    async with IoTFleetManager(tmp_path / "fleet") as manager:
        later = await answers(manager)

    points, columns, buckets, kind, newest = now
    assert points == columns == exactly(SENT.items())
    assert (sum(bucket.count for bucket in buckets.buckets), buckets.texts) == (5, 1)
    assert (kind, newest) == ("number", (1.0, float))
    assert later == now


async def test_sealed_points_are_true_or_false_after_a_restart(tmp_path):
    async with IoTFleetManager(tmp_path / "fleet") as manager:
        await manager.register_device("d", "sensor")
        await manager.collect_telemetry("d", "m", 7, time=T)
        await manager.collect_telemetry("d", "m", True, time=T + 1)
        await (await manager.open()).storage.maintain(T + 10**9)
    async with IoTFleetManager(tmp_path / "fleet") as manager:
        (latest,) = (await manager.list_latest_readings("d")).items
        view = await manager.query_telemetry("d", "m")

    assert latest.value is True
    assert exactly(zip(view.time.tolist(), view.value.tolist(), strict=True)) == [(T, 7.0, float), (T + 1, True, bool)]


async def test_a_number_and_a_text_of_one_time_are_shown_once_whatever_the_size_of_a_page():
    async with IoTFleetManager() as manager:
        await manager.register_device("d", "sensor")
        sent = [(T, 1.0), (T, "one"), (T + 1, 2.0), (T + 1, "two"), (T + 2, 3.0)]
        for time, value in sent:
            await manager.collect_telemetry("d", "m", value, time=time)
        for size in range(1, 6):
            found, cursor = [], None
            while True:
                page = await manager.list_readings("m", device="d", points=size, cursor=cursor)
                found += [point for part in page.items for point in part.points]
                cursor = page.next
                if cursor is None:
                    break

            assert [(int(time), value) for time, value in found] == sent, size


@pytest.mark.parametrize("order", list(permutations(((None, 1.0), ("celsius", 2.0), ("degC", 3.0)))))
async def test_a_unit_is_fixed_by_the_first_reading_that_has_one(order):
    async with IoTFleetManager() as manager:
        await manager.register_device("d", "sensor")
        for unit, value in order:
            await manager.collect_telemetry("d", "m", value, unit, time=T + int(value))
        (page,) = (await manager.list_readings("m", device="d")).items

    assert [value for _, value in page.points] == [1.0, 2.0, 3.0]
    assert page.unit == next(unit for unit, _ in order if unit is not None)


@pytest.mark.parametrize("length", [256, 257, 60_000])
async def test_the_newest_readings_have_the_beginning_of_a_long_text_and_how_long_it_is(length):
    text = "ü" * length
    async with IoTFleetManager() as manager:
        await manager.create_device("d", "t")
        await manager.collect_telemetry("d", "m", text)
        (latest,) = (await manager.list_latest_readings("d")).items
        (of_device,) = (await manager.list_device_latest_readings("d")).items
        (series,) = (await manager.list_readings("m", device="d")).items

    assert latest == of_device
    assert latest.value == text[:256]
    assert latest.characters == (None if length == 256 else length)
    assert [value for _, value in series.points] == [text]
