"""Fixtures for tests that need the core alone."""

import pytest

from fleetcore import IoTFleetManager
from fleetcore.testing.clock import MovableClock


@pytest.fixture
def clock():
    return MovableClock()


@pytest.fixture
async def manager():
    async with IoTFleetManager() as opened:
        yield opened


@pytest.fixture
async def moved(clock):
    """A fleet under a clock that the test moves."""
    async with IoTFleetManager(clock=clock) as opened:
        yield opened
