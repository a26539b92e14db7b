"""A fleet in memory that trusts a maker, and simulated devices that left the factory with the same trust."""

from contextlib import AsyncExitStack

import pytest

from fleetcore import IoTFleetManager
from fleetcore.builtin.local_protocol import LocalConfig, open_local
from fleetcore.interfaces.protocol import DeviceSecrets
from fleetcore.testing.clock import MovableClock
from fleetcore.testing.signers import START_MS, Signers
from fleetcore.testing.simulator import Behaviour, SimulatedDevice
from tests.firmware.kit import Between, raw_server_key


@pytest.fixture
def clock():
    return MovableClock(START_MS)


@pytest.fixture(scope="session")
def signers():
    return Signers()


@pytest.fixture
async def manager(clock):
    async with IoTFleetManager(clock=clock) as manager:
        yield manager


@pytest.fixture
async def fleet(manager):
    return await manager.open()


@pytest.fixture
def line():
    """A line of its own for each test, so that what is done to one stays there."""
    return type("Line", (Between,), {})


@pytest.fixture
async def device(manager, fleet, clock, signers, line):
    """Makes devices: ``await device("a", seq=1)`` is connected and verifies everything."""
    async with AsyncExitStack() as stack:
        adapter = await stack.enter_async_context(
            open_local(LocalConfig(), fleet._context("local"), fleet.plane, fleet.ingest)
        )

        async def make(name="a", *, model="T-1000", trust=None, flash=None, **behaviour):
            if await fleet.devices.find(name) is None:
                await manager.register_device(name, "sensor", {"model": model})
            made = SimulatedDevice(
                DeviceSecrets(device=name),
                line,
                adapter.endpoints[0],
                clock,
                flash=flash,
                behaviour=Behaviour(
                    model=model,
                    seq=behaviour.pop("seq", 1),
                    trust=trust or signers.trust(),
                    command_key=raw_server_key(fleet),
                    **behaviour,
                ),
            )
            made.use_token((await manager.issue_device_token(name)).token)
            await made.connect()
            stack.push_async_callback(made.disconnect)
            return made

        yield make


@pytest.fixture
async def trusted(manager, signers):
    """The fleet's trust root is set."""
    return await manager.set_firmware_root(signers.trust())
