"""The connector on the real SDK against a counterpart."""

import asyncio
import queue
import threading
from contextlib import asynccontextmanager

import pytest
from fleetcore_aws.config import AwsConfig
from fleetcore_aws.plugin import open_aws
from fleetcore_aws.testing.control import Control
from fleetcore_aws.testing.front import HubBack, serving
from fleetcore_aws.testing.hub import Hub
from fleetcore_aws.testing.moto_back import moto, reset, strict_moto

from fleetcore.interfaces.pace import Pace
from fleetcore.testing import context
from fleetcore.testing.clock import MovableClock
from fleetcore.testing.patience import PATIENCE_S

QUEUE = "http://127.0.0.1/123456789012/commands"


@pytest.fixture(autouse=True)
def credentials(monkeypatch, tmp_path):
    """The SDK's own chain, with nothing of this machine in it."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


@pytest.fixture
async def front():
    async with serving(HubBack(Hub())) as front:
        yield front


@pytest.fixture
async def hub(front):
    control = Control(front, queue=QUEUE)
    yield control
    control.close()


@pytest.fixture
def opened(front):
    """Opens the connector: ``async with opened(thing_prefix="p-") as cloud``."""

    @asynccontextmanager
    async def run(clock=None, fleet="default", pace=True, at=None, **settings):
        settings = {"region": "us-east-1", "endpoint": (at or front).endpoint, "threads": 8, **settings}
        config = AwsConfig(**settings)
        async with open_aws(config, context(fleet=fleet, clock=clock)) as cloud:
            if pace:
                cloud.pace = Pace({}, MovableClock())
            yield cloud

    return run


@pytest.fixture
async def cloud(opened):
    async with opened() as cloud:
        yield cloud


@pytest.fixture(scope="session")
def moto_endpoint():
    """moto's server, one for all tests, in a loop and thread of its own."""
    started, ended = queue.Queue(), threading.Event()

    async def run():
        try:
            async with moto() as endpoint:
                started.put(endpoint)
                await asyncio.to_thread(ended.wait)
        except BaseException as error:
            started.put(error)
            raise

    thread = threading.Thread(target=lambda: asyncio.run(run()), name="moto")
    thread.start()
    endpoint = started.get(timeout=PATIENCE_S)
    assert isinstance(endpoint, str), endpoint
    yield endpoint
    ended.set()
    thread.join()


@pytest.fixture
async def moto_front(moto_endpoint):
    await reset(moto_endpoint)
    async with strict_moto(moto_endpoint) as front:
        yield front
