"""A configured fleet with mirrors to hubs in memory."""

import re
from contextlib import asynccontextmanager

import pytest

from fleetcore import IoTFleetManager
from fleetcore.model.mirror import EntityKey
from fleetcore.runtime.config import load
from fleetcore.testing import memory_cloud
from fleetcore.testing.memory_cloud import MemoryHub
from fleetcore.testing.patience import until

PLUGIN = """
from contextlib import asynccontextmanager

from attrs import frozen

from fleetcore import hookimpl, offer_cloud
from fleetcore.testing import memory_cloud


@frozen
class MemoryConfig:
    hub: str = "hub"


@asynccontextmanager
async def open_memory(config, context):
    cloud = memory_cloud.MemoryCloud(memory_cloud.HUBS[config.hub], owner=context.mark)
    cloud.identity = config.hub
    yield cloud


@hookimpl
def fleetcore_clouds():
    yield offer_cloud("memory", MemoryConfig, open_memory)
"""


def registry(device):
    return EntityKey("registry", device)


def twin(device):
    return EntityKey("twin", device)


@pytest.fixture
def hubs(monkeypatch):
    found = {"hub": MemoryHub(), "other": MemoryHub()}
    monkeypatch.setattr(memory_cloud, "HUBS", found, raising=False)
    return found


@pytest.fixture
def hub(hubs):
    return hubs["hub"]


@pytest.fixture
def served(tmp_path, hubs):
    """Opens the fleet of a folder with the given section: ``async with served('mirror = ["twins"]') as manager``."""

    @asynccontextmanager
    async def run(*sections):
        (tmp_path / "memory.py").write_text(PLUGIN)
        # Tests write an entity as often as they like, and do not wait.
        text = re.sub(
            r"(?m)^(\[clouds\.\w+\])$",
            r"\1\nwrite_every_s = 0",
            "\n".join(sections or ('[clouds.memory]\nmetrics = ["*"]',)),
        )
        file = tmp_path / "fleet.toml"
        known = re.findall("^id = .*\n", file.read_text(), re.MULTILINE) if file.exists() else []
        file.write_text(f'[fleet]\n{"".join(known)}data = "data"\nplugins = ["memory.py"]\n\n{text}\n')
        config = load(file)
        async with IoTFleetManager(config=config, create=not (tmp_path / "data").exists()) as manager:
            await (await manager.open()).serve()
            yield manager

    return run


async def caught_up(manager, name="memory"):
    mirror = (await manager.open()).mirrors[name]
    await manager.wait_idle()
    await until(lambda: mirror.tracker.snapshot is None and mirror.sender.idle)
