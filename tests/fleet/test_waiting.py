"""Long polls and counts of what waits: rights are asked again while a device waits, and no change is overlooked."""

import asyncio
import contextlib

import pytest

from fleetcore.errors import NotAuthorised
from fleetcore.model.credential import LocalCredential
from fleetcore.model.device import Device, Lifecycle
from fleetcore.model.message import Inbound
from fleetcore.pipeline.session import DeviceSession, DeviceState
from fleetcore.runtime.plane.waiting import Waiting
from fleetcore.testing.patience import PATIENCE_S
from fleetcore.wire import messages


@pytest.fixture
async def edge(fleet):
    """A leaf that gateway g1 speaks for, and a gateway g2."""
    for gateway in ("g1", "g2"):
        await fleet.devices.register(gateway, "box")
        await fleet.edge.register_gateway(gateway)
    await fleet.devices.register("leaf", "sensor")
    await fleet.edge.attach("g1", "leaf")
    return fleet


async def _polling(fleet):
    session = await fleet.plane.authenticate(LocalCredential("g1"), protocol="test")
    poll = asyncio.create_task(fleet.plane.wait(session, "leaf", messages.COMMAND, after=0, timeout_s=60.0))
    async with asyncio.timeout(PATIENCE_S):
        while not fleet.plane._waiting._waiters.get("leaf"):
            await asyncio.sleep(0)
    return poll


async def _moved(fleet):
    await fleet.edge.detach("leaf")
    await fleet.edge.attach("g2", "leaf")


async def _suspended(fleet):
    await fleet.devices.move("g1", Lifecycle.SUSPENDED)


@pytest.mark.parametrize("lost", [_moved, _suspended])
async def test_a_gateway_that_lost_its_right_in_a_long_poll_is_told_nothing(edge, lost):
    poll = await _polling(edge)

    await lost(edge)
    await edge.commands.send("leaf", "unlock", {"code": 4711})

    with contextlib.suppress(NotAuthorised):
        assert await poll is None


async def test_a_gateway_that_has_its_right_is_told_in_its_long_poll(edge):
    poll = await _polling(edge)

    await edge.commands.send("leaf", "unlock", {"code": 4711})

    assert [one["name"] for one in (await poll)["commands"]] == ["unlock"]


async def test_a_change_while_the_counts_are_read_is_in_the_next_answer():
    class Source:
        waits = 0

        async def count(self, _subject):
            found = self.waits
            await asyncio.sleep(0)  # the store's answer is on its way
            return found

    source = Source()
    waiting = Waiting(None, None, {messages.COMMAND: source})
    device = Device(id="d", type="sensor", lifecycle=Lifecycle.ACTIVE)
    session = DeviceSession(DeviceState(device, 10.0, 0.0), "http", "peer")
    asking = asyncio.create_task(waiting.pending(session, "d"))
    await asyncio.sleep(0)

    source.waits = 1
    waiting.changed("d")

    assert await asking == {}
    assert await waiting.pending(session, "d") == {messages.COMMAND.waits: 1}


async def test_what_is_not_sent_for_a_leaf_is_refused(edge):
    session = await edge.plane.authenticate(LocalCredential("g1"), protocol="test")

    reply = await edge.plane.call(session, Inbound(type=messages.LEAF_REGISTER, subject="leaf", payload=b"{}"))

    assert reply.error["code"] == "operation_unknown"
