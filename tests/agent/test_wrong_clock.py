"""A gateway's agent, a real process, on a machine whose clock is wrong: at 1970, or ahead."""

import asyncio
import time
from pathlib import Path

import pytest

from tests.agent.conftest import GATEWAY, Agent, until

pytestmark = pytest.mark.peer("faketime")
#: A reading's time comes from the gateway's time since its start and the core's answer, which is exact to its round trip.
EXACT_MS = 500


class FakeTime(Agent):
    """The agent on a machine whose wall clock starts at a given time."""

    def __init__(self, folder, wall):
        super().__init__(folder)
        self.wall = wall

    def environment(self):
        # The time since the machine's start is right whatever the wall clock says.
        return {
            **super().environment(), "LD_PRELOAD": str(library()), "FAKETIME": f"@{self.wall}",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1",
        }  # fmt: skip


def library():
    """Debian's libfaketime, which gives one process another wall clock."""
    return next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))


def now():
    return time.time_ns() // 1_000_000


@pytest.fixture
async def leaf(site):
    """A leaf of a gateway whose agent does not run, and whose uplink is cut."""
    await site.start(listen=True)
    device = await site.leaf("pump-1")
    await until(lambda: connected(site), True)
    await site.stop()
    site.cut()
    yield device
    await device.disconnect()


async def connected(site):
    return site.uplink.link.state.connected


async def clock(site):
    """What the gateway reports of its clock at the core."""
    return (await site.core.call("get_twin", device_id=GATEWAY))["reported"].get("clock") or {}


async def sent(leaf, count):
    """Sends readings without a time; the times between which each came."""
    moments = []
    for number in range(count):
        before = now()
        reply = await leaf.send({"temperature": float(number)}, 1)
        assert reply.error is None
        moments.append((before, now()))
        await asyncio.sleep(0.01)
    return moments


def check(there, moments):
    """Every reading is there once, with its true time."""
    assert [value for _, value in sorted(there, key=lambda each: each[1])] == [
        float(each) for each in range(len(moments))
    ]
    for (moment, value), (before, after) in zip(sorted(there, key=lambda each: each[1]), moments, strict=True):
        assert before - EXACT_MS <= moment <= after + EXACT_MS, value


async def test_readings_of_an_agent_at_1970_have_their_true_times_at_the_core(site, leaf):
    agent = FakeTime(site.folder / "gateway", "1970-01-01 00:01:00")
    await agent.start()
    try:
        await leaf.connect()
        moments = await sent(leaf, 50)
        assert await site.at_core("pump-1") == []
        site.mend()

        async def count():
            return len(await site.at_core("pump-1"))

        await until(count, 50)
        check(await site.at_core("pump-1"), moments)
    finally:
        await agent.kill()
