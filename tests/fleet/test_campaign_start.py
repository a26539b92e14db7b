"""How a campaign comes to begin: at its time, with the approval of a second person, as a copy of another."""

import asyncio

import pytest

from fleetcore import IoTFleetManager
from fleetcore.errors import Conflict, NotAuthorised, Refused
from fleetcore.model.firmware import CampaignState, ExecutionState, FirmwareImage
from fleetcore.model.rollout import FailureLimit, OnFailure, Rate, Rollout
from fleetcore.testing.clock import MovableClock
from fleetcore.wire import messages

IMAGE = {"sha256": "ab" * 32, "size": 10}
RELEASE = "2.0.0"


async def begun(fleet, count=2, *, campaign="c", actor="library:ana", rollout=None, **more):
    names = [f"d-{number}" for number in range(count)]
    for name in names:
        if await fleet.devices.find(name) is None:
            await fleet.devices.register(name, "sensor")
    return await fleet.campaigns.create(
        campaign, RELEASE, names, "https://example.com/fw", **IMAGE, actor=actor, rollout=rollout or Rollout(), **more
    )


async def at(fleet, clock, milliseconds):
    clock.jump(milliseconds)
    await fleet.campaigns.tick()


@pytest.fixture
def told(fleet):
    found = []
    fleet.updates.on_offer(found.append)
    return found


async def test_a_scheduled_campaign_begins_at_its_time(fleet, clock, told):
    made = await begun(fleet, starts_at=clock.now_ms() + 60_000)
    assert made.state is CampaignState.SCHEDULED
    await at(fleet, clock, 59_999)
    assert (told, await fleet.updates.offer("d-0")) == ([], None)

    await at(fleet, clock, 1)

    assert (await fleet.campaigns.get("c")).state is CampaignState.RUNNING
    assert told == ["d-0", "d-1"]
    assert await fleet.updates.offer("d-0") is not None


async def test_a_time_that_is_over_is_now(fleet, clock):
    assert (await begun(fleet, starts_at=clock.now_ms() - 1)).state is CampaignState.RUNNING


async def test_the_time_of_a_campaign_begins_with_it(fleet, clock):
    made = await begun(fleet, starts_at=clock.now_ms() + 100 * 86_400_000)
    await at(fleet, clock, 100 * 86_400_000)
    assert (await fleet.campaigns.get("c")).state is CampaignState.RUNNING
    assert made.created < made.begins == made.starts_at
    await at(fleet, clock, 90 * 86_400_000)
    assert (await fleet.campaigns.get("c")).state is CampaignState.FAILED


def test_a_scheduled_campaign_begins_after_a_restart(tmp_path):
    clock = MovableClock()

    async def scheduled():
        async with IoTFleetManager(tmp_path, clock=clock) as manager:
            await begun(await manager.open(), starts_at=clock.now_ms() + 1000)

    async def later():
        async with IoTFleetManager(tmp_path, clock=clock) as manager:
            fleet = await manager.open()
            await at(fleet, clock, 1000)
            return (await fleet.campaigns.get("c")).state

    asyncio.run(scheduled())
    assert asyncio.run(later()) is CampaignState.RUNNING


async def test_a_second_person_approves(fleet, clock, told):
    made = await begun(fleet, approval=True)
    assert (made.state, made.by, await fleet.updates.offer("d-0")) == (
        CampaignState.AWAITING_APPROVAL, "library:ana", None,
    )  # fmt: skip

    for same in ("library:ana", "cli:ana", "ana"):
        with pytest.raises(NotAuthorised, match="ana made the campaign") as refused:
            await fleet.campaigns.approve("c", actor=same)
        assert refused.value.code == "second_person_required"
    approved = await fleet.campaigns.approve("c", actor="cli:ben", reason="looks good")

    assert (approved.state, approved.approved_by) == (CampaignState.RUNNING, "cli:ben")
    assert told == ["d-0", "d-1"]
    again = await fleet.campaigns.approve("c", actor="cem")
    assert again.approved_by == "cli:ben"
    rows = await fleet.audit.page(object="c")
    assert [(row.action, row.actor) for row in rows.items] == [
        ("campaign.awaiting_approval", "library:ana"), ("campaign.running", "cli:ben"),
    ]  # fmt: skip


async def test_approval_before_the_time_schedules_and_a_hold_holds_after_both(fleet, clock):
    await begun(fleet, approval=True, starts_at=clock.now_ms() + 1000, hold=True)
    assert (await fleet.campaigns.approve("c", actor="ben")).state is CampaignState.SCHEDULED
    await at(fleet, clock, 1000)
    held = await fleet.campaigns.get("c")
    assert (held.state, held.code) == (CampaignState.PAUSED, "held")
    assert (await fleet.campaigns.resume("c")).state is CampaignState.RUNNING


