"""What the components of plugins find as time passes, keep over a restart and count."""

from contextlib import asynccontextmanager

import pytest

from fleetcore import IoTFleetManager
from fleetcore.errors import PluginError, Refused
from fleetcore.interfaces import Detector, PluginState
from fleetcore.interfaces.state import STATE_LIMIT_BYTES
from fleetcore.interfaces.waits import end_tasks
from fleetcore.model.anomaly import Findings
from fleetcore.model.ticks import LAG_MS
from fleetcore.pipeline.component_state import ComponentState
from fleetcore.pipeline.detect import Detection, Scope
from fleetcore.runtime.counts import MAX_NAMES, OTHER, Counts
from fleetcore.testing.clock import MovableClock

SILENCE = '[fleet]\nname = "lab"\n[detectors.quiet]\nkind = "silence"\nafter_s = 60.0\n'


@pytest.fixture
def until():
    import asyncio

    async def wait(condition):
        async with asyncio.timeout(60):
            while not (found := await condition()):
                await asyncio.sleep(0.01)
            return found

    return wait


@pytest.fixture
def opened(tmp_path):
    @asynccontextmanager
    async def open_fleet(clock, toml=SILENCE):
        (tmp_path / "fleet.toml").write_text(toml)
        async with IoTFleetManager(tmp_path, clock=clock, create=True) as manager:
            yield manager

    return open_fleet


async def _after(clock, seconds, until, manager, count=1):
    await clock.advance(seconds)

    async def found():
        await clock.advance(1)
        there = await manager.list_anomalies()
        return list(there) if len(there) >= count else None

    return await until(found)


# --- silence ---------------------------------------------------------------------------------------------------------


async def test_a_device_that_falls_silent_is_found_while_nothing_else_happens(opened, until):
    clock = MovableClock()
    async with opened(clock) as manager:
        await manager.register_device("d", "sensor")
        await manager.collect_telemetry("d", "heat", 20.0)
        heard = clock.now_ms()
        await manager.wait_idle()

        (one,) = await _after(clock, 60 + LAG_MS / 1000, until, manager)

    assert (one["detector"], one["device"], one["metric"]) == ("quiet", "d", "heat")
    assert (one["time"], one["observed"], one["expected"]) == (heard + 60_000, None, None)
    assert "no reading for 60 s" in one["explanation"]


async def test_a_device_that_falls_silent_is_found_while_others_go_on_speaking(opened, until):
    clock = MovableClock()
    async with opened(clock) as manager:
        for device in ("a", "b"):
            await manager.register_device(device, "sensor")
            await manager.collect_telemetry(device, "heat", 20.0)
        for _ in range(7):
            await clock.advance(10)
            await manager.collect_telemetry("a", "heat", 20.0)
            await manager.wait_idle()

        assert [one["device"] for one in await manager.list_anomalies()] == ["b"]


async def test_a_silence_is_found_once_over_restarts_also_where_the_clock_was_set_back(opened, until):
    clock = MovableClock()
    async with opened(clock) as manager:
        await manager.register_device("d", "sensor")
        await manager.collect_telemetry("d", "heat", 20.0)
        await manager.wait_idle()
        (first,) = await _after(clock, 70, until, manager)
    told = clock.now_ms()

    for back_ms in (0, 3_600_000):
        clock = MovableClock(told - back_ms)
        async with opened(clock) as manager:
            await clock.advance(200)
            await manager.collect_telemetry("d", "other", 1.0)
            await manager.wait_idle()
            assert [one["id"] for one in await manager.list_anomalies()] == [first["id"]]


class _Timed(Detector):
    """Writes down what it is told."""

    def __init__(self):
        self.told = []

    def observe(self, batch, catalog):
        return Findings.none()

    def advance(self, now_ms):
        self.told.append(now_ms)
        return super().advance(now_ms)


async def test_the_time_told_never_goes_back_over_a_restart_and_where_the_clock_is_set_back(opened, until):
    import asyncio

    clock, detector = MovableClock(), _Timed()

    @asynccontextmanager
    async def opener():
        yield detector

    async with opened(clock, '[fleet]\nname = "lab"\n') as manager:
        fleet = await manager.open()
        await manager.register_device("d", "sensor")
        for back_ms in (0, 7_200_000, 0):
            clock.jump(-back_ms)
            timed = Detection("timed", opener, Scope(), fleet.storage, fleet.anomalies, clock)
            await timed.start()
            running = asyncio.create_task(timed.run())
            for value in range(3):
                await manager.collect_telemetry("d", "heat", float(value))
                await clock.advance(2)
                await timed.catch_up()
            await timed.keep()
            await end_tasks(running)

    assert detector.told == sorted(set(detector.told))
    assert detector.told


# --- state -----------------------------------------------------------------------------------------------------------


def test_a_state_beyond_its_limit_is_refused_with_limit_and_size_and_stays_as_it_was():
    state = PluginState({"a": b"1"})
    state["b"] = b"x" * (STATE_LIMIT_BYTES - 3)

    with pytest.raises(Refused) as refused:
        state["a"] = b"12"

    assert refused.value.code == "limit_exceeded"
    assert (refused.value.ids["limit"], refused.value.ids["size"]) == (65_536, 65_537)
    assert state["a"] == b"1"
    del state["b"]
    state["a"] = b"12"
    assert dict(state) == {"a": b"12"}


