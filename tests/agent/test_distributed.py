"""Distributed processing with real agents: one is killed in the middle, one is slow; and the gateway's own commands."""

import asyncio
import logging

import numpy as np
import pytest

from fleetcore.model.sketch import ACCURACY
from fleetcore.testing.patience import PATIENCE_S
from tests.agent.conftest import GATEWAY, until

MINUTE, HOUR = 60_000, 3_600_000
END = 1_767_225_600_000  # 2026-01-01
COUNTS = {"gw-a": 400, "gw-b": 3000, "gw-c": 400}
AGGREGATES = ("count", "sum", "min", "max", "p50", "p99")


async def test_a_killed_and_a_slow_gateway_are_named_and_added_once_they_are_back(site):
    chance, gateways, readings = np.random.default_rng(7), {}, {}
    for name, count in COUNTS.items():
        gateway = gateways[name] = await site.neighbour(name)
        times = END - MINUTE * np.arange(count, 0, -1)
        values = chance.integers(-1000, 10**6, count).astype(np.float64)
        readings[name] = (times, values)
        await gateway.store(f"pump-{name}", "flow", times, values)
        await site.core.create_device(f"pump-{name}", type="pump", gateway=name)
    core = await site.core.open()
    try:
        for gateway in gateways.values():
            await gateway.agent.start()
        for name in COUNTS:
            await until(lambda name=name: online(core, name))
        gateways["gw-c"].wire.stall()
        started = await core.edge.run_distributed(
            "flow", gateways=list(COUNTS), by="device", bucket_s=60.0, end=END, aggregates=AGGREGATES, within_s=5,
            wait_s=0,
        )  # fmt: skip
        job = started.operation

        async def states():
            found = await core.edge.distributed(job)
            return found, {each.gateway: each for each in found.gateways}

        async def begun():
            return (await states())[1]["gw-b"].parts > 0

        await until(begun)
        await gateways["gw-b"].agent.kill()
        killed_at = (await states())[1]["gw-b"]
        assert killed_at.state != "answered", "it was killed in the middle"

        async def partial():
            found, by_name = await states()
            return (
                found.state == "partial" and by_name["gw-a"].state == "answered" and by_name["gw-b"].state == "offline"
            )

        await until(partial)
        found, by_name = await states()
        assert by_name["gw-c"].state in ("timed_out", "offline")
        assert by_name["gw-b"].reason
        assert by_name["gw-c"].reason
        assert found.readings == COUNTS["gw-a"]
        assert {group for _, group, *_ in found.rows} == {"pump-gw-a"}

        gateways["gw-c"].wire.heal()
        await gateways["gw-b"].agent.start()

        async def complete():
            return (await states())[0].state

        await until(complete, "complete")
        found, _ = await states()
        wanted = {
            (f"pump-{name}", time): value
            for name, (times, values) in readings.items()
            for time, value in zip(times.tolist(), values.tolist(), strict=True)
        }
        assert {(group, start): values[1] for _, group, start, values in found.rows} == wanted
        assert all(values[0] == 1 for *_, values in found.rows)

        whole = await core.edge.run_distributed(
            "flow", gateways=list(COUNTS), end=END, aggregates=AGGREGATES, within_s=PATIENCE_S
        )
        together = np.concatenate([values for _, values in readings.values()])
        ((_, _, _, (count, total, least, most, half, high)),) = whole.rows
        assert (count, total) == (len(together), together.sum())
        assert (least, most) == (together.min(), together.max())
        assert half == pytest.approx(np.quantile(together, 0.5, method="lower"), rel=ACCURACY)
        assert high == pytest.approx(np.quantile(together, 0.99, method="lower"), rel=ACCURACY)
    finally:
        for gateway in gateways.values():
            gateway.wire.heal()
            await gateway.agent.kill()


async def online(core, name):
    return core.presence.of(name).connectivity == "online"


async def ran(core, name, args=None, **more):
    """A command to the gateway, once it has ended at the core."""
    sent = await core.commands.send(GATEWAY, name, args, **more)
    return await core.commands.wait(sent, PATIENCE_S)