@pytest.mark.parametrize("state", [CampaignState.AWAITING_APPROVAL, CampaignState.SCHEDULED])
async def test_a_campaign_that_has_not_begun_can_be_aborted_and_not_resumed(fleet, clock, state):
    wanted = {"approval": True} if state is CampaignState.AWAITING_APPROVAL else {"starts_at": clock.now_ms() + 1000}
    assert (await begun(fleet, **wanted)).state is state
    for wrong in (fleet.campaigns.pause, fleet.campaigns.resume, fleet.campaigns.roll_back):
        with pytest.raises(Conflict):
            await wrong("c")
    assert (await fleet.campaigns.abort("c")).state is CampaignState.ABORTED
    await at(fleet, clock, 2000)
    assert (await fleet.campaigns.get("c")).state is CampaignState.ABORTED
    with pytest.raises(Conflict, match="is aborted and waits for no approval"):
        await fleet.campaigns.approve("c", actor="ben")


async def test_a_campaign_that_needs_no_approval_cannot_be_approved(fleet):
    await begun(fleet)
    with pytest.raises(Conflict, match="waits for no approval"):
        await fleet.campaigns.approve("c", actor="ben")


async def test_above_a_number_of_devices_a_second_person_is_needed(tmp_path):
    (tmp_path / "fleet.toml").write_text("[firmware]\napprove_above = 2\n")
    async with IoTFleetManager(tmp_path) as manager:
        fleet = await manager.open()
        assert (await begun(fleet, 2)).state is CampaignState.RUNNING
        assert (await begun(fleet, 3, campaign="large")).state is CampaignState.AWAITING_APPROVAL


async def test_a_copy_has_the_image_the_rollout_and_the_devices(fleet):
    rollout = Rollout(waves=("1",), failures=(FailureLimit(share=0.1, action=OnFailure.ROLL_BACK),))
    back = FirmwareImage(release="1.0.0", url="https://example.com/1", sha256="cd" * 32, size=9)
    first = await begun(fleet, 3, rollout=rollout, rollback=back)
    await fleet.campaigns.abort("c")

    copy = await fleet.campaigns.clone(first, "again", actor="ben")

    assert (copy.release, copy.sha256, copy.rollout, copy.rollback, copy.by) == (
        RELEASE, IMAGE["sha256"], rollout, back, "ben",
    )  # fmt: skip
    assert set(copy.targets) == {"d-0", "d-1", "d-2"}


async def test_a_copy_for_the_rest_leaves_out_the_devices_that_were_updated(fleet):
    first = await begun(fleet, 4)
    for device, state in (("d-0", "succeeded"), ("d-1", "failed")):
        await fleet.updates.offer(device)
        body = messages.FirmwareStatus(execution=f"c:{device}", state=state, version=RELEASE, code="internal")
        await fleet.updates.status(device, body)
    await fleet.devices.move("d-3", "retired")
    await fleet.campaigns.abort("c")

    copy = await fleet.campaigns.clone(first, "rest", failed=True)

    assert set(copy.targets) == {"d-1", "d-2"}
    assert (await fleet.campaigns.execution("rest", "d-1")).state is ExecutionState.WAITING
    await fleet.updates.leave("d-1", "x")
    await fleet.updates.leave("d-2", "x")
    for device in ("d-1", "d-2"):
        await fleet.devices.move(device, "retired")
    with pytest.raises(Refused, match="devices or a query"):
        await fleet.campaigns.clone(copy, "none", failed=True)


async def test_a_copy_asks_the_query_again(fleet):
    await fleet.devices.register("a", "sensor")
    first = await fleet.campaigns.create(
        "c", RELEASE, url="https://example.com/fw", where="type = 'sensor'", continuous=True, **IMAGE
    )
    await fleet.devices.register("b", "sensor")
    copy = await fleet.campaigns.clone(first, "again")
    assert (copy.where, copy.continuous, set(copy.targets)) == ("type = 'sensor'", True, {"a", "b"})


async def test_operators_who_act_at_once_leave_one_state(fleet):
    await begun(fleet, 3)
    actions = [fleet.campaigns.pause, fleet.campaigns.resume, fleet.campaigns.abort] * 4
    results = await asyncio.gather(
        *(action("c", actor=f"op-{n}") for n, action in enumerate(actions)), return_exceptions=True
    )
    assert all(not isinstance(result, BaseException) or isinstance(result, Conflict) for result in results)
    ended = await fleet.campaigns.get("c")
    assert (ended.state, (await fleet.campaigns.counts("c")).states) == (
        CampaignState.ABORTED, {ExecutionState.CANCELLED: 3},
    )  # fmt: skip


@pytest.mark.parametrize("ends", ["succeeded", "aborted"])
async def test_an_ended_campaign_leaves_nothing_in_memory(fleet, ends):
    await begun(fleet, 2, rollout=Rollout(waves=("1",), rate=Rate(per_minute=100)))
    for _ in range(2):
        for device in ("d-0", "d-1"):
            await fleet.updates.offer(device)
            if ends == "succeeded":
                body = messages.FirmwareStatus(execution=f"c:{device}", state="succeeded", version=RELEASE)
                await fleet.updates.status(device, body)
            await fleet.campaigns.tick()
    if ends == "aborted":
        await fleet.campaigns.abort("c", force=True)

    assert (await fleet.campaigns.get("c")).state == ends
    updates = fleet.updates
    assert not any((updates._paces, updates._places, updates._turns, updates._reminded, updates._kept_back))
