"""Buckets of a time zone. Guards against days that are cut at midnight UTC, or have 24 hours where they have 23 or 25."""

import itertools
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleetcore import IoTFleetManager
from fleetcore.calls.types import Ms
from fleetcore.errors import Refused

HOUR = 3_600_000
DAY = 24 * HOUR
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: A zone → by how much its clock is changed.
ZONES = {
    "Europe/Berlin": HOUR, "America/New_York": HOUR, "America/St_Johns": HOUR, "America/Sao_Paulo": HOUR,
    "Asia/Kathmandu": HOUR, "Pacific/Chatham": HOUR, "Africa/Casablanca": HOUR, "Africa/Cairo": HOUR,
    "Pacific/Apia": HOUR, "Australia/Lord_Howe": HOUR // 2, "Etc/GMT+12": HOUR,
}  # fmt: skip


def ms(year, month, day, hour=0, minute=0, zone="UTC", fold=0):
    when = datetime(year, month, day, hour, minute, tzinfo=ZoneInfo(zone), fold=fold)
    return round(when.timestamp() * 1000)


@pytest.fixture
async def stored():
    """``await stored(times)`` stores one reading at each; then ``await stored.buckets(bucket_s, tz=…)``."""
    async with IoTFleetManager() as manager:
        await manager.create_device("d", "t")

        async def store(times):
            await manager.collect_many([("d", "m", time, float(at)) for at, time in enumerate(times)])

        async def buckets(bucket_ms, **more):
            found = [page async for page in manager.iter_buckets("m", bucket_ms / 1000, device="d", **more)]
            return [bucket for page in found for bucket in page.buckets]

        store.buckets = buckets
        yield store


def expected(times, bucket_ms, zone):
    """Points by the bucket that the clock of the zone is in, as zoneinfo has it."""
    found = defaultdict(list)
    for value, time in enumerate(times):
        local = (_EPOCH + timedelta(milliseconds=time)).astimezone(ZoneInfo(zone))
        offset = local.utcoffset() // timedelta(milliseconds=1)
        twice = offset if bucket_ms <= ZONES[zone] else 0  # the second time is a bucket of its own
        found[(time + offset) // bucket_ms, twice].append(float(value))
    return sorted((min(values), len(values), max(values), sum(values)) for values in found.values())


@pytest.fixture
async def manager():
    async with IoTFleetManager() as manager:
        yield manager


#: Each example has a device of its own, and all one fleet: to open one takes longer than the rest of the example.
_numbers = itertools.count()


@given(
    zone=st.sampled_from(sorted(ZONES)),
    bucket_ms=st.sampled_from([HOUR // 4, HOUR, 2 * HOUR, 6 * HOUR, DAY, 7 * DAY, 365 * DAY]),
    year=st.integers(1997, 2025),
    month=st.sampled_from((3, 4, 10, 11)),  # clocks are changed then
    hour=st.integers(0, 31 * 24),
    step=st.sampled_from([HOUR // 3, 5 * HOUR, 2 * DAY, 19 * DAY]),
    count=st.integers(1, 60),
)
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_points_are_in_the_bucket_that_the_clock_on_the_wall_was_in(
    manager, zone, bucket_ms, year, month, hour, step, count
):
    times = [ms(year, month, 1) + hour * HOUR + at * step for at in range(count)]
    times = [time for time in times if time < ms(2026, 6, 1)]
    device = f"d-{next(_numbers)}"
    await manager.create_device(device, "t")
    await manager.collect_many([(device, "m", time, float(at)) for at, time in enumerate(times)])
    (page,) = (await manager.list_buckets("m", bucket_ms / 1000, device=device, tz=zone)).items

    assert sorted((b.first, b.count, b.last, b.sum) for b in page.buckets) == expected(times, bucket_ms, zone)
    starts = [b.start for b in page.buckets]
    assert starts == sorted(set(starts))


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Berlin", (2025, 3, 30), 23),
        ("Europe/Berlin", (2025, 10, 26), 25),
        ("America/Sao_Paulo", (2018, 11, 4), 23),  # has no midnight
        ("America/Sao_Paulo", (2018, 2, 17), 25),  # the clock is put back at midnight
        ("Africa/Cairo", (2024, 4, 26), 23),
    ],
)
async def test_a_day_has_the_hours_of_its_calendar(stored, zone, day, hours):
    begin = ms(*day, zone=zone)
    await stored(range(begin - 5 * HOUR, begin + 30 * HOUR, HOUR))

    before, changed, after = await stored.buckets(DAY, tz=zone)

    assert (before.count, changed.count, after.count) == (5, hours, 30 - hours)
    # Of a day without a midnight the first moment.
    assert (changed.start, after.start) == (Ms(begin), Ms(begin + hours * HOUR))


async def test_an_hour_that_the_clock_runs_through_twice_is_two_buckets(stored):
    first = ms(2025, 10, 26, 2, zone="Europe/Berlin")
    await stored(range(first, first + 3 * HOUR, HOUR // 2))

    found = await stored.buckets(HOUR, tz="Europe/Berlin")

    assert [(b.start, b.count) for b in found] == [(Ms(first + at * HOUR), 2) for at in range(3)]


async def test_pages_go_on_where_they_end(stored):
    first = ms(2024, 1, 1)
    await stored(range(first, first + 400 * DAY, DAY // 2))

    whole = await stored.buckets(DAY, tz="Europe/Berlin")
    paged = await stored.buckets(DAY, tz="Europe/Berlin", points=7)

    assert paged == whole
    assert sum(b.count for b in whole) == 800


async def test_a_range_that_begins_within_a_bucket_names_the_buckets_own_start(stored):
    noon = ms(2025, 10, 26, 12, zone="Europe/Berlin")
    await stored([noon - 2 * HOUR, noon + HOUR])

    (only,) = await stored.buckets(DAY, tz="Europe/Berlin", start=noon)

    assert (only.start, only.count) == (Ms(ms(2025, 10, 26, zone="Europe/Berlin")), 1)


@pytest.mark.parametrize(
    "name", ["", "Mars/Base", "Europe", "../etc/passwd", "/etc/localtime", "europe berlin", "+01:00"]
)
async def test_a_zone_that_is_not_known_is_refused_with_an_example(stored, name):
    await stored([ms(2025, 1, 1)])

    with pytest.raises(Refused, match="is not a time zone") as refused:
        await stored.buckets(DAY, tz=name)

    assert "Europe/Berlin" in refused.value.remedy