async def test_the_gateway_answers_for_its_status_and_its_log(site):
    core = await site.core.open()
    await site.start()
    logging.getLogger("fleetcore_edge").warning("Function deadband: %s", "it is warm")
    logging.getLogger("fleetcore_edge").warning("x" * 3000)
    status = await ran(core, "edge.status")
    logs = await ran(core, "edge.logs", {"lines": 2000})
    of_function = await ran(core, "edge.logs", {"function": "deadband"})

    assert (status.state, status.output["connected"], status.output["waiting"]) == ("succeeded", True, 0)
    assert "x" * 2000 in [line["text"] for line in logs.output["lines"]]
    assert [line["text"] for line in of_function.output["lines"]] == ["Function deadband: it is warm"]


async def test_a_long_log_is_cut_to_what_an_output_holds(site):
    core = await site.core.open()
    await site.start()
    for number in range(100):
        logging.getLogger("fleetcore_edge").warning("%d %s", number, "é" * 1500)
    logs = await ran(core, "edge.logs", {"lines": 90})

    assert (logs.state, logs.output["cut"]) == ("succeeded", True)
    assert logs.output["lines"][-1]["text"].startswith("99 ")


@pytest.mark.parametrize(
    ("name", "args", "state", "code", "reason"),
    [
        ("reboot", {}, "rejected", "command_unknown", "edge.logs, edge.map, edge.status"),
        ("edge.logs", {"lines": 0}, "failed", "schema_invalid", "1 to"),
        ("edge.map", {}, "failed", "schema_invalid", "start"),
    ],
)
async def test_what_the_gateway_cannot_do_is_told_with_the_reason(site, name, args, state, code, reason):
    core = await site.core.open()
    await site.start()
    ended = await ran(core, name, args)

    assert (ended.state, ended.code) == (state, code)
    assert reason in ended.reason


async def test_a_command_that_ran_while_the_core_was_away_is_told_after_a_restart_and_runs_once(site):
    core = await site.core.open()
    await site.start()
    own = site.uplink.own
    runs, wait = [], asyncio.Event()

    async def slow(args, _progress):
        runs.append(args)
        await wait.wait()
        return {"ran": len(runs)}

    own._table = {**own._table, "edge.slow": slow}
    sent = await core.commands.send(GATEWAY, "edge.slow", {"n": 1})

    async def began():
        return len(runs)

    await until(began, 1)
    site.cut()
    wait.set()

    async def ended():
        return [each.state for each in await (await site.gateway.open()).commands.list(GATEWAY)]

    await until(ended, ["succeeded"])
    await site.stop()
    site.mend()
    await site.start()
    done = await core.commands.wait(sent, PATIENCE_S)

    assert (done.state, done.output, len(runs)) == ("succeeded", {"ran": 1}, 1)


async def test_a_command_is_cancelled_while_it_runs(site):
    core = await site.core.open()
    await site.start()
    begun = asyncio.Event()

    async def endless(_args, _progress):
        begun.set()
        await asyncio.Event().wait()

    site.uplink.own._table = {**site.uplink.own._table, "edge.endless": endless}
    sent = await core.commands.send(GATEWAY, "edge.endless")
    await begun.wait()
    await core.commands.cancel(sent.id)
    done = await core.commands.wait(sent, PATIENCE_S)

    assert done.state == "cancelled"


async def test_a_command_that_had_begun_runs_again_after_a_restart(site):
    core = await site.core.open()
    await site.start()
    begun = asyncio.Event()

    async def endless(_args, _progress):
        begun.set()
        await asyncio.Event().wait()

    site.uplink.own._table = {**site.uplink.own._table, "edge.status": endless}
    sent = await core.commands.send(GATEWAY, "edge.status")
    await begun.wait()
    await site.stop()
    await site.start()
    done = await core.commands.wait(sent, PATIENCE_S)

    assert (done.state, "connections" in done.output) == ("succeeded", True)


async def test_a_fault_in_a_command_ends_that_command_alone(site):
    core = await site.core.open()
    await site.start()

    async def faulty(_args, _progress):
        raise ZeroDivisionError("here")

    site.uplink.own._table = {**site.uplink.own._table, "edge.faulty": faulty}
    failed = await ran(core, "edge.faulty")
    status = await ran(core, "edge.status")

    assert (failed.state, failed.code) == ("failed", "internal")
    assert status.state == "succeeded"
