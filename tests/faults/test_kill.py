"""kill -9 in mid-ingest, under real senders: what was acknowledged is there, once where that is promised."""

import asyncio
import contextlib
import os
import random
from collections import Counter

import pytest

from fleetcore.errors import Unavailable
from fleetcore.interfaces.waits import end_tasks
from fleetcore.testing.patience import PATIENCE_S
from fleetcore.wire import messages

KINDS = ("http", "mqtt", "mqtt 3.1.1")


async def _until_sent(senders, more, timeout_s=PATIENCE_S):
    """Returns once so many more readings were acknowledged to each sender."""
    goals = [one.count + more for one in senders]
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout_s
    while any(one.count < goal for one, goal in zip(senders, goals, strict=True)):
        assert loop.time() < end, [(one.kind, one.count, one.refused[-1:], one.lost[-1:]) for one in senders]
        await asyncio.sleep(0.001)


async def _check(manager, senders, readings, limit):
    anomalies = await manager.list_anomalies()
    found = {(one["device"], one["metric"], round(one["observed"])) for one in anomalies}
    for one in senders:
        for metric in one.METRICS:
            stored = await readings(manager, one.device, metric)
            sent = {one.value(number): number for name, number in one.tries if name == metric}
            acknowledged = {one.value(number) for number in one.acknowledged[metric]}
            assert acknowledged, (one.device, metric)
            assert acknowledged - set(stored) == set(), f"{one.device} {metric}: acknowledged, and not there"
            assert set(stored) <= sent.keys(), f"{one.device} {metric}: there, and never sent"
            if metric != "plain":
                assert len(stored) == len(set(stored)), f"{one.device} {metric}: stored twice"
            for value in set(stored):
                assert stored.count(value) <= one.tries[metric, sent[value]] if metric == "plain" else True
                if value > limit:
                    assert (one.device, metric, value) in found, "a reading was not shown to the detector"
    assert len(anomalies) == len({one["id"] for one in anomalies})


async def _kill_and_restart(server, senders, cycles, opened, readings, limit, check_every, kinds=KINDS):
    chance = random.Random(cycles)
    async with senders(server, kinds) as at_work:
        for cycle in range(1, cycles + 1):
            await _until_sent(at_work, chance.randrange(5, 60))
            await asyncio.sleep(chance.random() / 100)
            await server.kill()
            if cycle % check_every == 0:
                # Nobody can send meanwhile, so what is checked is what the crash left.
                async with opened(server.data) as manager:
                    await _check(manager, at_work, readings, limit)
            await server.start()
        await _until_sent(at_work, 5)
    await server.kill()
    async with opened(server.data) as manager:
        await _check(manager, at_work, readings, limit)
        assert (await manager.check_storage()).problems == []
    assert not any(one.refused for one in at_work)


async def test_every_acknowledged_reading_is_there_after_kill_9_in_mid_ingest(server, senders, opened, readings, limit):
    await _kill_and_restart(server, senders, 3, opened, readings, limit, check_every=2)


async def test_nor_is_a_reading_lost_that_was_acknowledged_over_coap(
    serving, senders, opened, readings, limit, quick_coap
):
    async with serving(coap=True) as server:
        await _kill_and_restart(server, senders, 2, opened, readings, limit, check_every=2, kinds=("coap", "http"))


async def test_a_body_in_blocks_that_the_crash_cuts_in_two_is_stored_once_it_was_acknowledged_and_never_in_part(
    serving, opened, readings, quick_coap
):
    chance = random.Random(9)
    acknowledged, each = [], 200
    async with serving(coap=True) as server:
        secrets = await server.device("long")

        async def send():
            number = 0
            while True:
                body = [{"time": 1_750_000_000_000 + number * each + n, "values": {"x": number}} for n in range(each)]
                with contextlib.suppress(Unavailable):
                    async with server.client("coap", secrets) as device:
                        while (await device.send(messages.TELEMETRY, body)).error is None:
                            acknowledged.append(number)
                            number += 1
                            for reading in body:
                                reading["time"] += each
                                reading["values"]["x"] = number
                await asyncio.sleep(0.02)

        sending = asyncio.create_task(send())
        for _ in range(3):
            goal = len(acknowledged) + 5
            async with asyncio.timeout(PATIENCE_S):
                while len(acknowledged) < goal:
                    await asyncio.sleep(0.001)
            await asyncio.sleep(chance.random() / 50)  # into the next body
            await server.kill()
            await server.start()
        await end_tasks(sending)
        await server.kill()
        async with opened(server.data) as manager:
            stored = Counter(await readings(manager, "long", "x"))

    assert set(acknowledged) <= stored.keys()
    assert set(stored.values()) == {each}


@pytest.mark.soak
@pytest.mark.timeout(7200)
async def test_every_acknowledged_reading_is_there_after_a_thousand_kill_9(server, senders, opened, readings, limit):
    cycles = int(os.environ.get("FLEETCORE_SOAK_CYCLES", "1000"))
    await _kill_and_restart(server, senders, cycles, opened, readings, limit, check_every=50)
