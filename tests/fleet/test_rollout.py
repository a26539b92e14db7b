"""A campaign in waves, at a rate, with limits: what the fleet does with the engine's decisions."""

import asyncio
from collections import Counter

import pytest

from fleetcore import IoTFleetManager
from fleetcore.errors import Conflict, Refused
from fleetcore.model.firmware import CampaignState, ExecutionState, FirmwareImage
from fleetcore.model.rollout import FailureLimit, OnFailure, Rate, Retries, Rollout, TimeLimits
from fleetcore.rollout.executions import Reported
from fleetcore.testing.clock import MovableClock
from fleetcore.wire import messages

IMAGE = {"sha256": "ab" * 32, "size": 10}
MIN = 60_000
RELEASE = "2.0.0"


async def begun(fleet, count, campaign="c", rollback=None, **rollout):
    names = [f"d-{number:03d}" for number in range(count)]
    for name in names:
        if await fleet.devices.find(name) is None:
            await fleet.devices.register(name, "sensor")
    url = "https://example.com/fw"
    return await fleet.campaigns.create(
        campaign, RELEASE, names, url, **IMAGE, rollout=Rollout(**rollout), rollback=rollback
    )


async def offered(fleet, campaign="c"):
    """The devices that have a place fetch their offers; the names of those that got one."""
    found = []
    async for execution in fleet.campaigns.executions.iterate(ref=("campaign", campaign)):
        if execution.state is ExecutionState.WAITING:
            made = await fleet.updates.offer(execution.device)
            if made is not None and made["offer"]["campaign"] == campaign:
                found.append(execution.device)
    return found


async def say(fleet, device, state, campaign="c", **more):
    body = messages.FirmwareStatus(execution=f"{campaign}:{device}", state=state, version=RELEASE, **more)
    return await fleet.updates.status(device, body)


async def passes(fleet, clock, seconds):
    """Time passes, and the fleet does what is due."""
    await clock.advance(seconds)
    await fleet.campaigns.tick()
    while fleet.campaigns._driven:
        await asyncio.sleep(0)


async def states(fleet, campaign="c"):
    return {state.value: count for state, count in (await fleet.campaigns.counts(campaign)).states.items()}


async def test_a_wave_begins_once_enough_of_the_one_before_have_succeeded(fleet):
    await begun(fleet, 20, waves=("2", "50%"), min_succeeded=0.5)

    first = await offered(fleet)
    assert len(first) == 2
    await say(fleet, first[0], "succeeded")
    second = await offered(fleet)

    assert len(second) == 10
    for device in second[:4]:
        await say(fleet, device, "succeeded")
    assert await offered(fleet) == []
    await say(fleet, second[4], "succeeded")
    assert len(await offered(fleet)) == 8
    assert (await fleet.campaigns.get("c")).wave == 3


async def test_a_wave_soaks_before_the_next(fleet, clock):
    await begun(fleet, 3, waves=("1",), wave_soak_ms=10 * MIN)
    await say(fleet, (await offered(fleet))[0], "succeeded")

    await passes(fleet, clock, 595)
    assert await offered(fleet) == []
    await passes(fleet, clock, 10)
    assert len(await offered(fleet)) == 2


async def test_a_wave_in_which_too_few_succeed_pauses_the_campaign_and_a_resume_accepts_it(fleet):
    await begun(fleet, 10, waves=("2",), min_succeeded=0.9)
    for device, state in zip(await offered(fleet), ("succeeded", "failed"), strict=True):
        await say(fleet, device, state)

    paused = await fleet.campaigns.get("c")
    assert (paused.state, paused.code) == (CampaignState.PAUSED, "wave_failed")
    assert paused.reason == "1 of 2 devices of wave 1 succeeded; 90 % have to"
    assert await offered(fleet) == []

    await fleet.campaigns.resume("c", actor="ann")
    assert len(await offered(fleet)) == 8


async def test_the_first_devices_are_others_in_another_campaign(fleet):
    seen = Counter()
    for number in range(6):
        await begun(fleet, 60, campaign=f"c-{number}", waves=("5",), priority=number)
        seen.update(await offered(fleet, f"c-{number}"))
        await fleet.campaigns.abort(f"c-{number}", force=True)

    assert len(seen) > 15


