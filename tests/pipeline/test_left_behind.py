"""What outlives its configuration ends: the cursor of a removed component goes after a week, with the state it kept."""

import pytest

from fleetcore import IoTFleetManager
from fleetcore.errors import Conflict, NotFound
from fleetcore.model import values
from fleetcore.pipeline.component_state import blobs_of
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


async def test_what_was_left_behind_is_dropped_by_a_command_and_audited(folder):
    clock = MovableClock()
    async with IoTFleetManager(folder(HOT), clock=clock, create=True) as manager:
        await manager.register_device("d", "sensor")
        await manager.collect_telemetry("d", "heat", 99.0)
        await manager.wait_idle()
        with pytest.raises(Conflict, match="detector/hot is configured"):
            await manager.drop_left_behind("detector/hot")

    async with IoTFleetManager(folder(""), clock=clock) as manager:
        await manager.collect_telemetry("d", "heat", 1.0)
        (left,) = await manager.list_left_behind()
        assert (left.name, left.behind > 0) == ("detector/hot", True)

        await manager.drop_left_behind("detector/hot", reason="it was a try")

        assert list(await manager.list_left_behind()) == []
        assert (await manager.get_status()).left_behind == {}
        storage = (await manager.open()).storage
        assert await storage.cursor("detector/hot") is None
        assert (
            set(await storage.values(values.BLOBS)) & {*blobs_of("detector/hot"), "left-behind/detector/hot"} == set()
        )
        await manager.wait_idle()
        rows = [row for row in await manager.list_audit() if row.action == "left_behind.dropped"]
        assert [(row.object, row.reason) for row in rows] == [("detector/hot", "it was a try")]
        with pytest.raises(NotFound):
            await manager.drop_left_behind("detector/hot")


async def test_all_that_a_detector_keeps_is_named_in_one_place(folder):
    """A blob that a consumer writes and that is not dropped with its cursor would stay for ever."""
    text = f"{HOT}[detectors.gone]\nkind = 'silence'\nafter_s = 60\n"
    clock = MovableClock()
    async with IoTFleetManager(folder(text), clock=clock, create=True) as manager:
        await manager.register_device("d", "sensor")
        await manager.collect_telemetry("d", "heat", 99.0)
        await manager.wait_idle()
    async with IoTFleetManager(folder(""), clock=clock) as manager:
        storage = (await manager.open()).storage
        assert any("gone" in name for name in await storage.values(values.BLOBS))
        for left in await manager.list_left_behind():
            await manager.drop_left_behind(left.name)

        assert [name for name in await storage.values(values.BLOBS) if "gone" in name or "hot" in name] == []
