"""What was seen of devices, as it is loaded: a body that an earlier release took unjudged is mended."""

import logging

import pytest

from fleetcore import IoTFleetManager
from fleetcore.errors import Unavailable
from fleetcore.model.store import Commit, Put
from fleetcore.testing.clock import MovableClock

YEAR_MS = 366 * 86_400_000
_PUTS = (
    Put(kind="presence", key="sleeper", body={"connectivity": "asleep", "asleep_until": 10**18, "last_seen": 1}),
    Put(kind="presence", key="strange", body={"connectivity": "elsewhere", "last_seen": "never"}),
    Put(kind="presence", key="fine", body={"connectivity": "asleep", "asleep_until": 1_750_000_000_000}),
)


@pytest.fixture
async def folder(tmp_path):
    """A folder whose store holds what should never have come there."""
    async with IoTFleetManager(tmp_path) as manager:
        for put in _PUTS:
            await manager.register_device(put.key, "sensor")
        await (await manager.open()).storage.commit(Commit(puts=_PUTS))
    return tmp_path


async def test_a_stored_presence_that_cannot_be_meant_is_mended_and_named(folder, caplog):
    clock = MovableClock()
    with caplog.at_level(logging.WARNING):
        async with IoTFleetManager(folder, clock=clock) as manager:
            seen = (await manager.open()).presence
            devices = {each["id"] for each in await manager.list_devices()}
            sleeper, strange = seen.of("sleeper"), seen.of("strange")
            await seen.flush()
            stored = await (await manager.open()).storage.get("presence", "sleeper")

    assert devices == {"sleeper", "strange", "fine"}
    assert sleeper.asleep_until == clock.now_ms() + YEAR_MS
    assert stored.body["asleep_until"] == sleeper.asleep_until
    assert strange.connectivity == "never"
    warned = [record.getMessage() for record in caplog.records]
    assert any("sleeper" in each for each in warned)
    assert any("strange" in each for each in warned)
    assert not any("fine" in each for each in warned)


async def test_what_a_failed_flush_could_not_store_comes_with_the_next(manager, fleet, monkeypatch):
    async def full(_change):
        raise Unavailable("The store is full")

    await manager.register_device("d", "sensor")
    fleet.presence.opened("d")
    with monkeypatch.context() as patched:
        patched.setattr(fleet.storage, "commit", full)
        with pytest.raises(Unavailable):
            await fleet.presence.flush()

    await fleet.presence.flush()

    assert await fleet.storage.get("presence", "d") is not None
