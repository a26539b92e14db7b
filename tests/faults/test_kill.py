"""kill -9 in mid-ingest, under real senders: what was acknowledged is there, once where that is promised."""

import asyncio
import os
import random

import pytest

from fleetcore.testing.patience import PATIENCE_S


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


async def _kill_and_restart(server, senders, cycles, opened, readings, limit, check_every):
    chance = random.Random(cycles)
    at_work = []
    async with senders(server) as at_work:
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


@pytest.mark.soak
@pytest.mark.timeout(7200)
async def test_every_acknowledged_reading_is_there_after_a_thousand_kill_9(server, senders, opened, readings, limit):
    cycles = int(os.environ.get("FLEETCORE_SOAK_CYCLES", "1000"))
    await _kill_and_restart(server, senders, cycles, opened, readings, limit, check_every=50)
