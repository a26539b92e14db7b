"""Three days without the core: 50 readings a second in 256 MiB of disk, and kill -9 all along.

The readings' times cover the hours; they are sent as fast as the gateway takes them. ``FLEETCORE_SOAK_HOURS`` says how
many hours, 72 by default.
"""

import asyncio
import contextlib
import os
import time

import numpy as np
import pytest

from fleetcore.errors import FleetError
from fleetcore.interfaces.waits import end_tasks
from tests.agent.conftest import Agent

LEAVES, METRICS = 5, 10
#: Seconds of readings in a message, and kills while the core is out of reach and while the gateway catches up.
SECONDS, CUT_KILLS, CATCH_UP_KILLS = 100, 14, 6
MIB = 1 << 20
HOURS = float(os.environ.get("FLEETCORE_SOAK_HOURS", "72"))


def value(leaf, metric, seconds):
    """Slowly changing values with two decimals, as sensors give them."""
    return np.round(20 + 5 * np.sin(seconds / 3600 + leaf) + 0.01 * ((seconds * 7 + metric) % 13), 2)


async def sends(leaf, number, start_ms, seconds, done):
    """Sends the readings of one leaf, each message until it is acknowledged."""
    at = 0
    while at < seconds:
        with contextlib.suppress(FleetError):
            await leaf.connect()
            while at < seconds:
                span = np.arange(at, min(at + SECONDS, seconds))
                body = [
                    {"metric": f"m{metric}", "time": start_ms + 1000 * second, "value": read}
                    for metric in range(METRICS)
                    for second, read in zip(span.tolist(), value(number, metric, span).tolist(), strict=True)
                ]
                reply = await leaf.send(body, len(body))
                if reply.error is None:
                    at = int(span[-1]) + 1
                    done[number] = at
                else:
                    await asyncio.sleep(0.05)
        with contextlib.suppress(FleetError):
            await leaf.disconnect()
        await asyncio.sleep(0.05)


def used_mib(folder):
    """The size of a folder; files may go meanwhile."""
    size = 0
    for place in folder.rglob("*"):
        with contextlib.suppress(OSError):
            size += place.stat().st_blocks * 512
    return size / MIB


@pytest.mark.soak
@pytest.mark.timeout(7200)
async def test_three_days_without_the_core_lose_nothing_over_twenty_kills(site):
    seconds = round(HOURS * 3600)
    start_ms = time.time_ns() // 1_000_000 - seconds * 1000 - 60_000
    await site.start(listen=True)
    leaves = [await site.leaf(f"pump-{number}") for number in range(LEAVES)]
    await site.stop()
    folder, done, most = site.folder / "gateway", [0] * LEAVES, 0.0
    agent = Agent(folder)
    site.cut()
    await agent.start()
    began = time.monotonic()
    sending = [asyncio.create_task(sends(leaf, number, start_ms, seconds, done)) for number, leaf in enumerate(leaves)]
    kills = 0
    try:
        while not all(task.done() for task in sending):
            await asyncio.sleep(0.2)
            most = max(most, await asyncio.to_thread(used_mib, folder))
            if kills < CUT_KILLS and sum(done) >= LEAVES * seconds * (kills + 1) / (CUT_KILLS + 1):
                await agent.kill()
                await agent.start()
                kills += 1
        for task in sending:
            task.result()
        stored = time.monotonic()
        site.mend()
        storage = (await site.core.open()).storage
        wanted, caught = LEAVES * METRICS * seconds, 0
        while caught < wanted:
            await asyncio.sleep(max(1.0, wanted / 2_000_000))
            most = max(most, await asyncio.to_thread(used_mib, folder))
            caught = await count(storage)
            if kills < CUT_KILLS + CATCH_UP_KILLS and caught >= wanted * (kills - CUT_KILLS + 1) / (CATCH_UP_KILLS + 1):
                await agent.kill()
                await agent.start()
                kills += 1
        print(
            f"\n{wanted} readings of {HOURS:g} h: stored in {stored - began:.0f} s, caught up in"
            f" {time.monotonic() - stored:.0f} s, {kills} kills, at most {most:.0f} MiB of disk"
        )

        expected = start_ms + 1000 * np.arange(seconds)
        for number in range(LEAVES):
            for series in await storage.series_of(f"pump-{number}"):
                parts = [data async for data in storage.read(series.index, 0, 4 * 10**12)]
                assert np.array_equal(np.concatenate([data.time for data in parts]), expected), series
                metric = int(series.metric.removeprefix("m"))
                read = np.concatenate([data.value for data in parts])
                assert np.array_equal(read, value(number, metric, np.arange(seconds))), series
        assert kills == CUT_KILLS + CATCH_UP_KILLS
        assert most <= 256, "the gateway's disk is bounded"
    finally:
        await end_tasks(*sending)
        await agent.kill()


async def count(storage):
    """The readings of all leaves that the core has."""
    found = 0
    for number in range(LEAVES):
        for series in await storage.series_of(f"pump-{number}"):
            found += sum([len(data.time) async for data in storage.read(series.index, 0, 4 * 10**12)])
    return found
