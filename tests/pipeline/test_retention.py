"""What has no end gets one: readings go when they are older than [retention] says, and nothing else goes with them."""

import asyncio
from pathlib import Path

import pytest

from fleetcore import IoTFleetManager
from fleetcore.errors import ConfigError
from fleetcore.model.retention import Periods, late_ms
from fleetcore.model.store import Commit, SeriesRequest
from fleetcore.model.telemetry import TelemetryBatch
from fleetcore.pipeline.retention import Retention
from fleetcore.runtime.config import build
from fleetcore.testing.clock import MovableClock
from fleetcore.testing.patience import PATIENCE_S

_DAY_MS = 24 * 3600 * 1000


@pytest.fixture
def folder(tmp_path):
    """Writes a fleet.toml, and gives its folder."""

    def configured(more):
        data = tmp_path / "data"
        data.mkdir(mode=0o700, exist_ok=True)
        text = data / "fleet.toml"
        kept = [line for line in text.read_text().splitlines() if line.startswith("id =")] if text.exists() else []
        text.write_text("\n".join(["[fleet]", *kept, 'name = "x"', 'data = "."', more]))
        text.chmod(0o600)
        return data

    return configured


async def stored(manager, metric, days, now):
    """One reading for each number of days before now."""
    for ago in days:
        await manager.collect_telemetry("d", metric, float(ago), time=now - ago * _DAY_MS)


async def ages(manager, metric):
    return [round(value) for value in (await manager.query_telemetry("d", metric)).value.tolist()]


@pytest.mark.parametrize(
    ("metric", "days"),
    [("other", 30), ("vibration", 7), ("debug/a", 1), ("debug/raw/a", 2), ("debug/raw/keep", None), ("x.temp", 9)],
)
def test_the_most_specific_pattern_says_how_long_a_metric_is_kept(metric, days):
    text = {"vibration": 7, "debug/*": 1, "debug/raw/*": 2, "debug/raw/keep": "forever", "*.temp": 9, "*.*": 8}
    periods = build({"retention": {"default_days": 30, "metric_days": text}}).retention.periods

    assert periods.of(metric) == (None if days is None else days * _DAY_MS)
    assert periods.shortest_ms == _DAY_MS


def test_without_the_section_everything_is_kept():
    assert not build({}).retention.periods.is_on
    assert Periods().of("any") is None


@pytest.mark.parametrize(
    ("section", "why"),
    [
        ({"default_days": 0}, "must be >="),
        ({"default_days": -1}, "must be >="),
        ({"default_days": float("nan")}, "it must be a finite number"),
        ({"default_days": float("inf")}, "it must be a finite number"),
        (
            {"default_days": "1 year"},
            "default_days is wrong: it must be a number of days, or \"forever\", not '1 year'",
        ),
        ({"default_days": True}, "it must be a number, not a boolean"),
        ({"days": 1}, "Key 'days' does not exist in .retention"),
        ({"metric_days": {"a b": 1}}, "'a b' must be the name of a metric"),
        ({"metric_days": {"a": 0}}, "'a' must be at least a minute"),
        ({"metric_days": {"a": "7"}}, "metric_days is wrong"),
        ({"metric_days": 7}, "metric_days is wrong"),
    ],
)
def test_a_period_that_is_none_is_refused(section, why):
    with pytest.raises(ConfigError, match=why):
        build({"retention": section})


async def test_old_readings_go_by_their_metrics_period_and_the_last_value_stays(folder):
    clock = MovableClock()
    text = '[retention]\ndefault_days = 30\n[retention.metric_days]\nvibration = 2\nforever = "forever"\n'
    async with IoTFleetManager(folder(text), clock=clock, create=True) as manager:
        await manager.register_device("d", "sensor")
        for metric in ("heat", "vibration", "forever", "state"):
            await stored(manager, metric, [100, 50, 10, 3, 1] if metric != "state" else [400, 300], clock.now_ms())
        fleet = await manager.open()
        await clock.advance(2 * 3600)
        await fleet.storage.maintain(clock.now_ms())

        await fleet.retention.run()

        assert await ages(manager, "heat") == [10, 3, 1]
        assert await ages(manager, "vibration") == [1]
        assert await ages(manager, "forever") == [100, 50, 10, 3, 1]
        assert await ages(manager, "state") == [300], "the last known value stays"
        latest = {one.metric: one.value for one in await manager.list_latest_readings("d")}
        assert latest == {"heat": 1.0, "vibration": 1.0, "forever": 1.0, "state": 300.0}
        assert fleet.retention.dropped.readings == 2 + 4 + 1
        before = fleet.retention.dropped

    async with IoTFleetManager(folder(text), clock=clock) as manager:
        fleet = await manager.open()
        assert fleet.retention.dropped == before
        latest = {one.metric: one.value for one in await manager.list_latest_readings("d")}
        assert latest["state"] == 300.0
        assert (await manager.check_storage()).problems == []


