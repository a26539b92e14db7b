"""A campaign that a crash cuts off before any of its commits ends as if nothing had happened."""

import asyncio
import contextlib

import pytest

from fleetcore import IoTFleetManager
from fleetcore.errors import NotFound
from fleetcore.model.firmware import EXECUTION_ENDS, CampaignState, ExecutionState, FirmwareImage
from fleetcore.model.rollout import FailureLimit, OnFailure, Retries, Rollout
from fleetcore.runtime.recount import differences
from fleetcore.testing.clock import MovableClock
from fleetcore.wire import messages

DEVICES = [f"d-{number}" for number in range(5)]
IMAGE = {"sha256": "ab" * 32, "size": 10}
BEFORE = FirmwareImage(release="1.0.0", url="https://example.com/1", sha256="cd" * 32, size=9)
ROLLOUT = Rollout(waves=("1", "2"), retries=Retries(times=1, wait_ms=60_000))
STOPPING = Rollout(failures=(FailureLimit(share=0.5, min_executed=2, action=OnFailure.ROLL_BACK),))


class Crash(Exception):
    """The process ends before a commit."""


async def works(fleet, clock, rollout, fails, together):
    """Devices do what a campaign asks of them until it has ended; may be begun again at any point."""
    for device in DEVICES:
        if await fleet.devices.find(device) is None:
            await fleet.devices.register(device, "sensor")
    try:
        await fleet.campaigns.get("c")
    except NotFound:
        url = "https://example.com/2"
        await fleet.campaigns.create("c", "2.0.0", DEVICES, url, **IMAGE, rollout=rollout, rollback=BEFORE)
    for _ in range(12):
        offers = []
        for device in DEVICES:
            offer = await fleet.updates.offer(device)
            if offer is not None and together:
                offers.append((device, offer["offer"]))
            elif offer is not None:
                await reports(fleet, [(device, offer["offer"])], fails)
        await reports(fleet, offers, fails)
        await clock.advance(61)
        await fleet.campaigns.tick()
        found = [item async for item in fleet.campaigns.records.iterate()]
        if all(item.state is not CampaignState.RUNNING and not item.aborting for item in found):
            return


async def reports(fleet, offers, fails):
    for last in (False, True):
        some = []
        for device, offer in offers:
            code = "x" if fails(device, offer) else None
            body = {
                "execution": offer["execution"],
                "state": "downloading" if not last else "failed" if code else "succeeded",
                "version": offer["version"],
                "code": code,
            }
            some.append((device, messages.FirmwareStatus(**body)))
        await fleet.updates.statuses(some)


async def told(fleet):
    executions = [item async for item in fleet.campaigns.executions.iterate()]
    campaigns = [item async for item in fleet.campaigns.records.iterate()]
    assert await differences(fleet.storage, (fleet.campaigns.executions,)) == {}
    assert all(item.state in EXECUTION_ENDS for item in executions)
    return {
        "campaigns": {item.id: item.state for item in campaigns},
        "ends": sorted((item.campaign, item.state) for item in executions),
        "attempts": sorted(item.attempt for item in executions),
    }


async def run(folder, rollout, fails, crash_at=None, *, together=False):
    """What came of it; with a crash before a commit, and a second process after it. Also how many commits there were."""
    clock, count = MovableClock(), 0
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
        await works(fleet, clock, rollout, fails, together)
    fleet.storage.commit = commit
    if crash_at is None:
        found = await told(fleet)
        await manager.close()
        return found, count
    await manager.close()
    async with IoTFleetManager(folder, clock=clock) as again:
        fleet = await again.open()
        await works(fleet, clock, rollout, fails, together)
        return await told(fleet), count


def once(device, offer):
    """The first attempt of a device fails."""
    return device == DEVICES[2] and offer["attempt"] == 1


def always(_device, offer):
    return offer["version"] == "2.0.0" and offer["execution"].endswith(("d-1", "d-2"))


@pytest.mark.parametrize(
    ("rollout", "fails", "together"),
    [(ROLLOUT, once, False), (STOPPING, always, False), (ROLLOUT, once, True)],
    ids=["waves", "rollback", "reports that come together"],
)
def test_a_crash_before_any_commit_changes_nothing_of_how_it_ends(tmp_path, rollout, fails, together):
    whole, commits = asyncio.run(run(tmp_path / "whole", rollout, fails, together=together))
    assert commits > 20

    for crash_at in range(6, commits, 3):
        found, _ = asyncio.run(run(tmp_path / str(crash_at), rollout, fails, crash_at, together=together))

        assert found == whole, f"before commit {crash_at}"


def test_the_scenarios_are_what_they_are_for(tmp_path):
    waves, _ = asyncio.run(run(tmp_path / "waves", ROLLOUT, once))
    back, _ = asyncio.run(run(tmp_path / "back", STOPPING, always))

    assert waves["campaigns"] == {"c": CampaignState.SUCCEEDED}
    assert waves["attempts"] == [1, 1, 1, 1, 2]
    assert back["campaigns"]["c"] is CampaignState.ROLLED_BACK
    assert back["campaigns"]["c-rollback"] is CampaignState.SUCCEEDED
    assert ("c", ExecutionState.FAILED) in back["ends"]
