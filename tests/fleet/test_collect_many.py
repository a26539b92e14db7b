"""What a script has is taken as it is. It guards against a boundary of the library that knows JSON alone, not Python.

Scalars of numpy, datetimes, rows, columns, Arrow tables; the owner's readings are not metered.
"""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from fleetcore import IoTFleetManager
from fleetcore.errors import Refused

T = datetime(2026, 1, 1, tzinfo=UTC)
MS = int(T.timestamp() * 1000)


@pytest.fixture
async def manager():
    async with IoTFleetManager() as opened:
        for device in ("a", "b"):
            await opened.register_device(device, "sensor")
        yield opened


async def points(manager, device, metric):
    (page,) = (await manager.list_readings(metric, device=device)).items
    return [(int(time), value) for time, value in page.points]


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (np.float64(1.5), 1.5),
        (np.float32(0.5), 0.5),
        (np.int64(7), 7.0),
        (np.uint8(3), 3.0),
        (np.bool_(True), True),
        (np.str_("on"), "on"),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_scalars_of_numpy_are_values(manager, value, stored):
    await manager.collect_telemetry("a", "m", value, time=T)

    ((_, found),) = await points(manager, "a", "m")
    assert (found, type(found)) == (stored, type(stored))


@pytest.mark.parametrize("time", [T, MS, np.int64(MS), np.datetime64("2026-01-01T00:00:00"), "2026-01-01T00:00:00Z"])
async def test_every_form_of_a_time_is_taken(manager, time):
    await manager.collect_telemetry("a", "m", 1, time=time)

    assert len(await manager.query_telemetry("a", "m", start=time, end=T + timedelta(seconds=1))) == 1


async def test_the_owner_is_not_metered(manager):
    burst = (await manager.open()).limits.burst
    for number in range(burst + 200):
        await manager.collect_telemetry("a", "m", number, time=MS + number)

    assert len(await manager.query_telemetry("a", "m")) == burst + 200


ROWS = [
    {"device": "a", "time": T, "temperature": 1.5, "on": True},
    {"device": "b", "time": T, "temperature": 2.5, "on": None},
]
FORMS = {
    "wide rows": lambda: ROWS,
    "an iterator": lambda: iter(ROWS),
    "tuples": lambda: [("a", "temperature", T, 1.5), ("a", "on", T, True), ("b", "temperature", T, 2.5, None)],
    "long rows": lambda: [
        {"device": d, "metric": m, "time": MS, "value": v}
        for d, m, v in [("a", "temperature", 1.5), ("a", "on", np.bool_(True)), ("b", "temperature", np.float32(2.5))]
    ],
    "columns of numpy": lambda: {
        "device": np.array(["a", "b"]),
        "time": np.array(["2026-01-01", "2026-01-01"], "datetime64[ns]"),
        "temperature": np.array([1.5, 2.5]),
        "on": [True, None],
    },
}


@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
async def test_readings_are_taken_in_each_form_and_twice_change_nothing(manager, form):
    first = await manager.collect_many(form())
    again = await manager.collect_many(form())

    assert (first.stored, first.refused, again.stored, again.duplicates) == (3, 0, 0, 3)
    assert await points(manager, "a", "temperature") == [(MS, 1.5)]
    assert await points(manager, "a", "on") == [(MS, True)]
    assert await points(manager, "b", "temperature") == [(MS, 2.5)]


async def test_an_arrow_table_is_taken(manager):
    pa = pytest.importorskip("pyarrow")
    table = pa.Table.from_pylist(ROWS)

    assert (await manager.collect_many(table)).stored == 3
    assert await points(manager, "a", "on") == [(MS, True)]


async def test_a_data_frame_with_times_for_its_index_is_taken(manager):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"temperature": [1.5, float("nan"), 2.5]}, index=pd.date_range(T, periods=3, freq="s"))

    assert (await manager.collect_many(frame, device="a", unit="celsius")).stored == 2


async def test_what_is_not_taken_is_counted_by_its_reason(manager):
    found = await manager.collect_many(
        [
            ("a", "m", MS, 1.0),
            ("a", "m", MS // 1000, 1.0),
            ("a", "m", datetime(2026, 1, 1), 1.0),  # noqa: DTZ001  # that is the mistake
            ("nobody", "m", MS, 1.0),
            ("a", "no metric!", MS, 1.0),
            ("a", "m", MS + 1, 2**53 + 1),
            ("a", "m", MS + 2, float("inf")),
            ("a", "m", MS + 3, [1]),
        ]
    )

    assert (found.count, found.stored, found.refused) == (8, 1, 7)
    assert found.reasons == {
        "time_unit": 1, "time_invalid": 1, "device_unknown": 1, "metric_name_invalid": 1,
        "number_inexact": 1, "number_not_finite": 1, "schema_invalid": 1,
    }  # fmt: skip


async def test_units_convert_as_those_of_devices_do(manager):
    await manager.collect_telemetry("a", "t", 20.0, "celsius", time=MS)
    found = await manager.collect_many(
        [("a", "t", MS + 1, 77.0, "fahrenheit"), ("a", "t", MS + 2, 1.0, "meter"), ("a", "t", MS + 3, 3.0)]
    )

    assert (found.stored, found.reasons) == (2, {"unit_mismatch": 1})
    assert await points(manager, "a", "t") == [(MS, 20.0), (MS + 1, 25.0), (MS + 3, 3.0)]


@pytest.mark.parametrize("wrong", ["a.csv", b"x", 5, ["a"], [("a", "m")]])
async def test_what_is_no_list_of_readings_is_refused(manager, wrong):
    with pytest.raises(Refused):
        await manager.collect_many(wrong)


def test_the_blocking_manager_takes_many(tmp_path):
    with IoTFleetManager.sync(tmp_path / "fleet") as manager:
        manager.register_device("a", "sensor")
        found = manager.collect_many([("a", "m", np.datetime64("2026-01-01"), np.float32(1.5))])

    assert found.stored == 1


async def test_an_integer_that_would_be_altered_is_refused(manager):
    await manager.collect_telemetry("a", "m", 2**53, time=MS)
    with pytest.raises(Refused) as refused:
        await manager.collect_telemetry("a", "m", 2**53 + 1, time=MS + 1)

    assert refused.value.code == "number_inexact"
    assert await points(manager, "a", "m") == [(MS, float(2**53))]
