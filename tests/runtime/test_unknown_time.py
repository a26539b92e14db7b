"""A server that does not know the time tells no device a wrong one."""

import json
import logging

import pytest
from fleetcore_websocket.plugin import open_client

from fleetcore import IoTFleetManager
from fleetcore.interfaces.protocol import DeviceSecrets
from fleetcore.interfaces.provider import Context
from fleetcore.model.credential import LocalCredential
from fleetcore.model.message import Inbound
from fleetcore.testing.clock import MovableClock
from fleetcore.wire.messages import TIME


class UnknownClock(MovableClock):
    is_known = False


@pytest.mark.parametrize(("clock", "told"), [(UnknownClock(), False), (MovableClock(), True)])
def test_discovery_has_the_time_where_it_is_known(clock, told):
    context = Context(name="x", fleet="f", clock=clock, logger=logging.getLogger(), secret=str)

    assert ("time_ms" in context.discovery(None)) is told
    assert (clock.known_ms() is not None) is told


@pytest.mark.parametrize(("clock", "status"), [(UnknownClock(), 503), (MovableClock(), 200)])
async def test_a_request_for_the_time_is_refused_for_now(clock, status):
    async with IoTFleetManager(clock=clock) as manager:
        fleet = await manager.open()
        await manager.create_device("pump-1")
        session = await fleet.plane.authenticate(LocalCredential("pump-1"), protocol="test")
        reply = await fleet.plane.call(session, Inbound(type=TIME, subject="pump-1", payload=json.dumps({}).encode()))
        await fleet.plane.wait_idle()
        session.close()

    assert reply.status == status


async def test_a_device_connects_over_websocket_to_a_server_that_does_not_know_the_time(tmp_path):
    (tmp_path / "fleet.toml").write_text(
        '[fleet]\nname = "f"\ndata = "."\n[protocols.websocket]\nlisten = "ws://127.0.0.1:0"\n'
    )
    async with IoTFleetManager(tmp_path, create=True, clock=UnknownClock()) as manager:
        fleet = await manager.open()
        await fleet.serve()
        await manager.create_device("pump-1")
        token = await fleet.security.device_tokens.issue("pump-1")
        (url,) = fleet.protocols["websocket"].endpoints()
        async with open_client(url, DeviceSecrets(device="pump-1", token=token)) as client:
            assert (await client.request(TIME, {})).status == 503
