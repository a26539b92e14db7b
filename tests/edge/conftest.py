"""A fleet in memory with a firmware root, and gateways that speak to it in process."""

from contextlib import AsyncExitStack

import pytest

from fleetcore import IoTFleetManager
from fleetcore.builtin.local_protocol import LocalConfig, open_local
from fleetcore.testing.clock import MovableClock
from fleetcore.testing.signers import START_MS, Signers
from tests.edge.kit import MODEL, ROOM, Gateway


@pytest.fixture
def clock():
    return MovableClock(START_MS)


@pytest.fixture(scope="session")
def signers():
    return Signers()


@pytest.fixture
async def manager(clock, signers):
    async with IoTFleetManager(clock=clock) as manager:
        await manager.set_firmware_root(signers.trust())
        yield manager


@pytest.fixture
async def fleet(manager):
    return await manager.open()


@pytest.fixture
async def gateway(manager, fleet, signers):
    """Makes gateways: ``await gateway("g1")`` is registered and connected; with ``online=False`` only registered."""
    async with AsyncExitStack() as stack:
        adapter = await stack.enter_async_context(
            open_local(LocalConfig(), fleet._context("local"), fleet.plane, fleet.ingest)
        )

        async def make(name="g1", *, capacity=ROOM, online=True, **more):
            await fleet.edge.register_gateway(name, capacity=capacity, model=MODEL, **more)
            made = Gateway(fleet, name, adapter.endpoints[0], signers.trust())
            made.token = (await manager.issue_device_token(name)).token
            if online:
                await made.connect(made.token)
            stack.push_async_callback(made.disconnect)
            return made

        yield make