async def test_the_rate_is_exceeded_in_no_sliding_minute_not_even_by_late_devices(fleet, clock):
    await begun(fleet, 40, rate=Rate(per_minute=6))
    when = []
    for _ in range(60):
        got = await offered(fleet)
        when += [clock.monotonic_s()] * len(got)
        for device in got:
            await say(fleet, device, "succeeded")
        await passes(fleet, clock, 7)

    assert len(when) == 40
    assert all(sum(at <= other < at + 60 for other in when) <= 6 for at in when)


async def test_devices_that_only_wait_to_be_told_are_told_as_the_rate_allows(fleet, clock):
    told = []
    fleet.updates.on_offer(told.append)
    await begun(fleet, 9, rate=Rate(per_minute=3))
    got = set()
    for _ in range(12):
        for device in [*told]:
            if device not in got and await fleet.updates.offer(device) is not None:
                got.add(device)
        told.clear()
        await passes(fleet, clock, 20)

    assert len(got) == 9


async def test_the_rate_grows_with_success(fleet, clock):
    await begun(fleet, 200, rate=Rate(per_minute=4, factor=2.0, every=4, max_per_minute=16))
    made = []
    for _ in range(5):
        got = await offered(fleet)
        made.append(len(got))
        for device in got:
            await say(fleet, device, "succeeded")
        await passes(fleet, clock, 61)

    # 4 succeed: 8 a minute; 12: 32, which is more than the most.
    assert made == [4, 8, 16, 16, 16]


@pytest.mark.parametrize(("failed", "state"), [(2, "running"), (3, "paused")])
async def test_a_limit_is_exact_at_its_edge(fleet, failed, state):
    await begun(fleet, 20, failures=(FailureLimit(share=0.2, min_executed=10),))
    devices = await offered(fleet)
    for at, device in enumerate(devices[:10]):
        await say(fleet, device, "failed" if at < failed else "succeeded", code="x")

    assert (await fleet.campaigns.get("c")).state == state


async def test_a_limit_waits_for_its_fewest_devices_and_can_abort(fleet):
    limit = FailureLimit(share=0.0, min_executed=2, action=OnFailure.ABORT)
    await begun(fleet, 5, failures=(limit,))
    devices = await offered(fleet)
    await say(fleet, devices[0], "failed")
    assert (await fleet.campaigns.get("c")).state is CampaignState.RUNNING
    await say(fleet, devices[1], "downloading")
    await say(fleet, devices[2], "succeeded")

    ended = await fleet.campaigns.get("c")
    assert (ended.state, ended.code) == (CampaignState.ABORTED, "too_many_failures")
    assert await states(fleet) == {"failed": 1, "succeeded": 1, "downloading": 1, "cancelled": 2}


async def test_after_a_resume_only_later_failures_count(fleet):
    await begun(fleet, 20, failures=(FailureLimit(share=0.5),))
    devices = await offered(fleet)
    await say(fleet, devices[0], "failed")
    assert (await fleet.campaigns.get("c")).state is CampaignState.PAUSED

    await fleet.campaigns.resume("c")
    await say(fleet, devices[1], "succeeded")
    await say(fleet, devices[2], "failed")
    assert (await fleet.campaigns.get("c")).state is CampaignState.RUNNING
    await say(fleet, devices[3], "failed")

    assert (await fleet.campaigns.get("c")).reason == "2 of 3 devices failed; 50 % may"


async def test_unknown_devices_count_as_failures(fleet, clock):
    await begun(fleet, 3, failures=(FailureLimit(share=0.5),), limits=TimeLimits(return_ms=MIN))
    device = (await offered(fleet))[0]
    await say(fleet, device, "rebooting")

    await passes(fleet, clock, 62)

    assert await states(fleet) == {"unknown": 1, "offered": 2}
    assert (await fleet.campaigns.get("c")).code == "too_many_failures"


