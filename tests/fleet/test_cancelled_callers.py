"""A change whose caller is cancelled is done, and memory has it as the store has it."""

import asyncio

import pytest

from fleetcore.model.credential import LocalCredential
from fleetcore.model.device import Lifecycle


@pytest.fixture
async def device(fleet):
    await fleet.devices.register("a", "sensor")
    return "a"


@pytest.fixture
def cut(fleet, monkeypatch):
    """Cancels what changes the fleet once its first commit is under way, and waits for the commit."""

    async def act(change):
        commit, done = fleet.storage.commit, asyncio.Event()

        async def cancelling(what):
            monkeypatch.setattr(fleet.storage, "commit", commit)
            caller.cancel()
            try:
                return await commit(what)
            finally:
                asyncio.get_running_loop().call_soon(done.set)

        monkeypatch.setattr(fleet.storage, "commit", cancelling)
        caller = asyncio.ensure_future(change)
        with pytest.raises(asyncio.CancelledError):
            await caller
        await done.wait()
        for part in (fleet.devices, fleet.lifecycles, fleet.groups):
            await part._shield.idle()

    return act


@pytest.mark.parametrize("to", [Lifecycle.SUSPENDED, Lifecycle.RETIRED])
async def test_a_move_reaches_sessions_and_searches(fleet, device, cut, to):
    await fleet.lifecycles.move(device, Lifecycle.ACTIVE)
    session = await fleet.plane.authenticate(LocalCredential(device), protocol="test")
    for _ in range(4):  # then the registry's columns answer
        await fleet.search.ids(f"lifecycle = '{to}'")

    await cut(fleet.lifecycles.move(device, to))

    assert (await fleet.devices.get(device)).lifecycle is to
    assert await fleet.search.ids(f"lifecycle = '{to}'") == [device]
    assert session.subjects[device].device.lifecycle is to
    assert (session.ended == "device_retired") is (to is Lifecycle.RETIRED)


async def test_a_registration_is_found(fleet, cut):
    for _ in range(4):
        await fleet.search.ids("type = 'sensor'")

    await cut(fleet.devices.register("b", "sensor"))

    assert await fleet.search.ids("type = 'sensor'") == ["b"]


async def test_a_member_that_is_taken_out_is_in_no_scope(fleet, device, cut):
    await fleet.groups.create("lab")
    await fleet.groups.add("lab", [device])

    await cut(fleet.groups.take_out("lab", [device]))

    assert fleet.groups.of(device) == ()
    assert (await fleet.groups.members_page(["lab"]))[0] == []