async def test_the_server_does_it_by_itself(folder):
    clock = MovableClock()
    async with IoTFleetManager(folder("[retention]\ndefault_days = 1\n"), clock=clock, create=True) as manager:
        await manager.register_device("d", "sensor")
        await stored(manager, "heat", [3, 2, 0], clock.now_ms())
        fleet = await manager.open()
        await fleet.storage.maintain(clock.now_ms() + 2 * 3600 * 1000)
        assert (await ages(manager, "heat"), fleet.retention.last_ms) == ([3, 2, 0], 0)

        await clock.advance(fleet.retention.every_s + 1)
        async with asyncio.timeout(PATIENCE_S):
            while fleet.retention.last_ms == 0:
                await clock.advance(1)  # it rests between its steps
        assert await ages(manager, "heat") == [0]


async def test_what_went_is_an_audited_event_once_a_day_at_most(folder):
    async with IoTFleetManager(folder(""), clock=MovableClock(), create=True) as manager:
        await manager.register_device("d", "sensor")
        fleet = await manager.open()
        # A clock of its own: the fleet's wakes tasks every second.
        clock = MovableClock()
        retention = Retention(fleet.storage, clock, Periods(default_ms=_DAY_MS))

        async def told():
            await manager.wait_idle()
            return [row.object for row in await manager.list_audit() if row.action == "retention.dropped"]

        counts = []
        (series,) = await fleet.storage.intern([SeriesRequest("d", "heat")])
        for hour in range(75):
            batch = TelemetryBatch.of([series.index], [clock.now_ms()], [float(hour)])
            await fleet.storage.commit(Commit(readings=batch))
            await clock.advance(3600)
            await fleet.storage.maintain(clock.now_ms())
            await retention.run()
            kept = await ages(manager, "heat")
            assert kept == list(range(kept[0], hour + 1)), "nothing is missing in between"
            assert len(kept) <= 24 + late_ms(_DAY_MS) // 3_600_000 + 1
            counts.append(len(await told()))

        assert counts[-1] == 3
        assert retention.dropped.readings == kept[0]


async def test_a_store_that_cannot_drop_readings_refuses_the_section(folder):

    data = folder('plugins = ["./keeps.py"]\n[storage]\nkind = "keeps"\n[retention]\ndefault_days = 1\n')
    text = (Path(__file__).parents[2] / "examples" / "small_storage.py").read_text()
    (data / "keeps.py").write_text(
        text.replace("async def expire(", "async def kept(").replace('"small", Small', '"keeps", Small')
    )

    with pytest.raises(ConfigError, match=r"fleet.toml:\d+: The store 'keeps' cannot drop readings"):
        async with IoTFleetManager(data, clock=MovableClock(), create=True) as manager:
            await manager.open()


async def test_a_dry_run_says_what_would_go_by_the_file_or_by_other_days(folder):
    clock = MovableClock()
    text = "[retention.metric_days]\nheat = 5\n"
    async with IoTFleetManager(folder(text), clock=clock, create=True) as manager:
        await manager.register_device("d", "sensor")
        for metric in ("heat", "humidity"):
            await stored(manager, metric, [30, 20, 10, 1], clock.now_ms())
        fleet = await manager.open()
        await fleet.storage.maintain(clock.now_ms() + 2 * 3600 * 1000)

        def rows(page):
            return [(row.metric, row.days, row.series, row.readings) for row in page]

        assert rows(await manager.list_due_readings()) == [("heat", 5.0, 1, 3), ("humidity", None, 1, 0)]
        assert rows(await manager.list_due_readings(days=15, metric="hum*")) == [("humidity", 15.0, 1, 2)]
        first = await manager.list_due_readings(days=15, limit=1)
        assert rows(await manager.list_due_readings(days=15, limit=1, cursor=first.next)) == [("humidity", 15.0, 1, 2)]
        assert await ages(manager, "heat") == [30, 20, 10, 1]
        await fleet.retention.run()
        found = await manager.get_storage()
        assert (found.retention.readings, found.retention.metric_days) == (3, {"heat": 5.0})
        assert found.parts["database"] > 0
        status = await manager.get_status()
        assert (status.retention["on"], status.retention["readings"]) == (True, 3)
        assert status.room["total_bytes"] > 0


async def test_a_list_that_is_read_page_by_page_goes_on_while_readings_go(folder):
    clock = MovableClock()
    async with IoTFleetManager(folder("[retention]\ndefault_days = 15\n"), clock=clock, create=True) as manager:
        await manager.register_device("d", "sensor")
        await stored(manager, "heat", [50, 40, 30, 20, 10, 5, 1], clock.now_ms())
        fleet = await manager.open()
        await fleet.storage.maintain(clock.now_ms() + 2 * 3600 * 1000)
        page = await manager.list_readings("heat", device="d", points=2)
        found = [value for part in page for _, value in part.points]

        await fleet.retention.run()
        while page.next is not None:
            page = await manager.list_readings("heat", device="d", points=2, cursor=page.next)
            found += [value for part in page for _, value in part.points]

        assert found == [50.0, 40.0, 10.0, 5.0, 1.0]