async def test_a_pause_makes_no_new_offers_and_lets_the_begun_go_on(fleet):
    await begun(fleet, 3)
    assert await fleet.updates.offer("d-000") is not None
    await say(fleet, "d-000", "downloading")

    await fleet.campaigns.pause("c", actor="ann", reason="it is Friday")

    assert await offered(fleet) == []
    assert (await fleet.updates.offer("d-000"))["offer"]["execution"] == "c:d-000"
    await say(fleet, "d-000", "succeeded")
    assert (await states(fleet))["succeeded"] == 1


async def test_a_resume_tells_the_devices_that_got_no_offer_meanwhile(fleet):
    told = []
    fleet.updates.on_offer(told.append)
    await begun(fleet, 3)
    await fleet.updates.offer("d-000")
    await say(fleet, "d-000", "downloading")
    await fleet.campaigns.pause("c")
    told.clear()

    await fleet.campaigns.resume("c")
    await asyncio.gather(*fleet.campaigns._tasks)

    assert told == ["d-001", "d-002"]


async def test_a_device_whose_update_ends_by_the_server_is_told_of_another_campaign(fleet):
    told = []
    await begun(fleet, 1, priority=1)
    await begun(fleet, 1, campaign="next")
    await fleet.updates.offer("d-000")
    fleet.updates.on_offer(told.append)

    await fleet.campaigns.abort("c")

    assert told == ["d-000"]
    assert (await fleet.updates.offer("d-000"))["offer"]["campaign"] == "next"


async def test_a_pause_and_a_resume_may_be_repeated_and_an_end_is_final(fleet):
    await begun(fleet, 1)
    for act, state in (("pause", "paused"), ("pause", "paused"), ("resume", "running"), ("resume", "running")):
        assert (await getattr(fleet.campaigns, act)("c")).state == state
    await fleet.campaigns.abort("c")
    with pytest.raises(Conflict, match="is aborted, not running"):
        await fleet.campaigns.pause("c")
    with pytest.raises(Conflict, match="is aborted, not paused"):
        await fleet.campaigns.resume("c")


async def test_pause_resume_and_abort_at_once_leave_one_state_and_every_device_in_one_count(fleet):
    for number in range(5):
        await begun(fleet, 6, campaign=f"c-{number}", waves=("2",))
        acts = [getattr(fleet.campaigns, act)(f"c-{number}") for act in ("pause", "resume", "abort", "pause", "resume")]

        await asyncio.gather(*acts, return_exceptions=True)

        assert (await fleet.campaigns.get(f"c-{number}")).state is CampaignState.ABORTED
        assert await states(fleet, f"c-{number}") == {"cancelled": 6}