@pytest.mark.parametrize("bad", [("a", "text"), (1, b"x"), ("a", bytearray(b"x")), ("a", None)])
def test_a_state_takes_bytes_by_text(bad):
    with pytest.raises(TypeError):
        PluginState()[bad[0]] = bad[1]


async def test_the_state_of_a_consumer_is_written_in_the_commit_of_its_cursor(opened):
    import asyncio

    clock, states = MovableClock(), []

    async with opened(clock, '[fleet]\nname = "lab"\n') as manager:
        fleet = await manager.open()
        kept = ComponentState(fleet.storage, "detectors.counting", with_cursor=True)

        class Counting(Detector):
            def observe(self, batch, catalog):
                states[-1]["seen"] = b"%d" % (int(states[-1].get("seen", b"0")) + len(batch))
                return Findings.none()

        @asynccontextmanager
        async def opener():
            states.append(await kept.load())
            yield Counting()

        await manager.register_device("d", "sensor")
        counting = Detection("counting", opener, Scope(), fleet.storage, fleet.anomalies, clock, kept=kept)
        await counting.start()
        running = asyncio.create_task(counting.run())
        await manager.collect_telemetry("d", "heat", 1.0)
        await counting.catch_up()
        await states[-1].save()  # a consumer's is not written by itself
        before = await ComponentState(fleet.storage, "detectors.counting", with_cursor=True).load()
        await counting.keep()
        after = await ComponentState(fleet.storage, "detectors.counting", with_cursor=True).load()
        await end_tasks(running)

    assert dict(before) == {}
    assert dict(after) == {"seen": b"1"}


async def test_the_state_of_a_piece_without_a_cursor_is_written_when_it_says_so(opened):
    async with opened(MovableClock()) as manager:
        fleet = await manager.open()
        state = await ComponentState(fleet.storage, "protocols.x", with_cursor=False).load()
        state["generation"] = b"7"
        await state.save()

    async with opened(MovableClock()) as manager:
        fleet = await manager.open()
        assert dict(await ComponentState(fleet.storage, "protocols.x", with_cursor=False).load()) == {
            "generation": b"7"
        }


async def test_a_state_that_cannot_be_read_is_named(opened, tmp_path):
    from fleetcore.model.store import Commit

    async with opened(MovableClock()) as manager:
        fleet = await manager.open()
        await fleet.storage.commit(Commit(blobs={"state/protocols.x": b"\xc1"}))

        with pytest.raises(PluginError, match=r"state/protocols\.x"):
            await ComponentState(fleet.storage, "protocols.x", with_cursor=False).load()


# --- counters --------------------------------------------------------------------------------------------------------


def test_what_a_piece_counts_is_bounded_in_names_and_what_is_beyond_is_counted_together():
    counts = Counts()
    count, other = counts.of("protocols.mqtt"), counts.of("notifiers.mail")

    for number in range(MAX_NAMES + 10):
        count(f"name_{number}")
    for bad in ("with blank", "", "x" * 65, None, OTHER, ["list"]):
        count(bad)
    count("name_0")
    other("sent")

    shown = counts.snapshot()
    assert len(shown["protocols.mqtt"]) == MAX_NAMES + 1
    assert (shown["protocols.mqtt"]["name_0"], shown["protocols.mqtt"][OTHER]) == (2, 16)
    assert shown["notifiers.mail"] == {"sent": 1}


async def test_what_plugins_count_is_in_the_status(opened):
    async with opened(MovableClock()) as manager:
        fleet = await manager.open()
        fleet._context("late", "protocols").count("knocked")

        status = await manager.get_status()

    assert status["counts"] == {"protocols.late": {"knocked": 1}}


async def test_a_silence_that_is_found_again_after_a_crash_is_told_once(opened, until):
    from fleetcore.model.events import ANOMALY_FOUND
    from fleetcore.model.store import Commit

    clock = MovableClock()
    async with opened(clock) as manager:
        fleet = await manager.open()
        await manager.register_device("d", "sensor")
        before = await fleet.storage.position()
        await manager.collect_telemetry("d", "heat", 20.0)
        await manager.wait_idle()
        (first,) = await _after(clock, 70, until, manager)
    # What a crash leaves: the detector's place and state are from before the reading, the anomaly is stored.
    async with opened(MovableClock(clock.now_ms()), '[fleet]\nname = "lab"\n') as manager:
        name = "detector/quiet"
        kept = Commit(cursors={name: before}, blobs={name: None, f"{name}/time": None})
        await (await manager.open()).storage.commit(kept)

    clock = MovableClock(clock.now_ms())
    async with opened(clock) as manager:
        fleet = await manager.open()
        (quiet,) = [one for one in fleet.consumers if one.name == name]

        async def told():
            await clock.advance(1)
            return quiet._time > first["time"]

        await until(told)
        found = [one for entry in await fleet.storage.feed(0) for one in entry.events if one.type == ANOMALY_FOUND]
        anomalies = await manager.list_anomalies()

    assert [one["id"] for one in anomalies] == [first["id"]]
    assert len(found) == 1
