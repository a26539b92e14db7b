"""A gated campaign that a crash cuts off before any of its commits ends as if nothing had happened."""

import asyncio
import contextlib

from fleetcore import IoTFleetManager
from fleetcore.errors import NotFound
from fleetcore.model.firmware import CampaignState, FirmwareImage
from fleetcore.model.gate import Verdict
from fleetcore.model.rollout import HealthGate, OnFailure, Rollout
from fleetcore.runtime.recount import differences
from fleetcore.testing.clock import MovableClock
from fleetcore.wire import messages

DEVICES = [f"d-{number}" for number in range(8)]
IMAGE = {"sha256": "ab" * 32, "size": 10}
BEFORE = FirmwareImage(release="1.0.0", url="https://example.com/1", sha256="cd" * 32, size=9)
GATE = HealthGate(window_ms=120_000, alpha=0.2, action=OnFailure.ROLL_BACK)
ROLLOUT = Rollout(waves=("3",), gate=GATE)


class Crash(Exception):
    """The process ends before a commit."""


async def works(fleet, clock):
    """Devices update and are then silent, until the campaign has ended; may be begun again at any point."""
    for device in DEVICES:
        if await fleet.devices.find(device) is None:
            await fleet.devices.register(device, "sensor")
    await hears(fleet)
    try:
        await fleet.campaigns.get("c")
    except NotFound:
        url = "https://example.com/2"
        await fleet.campaigns.create("c", "2.0.0", DEVICES, url, **IMAGE, rollout=ROLLOUT, rollback=BEFORE)
    for _ in range(30):
        for device in DEVICES:
            offer = await fleet.updates.offer(device)
            if offer is not None:
                body = {"execution": offer["offer"]["execution"], "version": offer["offer"]["version"]}
                await fleet.updates.status(device, messages.FirmwareStatus(state="succeeded", **body))
        await clock.advance(61)
        await hears(fleet)
        await fleet.campaigns.tick()
        found = [item async for item in fleet.campaigns.records.iterate()]
        if all(item.state is not CampaignState.RUNNING and not item.aborting for item in found):
            return


async def hears(fleet):
    """Every device is heard that does not run the new version."""
    for device in DEVICES:
        execution = await fleet.campaigns.execution("c", device)
        if execution is None or execution.observed is None:
            fleet.presence.opened(device)
            fleet.presence.closed(device)


async def told(fleet):
    assert await differences(fleet.storage, fleet.counted) == {}
    observed = await fleet.health_gates.records.find(ref=("campaign", "c"))
    return {
        "campaigns": {item.id: item.state async for item in fleet.campaigns.records.iterate()},
        "ends": sorted([(item.id, item.state) async for item in fleet.campaigns.executions.iterate()]),
        "observed": [(each.number, each.device, each.verdict, each.e_value) for each in observed],
        "reason": (await fleet.campaigns.get("c")).reason,
    }


async def run(folder, crash_at=None):
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
        await works(fleet, clock)
    fleet.storage.commit = commit
    if crash_at is None:
        found = await told(fleet)
        await manager.close()
        return found, count
    await manager.close()
    async with IoTFleetManager(folder, clock=clock) as again:
        fleet = await again.open()
        await works(fleet, clock)
        return await told(fleet), count


def test_a_crash_before_any_commit_changes_nothing_of_how_it_ends(tmp_path):
    whole, commits = asyncio.run(run(tmp_path / "whole"))
    assert whole["campaigns"] == {"c": CampaignState.ROLLED_BACK, "c-rollback": CampaignState.SUCCEEDED}
    assert [verdict for _, _, verdict, _ in whole["observed"]] == [Verdict.BAD] * 3
    assert commits > 20

    for crash_at in range(12, commits, 5):
        found, _ = asyncio.run(run(tmp_path / str(crash_at), crash_at))

        assert found == whole, f"before commit {crash_at}"
