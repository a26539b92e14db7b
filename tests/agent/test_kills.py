"""kill -9 of a gateway's agent, a real process, while its leaf sends and its uplink comes and goes."""

import asyncio
import contextlib
import random
import time

from fleetcore.errors import FleetError, Unavailable
from fleetcore.interfaces.waits import end_tasks
from fleetcore.testing.patience import PATIENCE_S
from tests.agent.conftest import Agent, until

KILLS = 6


def now():
    return time.time_ns() // 1_000_000


async def sends(leaf, acknowledged):
    """Sends readings one after the other, each until it is acknowledged."""
    number = 0
    while True:
        with contextlib.suppress(FleetError):
            await leaf.connect()
            while True:
                reading = (now(), float(number))
                reply = await leaf.send({"temperature": reading[1], "time": reading[0]}, 1)
                if reply.error is None:
                    acknowledged.append(reading)
                    number += 1
                await asyncio.sleep(0.004)
        with contextlib.suppress(FleetError):
            await leaf.disconnect()
        await asyncio.sleep(0.05)


async def test_every_acknowledged_reading_reaches_the_core_once_over_kills_of_the_agent(site):
    chance, acknowledged = random.Random(11), []
    await site.start(listen=True)
    leaf = await site.leaf("pump-1")
    await site.stop()
    agent = Agent(site.folder / "gateway")
    await agent.start()
    sending = asyncio.create_task(sends(leaf, acknowledged))
    try:
        for kill in range(KILLS):
            known = len(acknowledged)
            async with asyncio.timeout(PATIENCE_S):
                while len(acknowledged) < known + 60:
                    await asyncio.sleep(0.01)
            if kill % 2:
                site.cut()
            else:
                site.mend()
            await asyncio.sleep(chance.random() / 5)
            await agent.kill()
            await agent.start()
        site.mend()
        await end_tasks(sending)
        wanted = dict(acknowledged)

        async def all_there():
            return wanted.keys() - {moment for moment, _ in await site.at_core("pump-1")}

        assert await until(all_there, set()) == set()
        there = await site.at_core("pump-1")
        assert len(there) == len({moment for moment, _ in there})
        assert {moment: value for moment, value in there if moment in wanted} == wanted
        assert len(there) - len(wanted) <= KILLS + 1, "only what was under way at a kill is there without an answer"
    finally:
        await end_tasks(sending)
        await agent.kill()
        with contextlib.suppress(Unavailable):
            await leaf.disconnect()
