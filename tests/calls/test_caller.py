"""The caller: rights that are asked for again in a call that takes long."""

import asyncio

import pytest

from fleetcore import IoTFleetManager
from fleetcore.calls.caller import Caller, owner
from fleetcore.errors import NotAuthenticated, NotAuthorised, NotFound
from fleetcore.model.operator import Permission
from fleetcore.testing.patience import PATIENCE_S


@pytest.fixture
async def fleet():
    async with IoTFleetManager() as manager:
        fleet = await manager.open()
        await fleet.devices.register("a", "pump", tags=["lab"])
        await fleet.devices.register("b", "pump")
        yield fleet


async def caller_of(fleet, scope=""):
    """A viewer whose rights are those of a token, and the grant."""
    grant = await fleet.operators.grant("ana", "viewer", scope=scope)
    token = (await fleet.operators.create_token("ana")).token
    rights = await fleet.operators.authenticate(token)
    operators = fleet.operators
    return Caller(
        fleet, rights, renew=lambda: operators.authenticate(token), watch=lambda: operators.watch(token)
    ), grant


async def test_rights_are_renewed(fleet):
    caller, grant = await caller_of(fleet)
    await caller.still()
    await caller.still(Permission.DEVICES_READ, "a")

    await fleet.operators.withdraw(grant.id)

    assert caller.rights.everywhere(Permission.DEVICES_READ)
    with pytest.raises(NotAuthorised):
        await caller.still(Permission.DEVICES_READ, "a")
    assert not (await caller.renewed()).holds(Permission.DEVICES_READ)
    assert not caller.rights.holds(Permission.DEVICES_READ)


async def test_a_token_that_has_ended_is_noticed(fleet):
    caller, _ = await caller_of(fleet)
    (token,) = await fleet.operators.tokens()

    await fleet.operators.revoke_token(token.id)

    with pytest.raises(NotAuthenticated):
        await caller.still()


async def test_a_device_outside_the_scope_is_not_there(fleet):
    caller, _ = await caller_of(fleet, "tags has 'lab'")

    await caller.still(Permission.DEVICES_READ, "a")

    with pytest.raises(NotFound):
        await caller.still(Permission.DEVICES_READ, "b")
    with pytest.raises(NotAuthorised):
        await caller.still(Permission.DEVICES_READ)


async def test_waiting_ends_when_the_rights_may_have_changed(fleet):
    caller, grant = await caller_of(fleet)

    with caller.waiting() as pause:
        waiting = asyncio.ensure_future(pause(asyncio.Event().wait()))
        await asyncio.sleep(0)
        await fleet.operators.withdraw(grant.id)
        async with asyncio.timeout(PATIENCE_S):
            await waiting


async def test_the_owners_rights_stay(fleet):
    caller = owner(fleet, "library:ana")

    await caller.still()
    await caller.still(Permission.DEVICES_WRITE, "a")
    with caller.waiting() as pause:
        await pause(asyncio.sleep(0))
