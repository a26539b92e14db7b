"""What outlives its configuration ends: the cursor of a removed piece goes after a week, with the state it kept."""

import pytest

from fleetcore import IoTFleetManager
from fleetcore.pipeline.left_behind import KEEP_MS, LeftBehind
from fleetcore.testing.clock import MovableClock

HOT = '[detectors.hot]\nkind = "threshold"\nabove = 30.0\n'


@pytest.fixture
def folder(tmp_path):
    data = tmp_path / "data"
    data.mkdir(mode=0o700)

    def configured(more):
        text = data / "fleet.toml"
        kept = [line for line in text.read_text().splitlines() if line.startswith("id =")] if text.exists() else []
        text.write_text("\n".join(["[fleet]", *kept, 'name = "x"', 'data = "."', more]))
        text.chmod(0o600)
        return data

    return configured


async def test_a_cursor_without_its_piece_is_shown_and_goes_after_a_week(folder):
    clock = MovableClock()
    async with IoTFleetManager(folder(HOT), clock=clock, create=True) as manager:
        await manager.register_device("d", "sensor")
        await manager.collect_telemetry("d", "heat", 99.0)
        await manager.wait_idle()

    async with IoTFleetManager(folder(""), clock=clock) as manager:
        assert list((await manager.get_status()).left_behind) == ["detector/hot"]
        fleet = await manager.open()
        # A clock of its own: the fleet's wakes tasks every second.
        later = MovableClock(clock.now_ms())
        left = LeftBehind(fleet.storage, later)
        await later.advance(KEEP_MS / 1000 - 3600)
        await left.look(frozenset())
        assert await fleet.storage.cursor("detector/hot") is not None
        await later.advance(2 * 3600)
        await left.look(frozenset())
        assert await fleet.storage.cursor("detector/hot") is None
        assert await fleet.storage.blob("detector/hot") is None
        assert left.found == {}


async def test_a_piece_that_comes_again_goes_on_where_it_was(folder):
    clock = MovableClock()
    async with IoTFleetManager(folder(HOT), clock=clock, create=True) as manager:
        await manager.register_device("d", "sensor")
        await manager.collect_telemetry("d", "heat", 1.0)
        await manager.wait_idle()
    async with IoTFleetManager(folder(""), clock=clock) as manager:
        await manager.collect_telemetry("d", "heat", 99.0)

    async with IoTFleetManager(folder(HOT), clock=clock) as manager:
        await manager.wait_idle()
        assert (await manager.get_status()).left_behind == {}
        assert [one.metric for one in await manager.list_anomalies()] == ["heat"]
