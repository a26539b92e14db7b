"""A fleet in memory under a clock that the test moves."""

import pytest

from fleetcore import IoTFleetManager
from fleetcore.testing.clock import MovableClock


@pytest.fixture
def clock():
    return MovableClock()


@pytest.fixture
async def manager(clock):
    async with IoTFleetManager(clock=clock) as manager:
        yield manager


@pytest.fixture
async def fleet(manager):
    return await manager.open()
