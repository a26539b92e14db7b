"""Campaigns for a query: its devices when the campaign is made, or those that it selects as long as the campaign runs."""

import asyncio
import math

import pytest

from fleetcore import IoTFleetManager
from fleetcore.errors import Conflict, Refused
from fleetcore.fleet import targets
from fleetcore.model.firmware import CampaignState, ExecutionState
from fleetcore.model.rollout import Rate, Retries, Rollout, TimeLimits
from fleetcore.testing.clock import MovableClock
from fleetcore.wire import messages

IMAGE = {"sha256": "ab" * 32, "size": 10}
RELEASE = "2.0.0"


async def registered(fleet, count, *, tags=("field",), first=0):
    for number in range(first, first + count):
        await fleet.devices.register(f"d-{number:04d}", "sensor", tags=set(tags))


async def begun(fleet, where="tags has 'field'", *, campaign="c", continuous=False, hold=False, **rollout):
    return await fleet.campaigns.create(
        campaign, RELEASE, url="https://example.com/fw", where=where, continuous=continuous, hold=hold, **IMAGE,
        rollout=Rollout(**rollout),
    )  # fmt: skip


async def devices(fleet, campaign="c"):
    return {each.device: each async for each in fleet.campaigns.executions.iterate(ref=("campaign", campaign))}


async def say(fleet, device, state, **more):
    body = messages.FirmwareStatus(execution=f"c:{device}", state=state, version=RELEASE, **more)
    return await fleet.updates.status(device, body)


async def asked_again(fleet, clock):
    """The time after which a continuous campaign asks its query again, also if the fleet's own round does it."""
    await clock.advance(targets._FOLLOW_S + 1)
    following = fleet.campaigns._targets._next
    await followed(following)
    following.clear()
    await fleet.campaigns.tick()
    await followed(following)


async def followed(following):
    while math.inf in following.values():
        await asyncio.sleep(0)


async def test_a_query_selects_the_devices_when_the_campaign_is_made(fleet):
    await registered(fleet, 3)
    await registered(fleet, 1, tags=("lab",), first=3)
    await registered(fleet, 1, first=4)
    await fleet.devices.move("d-0004", "retired")

    made = await begun(fleet)
    await registered(fleet, 1, first=5)
    await fleet.campaigns.tick()

    assert (made.total, made.where, made.adding) == (3, "tags has 'field'", False)
    assert set(await devices(fleet)) == {"d-0000", "d-0001", "d-0002"}


async def test_many_devices_are_added_in_parts_and_each_gets_its_turn(fleet, monkeypatch):
    monkeypatch.setattr(targets, "_TOGETHER", 7)
    await registered(fleet, 50)

    made = await begun(fleet, waves=("10%",))

    assert (made.total, len(made.targets), len(await devices(fleet))) == (50, 50, 50)
    assert sum(each.wave == 1 for each in (await devices(fleet)).values()) == 5


@pytest.mark.parametrize("stops_after", [0, 1, 3])
def test_a_crash_while_devices_are_added_loses_none_and_adds_none_twice(tmp_path, monkeypatch, stops_after):
    monkeypatch.setattr(targets, "_TOGETHER", 4)

    class Crash(BaseException):
        pass

    async def broken():
        async with IoTFleetManager(tmp_path, clock=MovableClock()) as manager:
            fleet = await manager.open()
            await registered(fleet, 20)
            parts, add = [], fleet.updates.add

            async def some(*arguments):
                if len(parts) == stops_after:
                    raise Crash
                parts.append(await add(*arguments))

            monkeypatch.setattr(fleet.updates, "add", some)
            with pytest.raises(Crash):
                await begun(fleet)
            campaign = await fleet.campaigns.get("c")
            assert (campaign.adding, len(await devices(fleet))) == (True, 4 * stops_after)
            await fleet.campaigns.drive("c")  # a campaign without all its devices does not end
            assert (await fleet.campaigns.get("c")).state is CampaignState.RUNNING

    async def mended():
        async with IoTFleetManager(tmp_path, clock=MovableClock()) as manager:
            fleet = await manager.open()
            campaign = await fleet.campaigns.get("c")
            assert (campaign.adding, campaign.total) == (False, 20)
            assert (len(await devices(fleet)), (await fleet.campaigns.counts("c")).total) == (20, 20)

    asyncio.run(broken())
    asyncio.run(mended())


async def test_later_devices_join_a_continuous_campaign(fleet, clock):
    told = []
    fleet.updates.on_offer(told.append)
    await registered(fleet, 2)
    await begun(fleet, continuous=True)
    for device in ("d-0000", "d-0001"):
        assert await fleet.updates.offer(device) is not None
        await say(fleet, device, "succeeded")
    assert (await fleet.campaigns.get("c")).state is CampaignState.RUNNING  # more may come

    await registered(fleet, 1, first=7)
    told.clear()
    await asked_again(fleet, clock)

    assert told == ["d-0007"]
    assert (await fleet.updates.offer("d-0007"))["offer"]["version"] == RELEASE
    campaign = await fleet.campaigns.get("c")
    assert (campaign.total, campaign.targets) == (3, ("d-0000", "d-0001", "d-0007"))


