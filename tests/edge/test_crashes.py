"""Deployments that a crash cuts off before any of their commits end as if nothing had happened."""

import asyncio
import contextlib
import shutil

import pytest

from fleetcore import IoTFleetManager
from fleetcore.model.edge import entries, lacking
from fleetcore.model.firmware import EXECUTION_ENDS, CampaignState
from fleetcore.model.rollout import FailureLimit, OnFailure, Retries, Rollout
from fleetcore.testing.clock import MovableClock
from fleetcore.testing.signers import START_MS, Signers
from fleetcore.wire import messages
from tests.edge.kit import MODEL, ROOM, released, wanted

GATEWAYS = ("g1", "g2")
SIGNERS = Signers()
STOPPING = Rollout(
    waves=("1",), retries=Retries(times=1, wait_ms=60_000), min_succeeded=0.0,
    failures=(FailureLimit(share=0.4, min_executed=2, action=OnFailure.ROLL_BACK),),
)  # fmt: skip


class Crash(Exception):
    """The process ends before a commit."""


async def prepared(folder):
    async with IoTFleetManager(folder, clock=MovableClock(START_MS)) as manager:
        fleet = await manager.open()
        await manager.set_firmware_root(SIGNERS.trust())
        for seq in (1, 2):
            await released(fleet, SIGNERS, seq=seq)
        for name in (*GATEWAYS, "g3"):
            await fleet.edge.register_gateway(name, capacity=None if name == "g3" else ROOM, model=MODEL)
        await fleet.devices.register("leaf", "sensor", gateway="g2")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("edge") / "fleet"
    asyncio.run(prepared(folder))
    return folder


async def answers(fleet, fails):
    """Gateways ask for what they are to do, and do it."""
    for name in GATEWAYS:
        await fleet.updates.offer(name)
        for entry in entries((await fleet.twins.get(name)).desired.document).values():
            if entry.get("execution") is None:
                continue
            failing = (name, entry["version"]) in fails
            more = {"code": "trapped"} if failing else {"version": entry["version"]}
            for state in ("installing", "failed" if failing else "succeeded"):
                body = messages.FirmwareStatus(execution=entry["execution"], state=state, **more)
                await fleet.updates.status(name, body)


async def works(fleet, clock, fails):
    """A deployment that succeeds, one that rolls back by itself, and the replacement of a gateway."""
    for campaign, seq in (("one", 1), ("two", 2)):
        if await fleet.campaigns.records.get(campaign) is None:
            rollout = STOPPING if campaign == "two" else Rollout()
            await fleet.edge.deploy(f"vibration:{seq}", campaign, gateways=GATEWAYS, rollout=rollout)
        for _ in range(6):
            await answers(fleet, fails)
            await clock.advance(61)
            await fleet.campaigns.tick()
            if (await fleet.campaigns.get(campaign)).finished_at is not None:
                break
    await fleet.edge.replace("g2", "g3")


async def told(fleet):
    campaigns = {each.id: each.state async for each in fleet.campaigns.records.iterate()}
    executions = [each async for each in fleet.campaigns.executions.iterate()]
    assert all(each.state in EXECUTION_ENDS for each in executions)
    assert not [offer for offer in await fleet.functions.records.find() if offer.open]
    for name in ("g1", "g3"):
        found = await fleet.edge.resources(name)
        assert lacking(found.capacity, found.promised) == []
    return {
        "campaigns": campaigns,
        "wanted": [await wanted(fleet, name) for name in ("g1", "g2", "g3")],
        "ends": sorted((each.id, each.state) for each in executions),
        "leaf": (await fleet.devices.get("leaf")).gateway,
        "g2": (await fleet.devices.get("g2")).lifecycle,
    }


async def run(folder, fails, crash_at=None):
    clock, count = MovableClock(START_MS), 0
    manager = IoTFleetManager(folder, clock=clock)
    fleet = await manager.open()
    commit = fleet.storage.commit

    async def counted(change):
        nonlocal count
        count += 1
        if crash_at is not None and count >= crash_at:
            raise Crash
        return await commit(change)

    fleet.storage.commit = counted
    with contextlib.suppress(Crash):
        await works(fleet, clock, fails)
    fleet.storage.commit = commit
    if crash_at is None:
        found = await told(fleet)
        await manager.close()
        return found, count
    await manager.close()
    async with IoTFleetManager(folder, clock=clock) as again:
        fleet = await again.open()
        await works(fleet, clock, fails)
        return await told(fleet), count


def test_a_crash_before_any_commit_changes_nothing_of_how_it_ends(made, tmp_path):
    fails = {("g2", "2.0.0")}
    shutil.copytree(made, tmp_path / "whole")
    whole, commits = asyncio.run(run(tmp_path / "whole", fails))
    assert whole["campaigns"] == {"one": CampaignState.SUCCEEDED, "two": CampaignState.ROLLED_BACK}
    assert (whole["wanted"], whole["leaf"]) == (["1.0.0", None, "1.0.0"], "g3")
    assert commits > 20

    for crash_at in range(1, commits, 2):
        shutil.copytree(made, tmp_path / str(crash_at))
        found, _ = asyncio.run(run(tmp_path / str(crash_at), fails, crash_at))

        assert found == whole, f"before commit {crash_at}"
        shutil.rmtree(tmp_path / str(crash_at))
