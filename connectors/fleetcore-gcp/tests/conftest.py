"""The connector on the real SDK against the counterpart."""

from contextlib import asynccontextmanager

import pytest
from fleetcore_gcp.config import GcpConfig
from fleetcore_gcp.plugin import open_gcp
from fleetcore_gcp.testing.control import Control
from fleetcore_gcp.testing.server import serving

from fleetcore.interfaces.cloud import CloudUse
from fleetcore.interfaces.pace import Pace
from fleetcore.testing import context
from fleetcore.testing.clock import MovableClock

PROJECT = "plant-project"


@pytest.fixture(autouse=True)
def credentials(monkeypatch, tmp_path):
    """The SDK's own chain, with nothing of this machine in it."""
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT", "PUBSUB_EMULATOR_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "gcloud"))
    monkeypatch.setenv("NO_GCE_CHECK", "true")


@pytest.fixture
async def front():
    async with serving() as front:
        yield front


@pytest.fixture
async def prepared(front):
    """The counterpart as a person has prepared it: topics, each with a subscription."""
    control = Control(front, GcpConfig(project=PROJECT, emulator=front.endpoint))
    control.prepare()
    return control


@pytest.fixture
async def hub(prepared):
    return prepared


@pytest.fixture
def opened(front):
    """Opens the connector: ``async with opened(create=True) as cloud``."""

    @asynccontextmanager
    async def run(clock=None, fleet="default", pace=True, at=None, **settings):
        settings = {"project": PROJECT, "emulator": (at or front).endpoint, "threads": 8, **settings}
        async with open_gcp(GcpConfig(**settings), context(fleet=fleet, clock=clock)) as cloud:
            cloud.use = CloudUse(commands=True)
            if pace:
                cloud.pace = Pace({}, MovableClock())
            yield cloud

    return run


@pytest.fixture
async def cloud(opened, hub):
    async with opened() as cloud:
        yield cloud