async def test_late_devices_keep_to_waves_and_rate(fleet, clock):
    await registered(fleet, 4)
    await begun(fleet, continuous=True, waves=("2",), rate=Rate(per_minute=2))
    await registered(fleet, 300, first=10)
    await asked_again(fleet, clock)

    placed = [device for device, each in (await devices(fleet)).items() if each.wave]
    assert len(placed) == 2
    for device in placed:
        await fleet.updates.offer(device)
        await say(fleet, device, "succeeded")
    offered = []
    for _ in range(4):
        await asked_again(fleet, clock)
        for device, each in (await devices(fleet)).items():
            if each.state is ExecutionState.WAITING and each.wave and await fleet.updates.offer(device):
                offered.append(device)
    assert len(offered) == 8


async def test_a_device_that_leaves_the_query_is_cancelled_and_comes_back_with_its_attempts(fleet, clock):
    await registered(fleet, 3)
    await begun(fleet, continuous=True, retries=Retries(times=2, wait_ms=1000))
    for device in ("d-0000", "d-0001"):
        await fleet.updates.offer(device)
    await say(fleet, "d-0000", "failed", code="internal")
    await say(fleet, "d-0001", "downloading")
    for device in ("d-0000", "d-0001", "d-0002"):
        await fleet.devices.change(device, tags={"lab"})
    await asked_again(fleet, clock)

    left = await devices(fleet)
    assert {device: (each.state, each.code) for device, each in left.items()} == {
        "d-0000": (ExecutionState.CANCELLED, "left_targets"),
        "d-0001": (ExecutionState.DOWNLOADING, None),  # it has begun, and goes on
        "d-0002": (ExecutionState.CANCELLED, "left_targets"),
    }
    await fleet.devices.change("d-0000", tags={"field"})
    await asked_again(fleet, clock)
    back = (await devices(fleet))["d-0000"]
    assert (back.state, back.attempt) == (ExecutionState.WAITING, 2)
    await fleet.updates.offer("d-0000")
    await say(fleet, "d-0000", "failed", code="internal")
    assert (await devices(fleet))["d-0000"].attempt == 3
    await clock.advance(10)
    await fleet.campaigns.tick()
    await fleet.updates.offer("d-0000")
    await say(fleet, "d-0000", "failed", code="internal")
    assert (await devices(fleet))["d-0000"].state is ExecutionState.FAILED


async def test_a_continuous_campaign_ends_with_its_time(fleet, clock):
    await registered(fleet, 1)
    await begun(fleet, continuous=True, limits=TimeLimits(campaign_ms=10_000))
    await fleet.updates.offer("d-0000")
    await say(fleet, "d-0000", "succeeded")

    clock.jump(10_001)
    await fleet.campaigns.tick()

    assert (await fleet.campaigns.get("c")).state is CampaignState.SUCCEEDED


async def test_a_continuous_campaign_may_begin_without_devices(fleet, clock):
    assert (await begun(fleet, continuous=True)).total == 0
    await registered(fleet, 2)
    await asked_again(fleet, clock)
    assert set(await devices(fleet)) == {"d-0000", "d-0001"}


async def test_a_paused_campaign_takes_no_devices_until_it_goes_on(fleet, clock):
    await registered(fleet, 1)
    await begun(fleet, continuous=True, hold=True)
    await registered(fleet, 1, first=1)
    await asked_again(fleet, clock)
    assert set(await devices(fleet)) == {"d-0000"}
    await fleet.campaigns.resume("c")
    await asked_again(fleet, clock)
    assert set(await devices(fleet)) == {"d-0000", "d-0001"}


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({}, "devices or a query"),
        ({"devices": ["d-0000"], "where": "tags has 'field'"}, "devices or a query"),
        ({"devices": ["d-0000"], "continuous": True}, "needs a query"),
        ({"where": "tags has 'none'"}, "selects no device"),
        ({"where": "tags ="}, "Line 1"),
    ],
)
async def test_targets_that_cannot_be_are_refused(fleet, wanted, said):
    await registered(fleet, 1)
    with pytest.raises(Refused, match=said):
        await fleet.campaigns.create("c", RELEASE, url="https://example.com/fw", **IMAGE, **wanted)
    assert await fleet.campaigns.records.get("c") is None


async def test_a_version_names_one_image_for_the_models_of_a_query_too(fleet):
    await fleet.devices.register("a", "sensor", model="thermo")
    await begun(fleet, where="model = 'thermo'")
    with pytest.raises(Conflict, match="is the image"):
        await fleet.campaigns.create(
            "other", RELEASE, url="https://example.com/fw", where="model = 'thermo'", sha256="cd" * 32, size=10
        )
