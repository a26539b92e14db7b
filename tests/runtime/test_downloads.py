"""Slots of downloads as leases, and the bytes a second of all together."""

import asyncio

import pytest

from fleetcore import IoTFleetManager
from fleetcore.errors import Unavailable
from fleetcore.interfaces.clock import Clock
from fleetcore.model.credential import LocalCredential
from fleetcore.runtime.plane.downloads import LEASE_S, Downloads
from fleetcore.testing.clock import MovableClock


async def pieces(*parts):
    for part in parts:
        yield part


async def read(downloads, device, *parts, last=True):
    return b"".join([piece async for piece in downloads.paced(device, pieces(*parts), last=last)])


async def test_a_device_without_a_slot_is_told_when_to_ask_again_each_at_another_time():
    downloads = Downloads(MovableClock(), at_once=2)
    downloads.take("a")
    downloads.take("b")
    waits = []
    for number in range(20):
        with pytest.raises(Unavailable, match="2 devices download already") as refused:
            downloads.take(f"c-{number}")
        assert refused.value.code == "overloaded"
        waits.append(refused.value.retry_after_s)
    assert 5 < min(waits) < max(waits) < 40
    assert len(set(waits)) == 20


async def test_a_slot_is_free_once_all_was_read_and_stays_while_parts_follow():
    downloads = Downloads(MovableClock(), at_once=1)
    downloads.take("a")
    assert await read(downloads, "a", b"1", b"2", last=False) == b"12"
    with pytest.raises(Unavailable):
        downloads.take("b")
    downloads.take("a")
    assert await read(downloads, "a", b"3") == b"3"
    downloads.take("b")


async def test_a_device_that_falls_silent_loses_its_slot():
    clock = MovableClock()
    downloads = Downloads(clock, at_once=1)
    downloads.take("a")
    await clock.advance(LEASE_S - 1)
    with pytest.raises(Unavailable):
        downloads.take("b")
    await clock.advance(1)
    downloads.take("b")
    with pytest.raises(Unavailable):
        downloads.take("a")


async def test_a_slow_download_keeps_its_slot():
    clock = MovableClock()
    downloads = Downloads(clock, at_once=1)
    downloads.take("a")
    reading = downloads.paced("a", pieces(b"1", b"2", b"3"), last=True)
    for _ in range(3):
        await anext(reading)
        await clock.advance(LEASE_S - 1)
        with pytest.raises(Unavailable):
            downloads.take("b")
    await reading.aclose()


class Counting(Clock):
    """A clock on which a sleep takes its time at once."""

    def __init__(self):
        self.now = 0.0

    def now_ms(self):
        return round(self.now * 1000)

    def monotonic_s(self):
        return self.now

    async def sleep(self, seconds):
        self.now += seconds
        await asyncio.sleep(0)


async def test_all_devices_together_get_no_more_than_the_bytes_a_second():
    clock = Counting()
    downloads = Downloads(clock, bytes_per_s=1000)
    await asyncio.gather(*(read(downloads, f"d-{number}", *[bytes(500)] * 4) for number in range(5)))
    # The first piece goes at once: 10,000 bytes less 500 at 1,000 a second.
    assert clock.now >= 9.5


async def test_the_bytes_of_a_quiet_time_are_not_saved_up():
    clock = Counting()
    downloads = Downloads(clock, bytes_per_s=1000)
    clock.now = 100.0
    await read(downloads, "a", *[bytes(1000)] * 3)
    assert clock.now >= 102.0


async def test_the_plane_gives_as_many_slots_as_the_configuration_says(tmp_path):
    (tmp_path / "fleet.toml").write_text("[firmware]\ndownloads_at_once = 1\n")
    async with IoTFleetManager(tmp_path) as manager:
        fleet = await manager.open()
        image = await fleet.campaigns.add_artifact(b"x" * 1000)
        sessions = {}
        for name in ("a", "b"):
            await fleet.devices.register(name, "sensor")
            sessions[name] = await fleet.plane.authenticate(LocalCredential(name), protocol="test")
        await fleet.campaigns.create("c", "2.0.0", ["a", "b"], sha256=image.sha256)
        for name in ("a", "b"):
            await fleet.updates.offer(name)
        reader = await fleet.plane.open_artifact(sessions["a"], "a", image.sha256)
        with pytest.raises(Unavailable):
            await fleet.plane.open_artifact(sessions["b"], "b", image.sha256)
        assert b"".join([piece async for piece in reader.read()]) == b"x" * 1000
        await fleet.plane.open_artifact(sessions["b"], "b", image.sha256)
