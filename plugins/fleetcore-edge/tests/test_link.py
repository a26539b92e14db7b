"""Messages to the core, and what becomes of them where it has a fault."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from fleetcore_edge.uplink.link import Link

from fleetcore.interfaces.waits import end_task
from fleetcore.model.message import Reply
from fleetcore.testing.clock import MovableClock
from fleetcore.wire import messages

FAULT = Reply(status=500, error={"code": "internal"})


class Core:
    """The client of a connection to a core that answers with so many faults."""

    ended = ""

    def __init__(self, faults):
        self.left = faults

    async def send(self, type, body, *, subject=None, target=None):
        del body, subject, target
        if type is messages.TELEMETRY and self.left:
            self.left -= 1
            return FAULT
        return Reply(status=204)

    async def downlinks(self):
        await asyncio.Event().wait()
        yield


class Hasty(MovableClock):
    """A clock on which no wait takes long."""

    async def sleep(self, seconds):
        del seconds
        await asyncio.sleep(0)


@asynccontextmanager
async def linked(core):
    @asynccontextmanager
    async def client():
        yield core

    link = Link(client, Hasty(), heard=lambda _downlink: asyncio.sleep(0), came=lambda: None)
    running = asyncio.create_task(link.run())
    try:
        yield link
    finally:
        await end_task(running)


@pytest.mark.parametrize(("faults", "status"), [(3, 204), (100, 500)])
async def test_a_fault_of_the_core_is_not_the_end_of_a_message_at_once(faults, status):
    async with linked(Core(faults)) as link:
        assert (await link.send(messages.TELEMETRY, b"[]")).status == status
