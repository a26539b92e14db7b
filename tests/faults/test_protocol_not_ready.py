"""A protocol that is not ready at the start, such as a broker that is away: the others serve, and it comes later."""

import pytest

from fleetcore import IoTFleetManager
from fleetcore.errors import NotReady
from fleetcore.testing.clock import MovableClock

_LATE = """\
from contextlib import asynccontextmanager
from pathlib import Path

from attrs import frozen

from fleetcore import hookimpl, offer_protocol
from fleetcore.errors import NotReady
from fleetcore.interfaces.protocol import ProtocolAdapter


@frozen
class Config:
    pass


class Adapter(ProtocolAdapter):
    endpoints = ("late://here",)

    async def drain(self):
        pass


@asynccontextmanager
async def open_late(config, context, plane, ingest):
    if not (Path(__file__).parent / "there").exists():
        raise NotReady("the broker is away")
    yield Adapter()


@hookimpl
def fleetcore_protocols():
    return [offer_protocol("late", Config, open_late)]
"""


@pytest.fixture
async def opened(tmp_path):
    async def make(protocols):
        data = tmp_path / "data"
        data.mkdir(mode=0o700)
        (data / "late.py").write_text(_LATE)
        sections = "".join(f"[protocols.{name}]\n" for name in protocols)
        (data / "fleet.toml").write_text(f'[fleet]\nname = "x"\ndata = "."\nplugins = ["./late.py"]\n{sections}')
        (data / "fleet.toml").chmod(0o600)
        clock = MovableClock()
        manager = IoTFleetManager(data, clock=clock, create=True)
        made.append(manager)
        return data, clock, manager, await manager.open()

    made = []
    yield make
    for manager in made:
        await manager.close()


async def test_the_others_serve_and_it_is_opened_once_it_is_ready(opened, until):
    data, clock, manager, fleet = await opened(["late", "local"])

    await fleet.serve()
    await clock.advance(10)
    before = await manager.get_status()
    (data / "there").touch()

    async def is_open():
        await clock.advance(30)
        return "late" in fleet.protocols

    await until(is_open)  # what the plugin has kept is read from the store first
    assert list(before["protocols"]) == ["local"]
    assert "the broker is away" in before["tasks"]["protocol late"]["error"]
    after = await manager.get_status()
    assert after["protocols"]["late"]["endpoints"] == ["late://here"]
    assert "protocol late" not in after["tasks"]
    assert "late://here" in fleet.security.endpoints


async def test_a_server_that_would_serve_nobody_says_so(opened):
    _, _, _, fleet = await opened(["late"])

    with pytest.raises(NotReady):
        await fleet.serve()
