"""The connector on the real SDK against the counterpart."""

from contextlib import asynccontextmanager

import pytest
from attrs import evolve
from fleetcore_azure.config import AzureConfig
from fleetcore_azure.plugin import open_azure
from fleetcore_azure.testing.control import Control
from fleetcore_azure.testing.front import serving
from fleetcore_azure.testing.hub import Hub

from fleetcore.interfaces.pace import Pace
from fleetcore.testing import context
from fleetcore.testing.clock import MovableClock
from fleetcore.testing.throwaway_ca import ThrowawayCa


@pytest.fixture(scope="session")
def ca():
    return ThrowawayCa()


@pytest.fixture
async def front(ca):
    async with serving(Hub(), ca=ca) as front:
        yield front


@pytest.fixture
def hub(front):
    return Control(front)


@pytest.fixture
def opened(front):
    """Opens the connector: ``async with opened(device_prefix="p-") as cloud``."""

    @asynccontextmanager
    async def run(clock=None, fleet="default", pace=True, secrets=None, secret=None, **settings):
        known = {"env:HUB": front.connection_string(), "env:DEVICES": front.connection_string("device")}
        named = {} if "host" in settings else {"connection_string": "env:HUB"}
        common = {"endpoint": front.endpoint, "ca": str(front.ca.path), "threads": 8}
        config = AzureConfig(**{**common, **named, **settings})
        lent = context(fleet=fleet, clock=clock, secrets=secrets or known)
        async with open_azure(config, lent if secret is None else evolve(lent, secret=secret)) as cloud:
            if pace:
                cloud.pace = Pace({}, MovableClock())
            yield cloud

    return run


@pytest.fixture
async def cloud(opened):
    async with opened() as cloud:
        yield cloud