async def test_devices_that_all_come_back_at_once_get_their_offers_again_and_nothing_moves(tmp_path):
    """After a cut, and a restart of the server: an offer is given again as it was, and a report counts once."""
    count = 500
    async with IoTFleetManager(tmp_path, clock=MovableClock(1_767_225_600_000)) as manager:
        fleet = await manager.open()
        campaign = await begun(fleet, count, waves=("50%",), retries=Retries(times=1))
        first = {
            name: made for name in campaign.targets if (made := await fleet.updates.offer(name)) is not None
        }  # fmt: skip
        await asyncio.gather(*(say(fleet, name, "downloading", progress=40) for name in first))
        before = await states(fleet)
    async with IoTFleetManager(tmp_path, clock=MovableClock(1_767_225_600_000 + MIN)) as manager:
        fleet = await manager.open()

        again = await asyncio.gather(*(fleet.updates.offer(name) for name in campaign.targets))

        assert {made["offer"]["execution"]: made for made in again if made} == {
            made["offer"]["execution"]: made for made in first.values()
        }
        assert await states(fleet) == before == {"downloading": count // 2, "waiting": count // 2}
        await asyncio.gather(*(say(fleet, name, "succeeded") for name in (*first, *first)))
        counts = await states(fleet)
        assert counts["succeeded"] == count // 2
        assert sum(counts.values()) == count


async def test_an_abort_by_force_cancels_what_is_under_way_and_tells_the_devices(fleet):
    told = []
    fleet.updates.on_withdrawn(lambda device, execution: told.append((device, execution)))
    await begun(fleet, 3)
    await fleet.updates.offer("d-000")
    await say(fleet, "d-000", "installing")

    await fleet.campaigns.abort("c")
    assert await states(fleet) == {"installing": 1, "cancelled": 2}
    await fleet.campaigns.abort("c", force=True)

    assert await states(fleet) == {"cancelled": 3}
    assert told == [("d-000", "c:d-000")]
    assert (await fleet.updates._firmware("d-000", 0)) == {"offer": None, "cancel": "c:d-000"}


async def test_a_report_that_an_abort_overtakes_leaves_no_execution_open(fleet):
    """The report was begun before the abort, and is stored after it: nothing more is offered."""
    await begun(fleet, 1, retries=Retries(times=3))
    await fleet.updates.offer("d-000")
    await say(fleet, "d-000", "installing")
    before = await fleet.campaigns.get("c")
    await fleet.campaigns.abort("c")

    execution = await fleet.campaigns.execution("c", "d-000")
    await fleet.updates.move(before, execution, Reported(state=ExecutionState.FAILED, code="flash_failed"))

    assert await states(fleet) == {"cancelled": 1}


async def test_an_update_that_fails_after_the_abort_is_not_tried_again(fleet):
    await begun(fleet, 1, retries=Retries(times=3))
    await fleet.updates.offer("d-000")
    await say(fleet, "d-000", "installing")
    await fleet.campaigns.abort("c")

    await say(fleet, "d-000", "failed", code="flash_failed")

    assert await states(fleet) == {"failed": 1}


async def test_of_two_campaigns_the_higher_priority_comes_first_but_what_has_begun_goes_on(fleet):
    await begun(fleet, 2, campaign="old")
    await begun(fleet, 2, campaign="urgent", priority=5)

    assert (await fleet.updates.offer("d-000"))["offer"]["campaign"] == "urgent"
    await say(fleet, "d-000", "downloading", campaign="urgent")
    await begun(fleet, 2, campaign="more-urgent", priority=9)

    assert (await fleet.updates.offer("d-000"))["offer"]["campaign"] == "urgent"
    assert (await fleet.updates.offer("d-001"))["offer"]["campaign"] == "more-urgent"


async def test_a_failed_device_is_offered_again_after_its_wait(fleet, clock):
    await begun(fleet, 1, retries=Retries(times=1, wait_ms=5 * MIN))
    await fleet.updates.offer("d-000")
    await say(fleet, "d-000", "failed", code="download_failed")

    await passes(fleet, clock, 290)
    assert await offered(fleet) == []
    await passes(fleet, clock, 12)
    again = await fleet.updates.offer("d-000")

    assert (again["offer"]["attempt"], again["offer"]["execution"]) == (2, "c:d-000")
    await say(fleet, "d-000", "succeeded")
    assert (await fleet.campaigns.get("c")).state is CampaignState.SUCCEEDED


async def test_a_place_that_is_not_taken_up_goes_to_another_device(fleet, clock):
    await begun(fleet, 3, waves=("1",), limits=TimeLimits(place_ms=5 * MIN))
    first = [each.device async for each in fleet.campaigns.executions.iterate(ref=("campaign", "c")) if each.wave]

    await passes(fleet, clock, 302)
    second = [each.device async for each in fleet.campaigns.executions.iterate(ref=("campaign", "c")) if each.wave]

    assert len(first) == len(second) == 1
    assert first != second


async def test_a_campaign_ends_although_devices_never_come(fleet, clock):
    await begun(fleet, 4, waves=("1",), limits=TimeLimits(campaign_ms=60 * MIN, place_ms=120 * MIN))
    await say(fleet, (await offered(fleet))[0], "succeeded")
    await say(fleet, (await offered(fleet))[0], "succeeded")
    await passes(fleet, clock, 3590)
    assert (await fleet.campaigns.get("c")).state is CampaignState.RUNNING

    await passes(fleet, clock, 15)

    # Those that have an offer go on.
    assert await states(fleet) == {"succeeded": 2, "offered": 2}


async def test_a_campaign_whose_devices_never_come_fails_in_the_end(fleet, clock):
    await begun(fleet, 2, limits=TimeLimits(campaign_ms=60 * MIN))

    await passes(fleet, clock, 3605)

    ended = await fleet.campaigns.get("c")
    assert (ended.state, ended.reason) == (CampaignState.FAILED, "0 of 2 devices updated: 2 timed_out")


async def test_a_device_that_reports_its_old_version_again_has_reverted(fleet):
    await fleet.devices.register("d-000", "sensor")
    await fleet.twins.report("d-000", {"firmware": {"version": "1.0.0"}})
    await begun(fleet, 2)
    await fleet.updates.offer("d-000")
    await say(fleet, "d-000", "succeeded")
    await fleet.twins.report("d-000", {"firmware": {"version": RELEASE}})
    assert (await states(fleet))["succeeded"] == 1

    await fleet.twins.report("d-000", {"firmware": {"version": "1.0.0"}})

    execution = await fleet.campaigns.execution("c", "d-000")
    assert (execution.state, execution.reason) == (
        ExecutionState.REVERTED, "It went back to 1.0.0 after it had succeeded",
    )  # fmt: skip


BEFORE = FirmwareImage(release="1.0.0", url="https://example.com/1", sha256="cd" * 32, size=9)


async def running(fleet, count, **options):
    """Devices that run 1.0.0 and were all offered 2.0.0."""
    for number in range(count):
        await fleet.devices.register(f"d-{number:03d}", "sensor")
        await fleet.twins.report(f"d-{number:03d}", {"firmware": {"version": "1.0.0"}})
    await begun(fleet, count, rollback=BEFORE, **options)
    return await offered(fleet)


async def test_a_rollback_reaches_every_device_that_has_or_may_have_the_new_version(fleet):
    devices = await running(fleet, 6)
    told = ("succeeded", "installing", "rebooting", "downloaded", "failed", "accepted")
    for device, state in zip(devices, told, strict=True):
        await say(fleet, device, state)
    await fleet.twins.report(devices[0], {"firmware": {"version": RELEASE}})

    back = await fleet.campaigns.roll_back("c", actor="ann", reason="it costs battery")

    assert (back.state, await states(fleet)) == (
        CampaignState.ROLLED_BACK, {"succeeded": 1, "installing": 1, "rebooting": 1, "cancelled": 2, "failed": 1},
    )  # fmt: skip
    made = await fleet.campaigns.get("c-rollback")
    assert (made.release, made.sha256, set(made.targets)) == ("1.0.0", "cd" * 32, set(devices[:3]))
    assert (await fleet.updates.offer(devices[0]))["offer"]["version"] == "1.0.0"
    # What installs ends first.
    assert (await fleet.updates.offer(devices[1]))["offer"]["version"] == RELEASE
    await say(fleet, devices[1], "succeeded")
    assert (await fleet.updates.offer(devices[1]))["offer"]["version"] == "1.0.0"


async def test_a_device_that_was_rolled_back_is_not_counted_as_reverted_by_itself(fleet):
    (device,) = await running(fleet, 1)
    await say(fleet, device, "succeeded")
    await fleet.twins.report(device, {"firmware": {"version": RELEASE}})
    await fleet.campaigns.roll_back("c")
    await fleet.updates.offer(device)
    body = messages.FirmwareStatus(execution=f"c-rollback:{device}", state="rebooting", version="1.0.0")
    await fleet.updates.status(device, body)

    await fleet.twins.report(device, {"firmware": {"version": "1.0.0"}})

    assert await states(fleet) == {"succeeded": 1}
    await fleet.updates.status(device, messages.FirmwareStatus(
        execution=f"c-rollback:{device}", state="succeeded", version="1.0.0",
    ))  # fmt: skip
    assert (await fleet.campaigns.get("c-rollback")).state is CampaignState.SUCCEEDED


async def test_a_campaign_rolls_back_by_itself_once_too_many_fail(fleet):
    limit = FailureLimit(share=0.5, min_executed=2, action=OnFailure.ROLL_BACK)
    devices = await running(fleet, 4, failures=(limit,))
    for device, state in zip(devices[:3], ("succeeded", "failed", "failed"), strict=True):
        await say(fleet, device, state)

    assert (await fleet.campaigns.get("c")).state is CampaignState.ROLLED_BACK
    assert (await fleet.campaigns.get("c-rollback")).targets == (devices[0],)


async def test_a_rollback_that_a_crash_cut_off_is_completed(fleet, monkeypatch):
    devices = await running(fleet, 2)
    await say(fleet, devices[0], "succeeded")
    monkeypatch.setattr(fleet.campaigns, "_cancel_rest", _same)
    await fleet.campaigns.roll_back("c")
    monkeypatch.undo()
    assert await fleet.campaigns.records.get("c-rollback") is None

    await fleet.campaigns.load()
    await fleet.campaigns.load()

    assert (await fleet.campaigns.get("c-rollback")).targets == (devices[0],)
    assert not (await fleet.campaigns.get("c")).aborting


async def _same(campaign):
    return campaign


async def test_without_a_version_to_go_back_to_nothing_is_rolled_back(fleet):
    await begun(fleet, 1)
    with pytest.raises(Conflict, match="has no version to roll back to"):
        await fleet.campaigns.roll_back("c")
    with pytest.raises(Refused, match="needs a version to roll back to"):
        await begun(fleet, 1, campaign="d", failures=(FailureLimit(share=0.1, action=OnFailure.ROLL_BACK),))


async def test_a_wave_has_to_be_one(fleet):
    with pytest.raises(Refused, match="is not a wave"):
        await begun(fleet, 1, waves=("0%",))


def test_a_campaign_goes_on_where_it_was_after_a_restart(tmp_path):
    async def act():
        clock = MovableClock()
        seen = []
        for _ in range(4):
            async with IoTFleetManager(tmp_path, clock=clock) as manager:
                fleet = await manager.open()
                if not seen:
                    await begun(fleet, 9, waves=("1", "2", "3"))
                got = await offered(fleet)
                seen.append(len(got))
                for device in got:
                    await say(fleet, device, "succeeded")
        async with IoTFleetManager(tmp_path, clock=clock) as manager:
            fleet = await manager.open()
            return seen, (await fleet.campaigns.get("c")).state

    assert asyncio.run(act()) == ([1, 2, 3, 3], CampaignState.SUCCEEDED)


def test_after_a_restart_the_rate_counts_the_offers_before_it(tmp_path):
    async def act():
        clock = MovableClock()
        counts = []
        async with IoTFleetManager(tmp_path, clock=clock) as manager:
            fleet = await manager.open()
            await begun(fleet, 9, rate=Rate(per_minute=3))
            counts.append(len(await offered(fleet)))
        async with IoTFleetManager(tmp_path, clock=clock) as manager:
            fleet = await manager.open()
            counts.append(len(await offered(fleet)))
            await passes(fleet, clock, 61)
            counts.append(len(await offered(fleet)))
        return counts

    assert asyncio.run(act()) == [3, 0, 3]


async def test_why_says_what_a_device_waits_for_and_what_was_decided(manager, fleet, clock):
    await begun(fleet, 3, waves=("1",), retries=Retries(times=1, wait_ms=5 * MIN))
    (first,) = await offered(fleet)
    other = next(f"d-{number:03d}" for number in range(3) if f"d-{number:03d}" != first)

    assert (await manager.why_execution("c", other))["waits_for"] == "a place: wave 1 is under way"
    assert (await manager.why_execution("c", first))["waits_for"].startswith("the device, which is offered, until ")
    await say(fleet, first, "failed", code="download_failed", reason="404")
    assert (await manager.why_execution("c", first))["waits_for"].startswith("its next attempt at ")
    await fleet.campaigns.pause("c", reason="it is Friday")
    assert (await manager.why_execution("c", other))["waits_for"] == "the campaign, which is paused"
    await manager.wait_idle()

    why = await manager.why_execution("c", first)

    told = [(each["state"], each["reason"], each["by"]) for each in why["decisions"]]
    assert told == [
        ("placed", "", "system"),
        ("offered", "", "system"),
        ("waiting", "download_failed: 404", first),
    ]
