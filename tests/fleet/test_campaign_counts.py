"""How a campaign counts: by the commits that change its executions, whatever way a device leaves it."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetcore import IoTFleetManager
from fleetcore.errors import Conflict, Refused
from fleetcore.model.device import Lifecycle
from fleetcore.model.firmware import EXECUTION_ENDS, PROGRESS_ORDER, CampaignState, ExecutionState
from fleetcore.model.store import Commit
from fleetcore.runtime.recount import differences, recount
from fleetcore.testing.clock import MovableClock
from fleetcore.wire import messages

IMAGE = {"sha256": "ab" * 32, "size": 10}
REPORTED = sorted(state.value for state in EXECUTION_ENDS - {ExecutionState.TIMED_OUT, ExecutionState.SKIPPED})


async def begun(fleet, *devices, campaign="c", release="2.0.0", **options):
    for device in devices:
        if await fleet.devices.find(device) is None:
            await fleet.devices.register(device, "sensor")
    return await fleet.campaigns.create(campaign, release, devices, "https://example.com/fw", **IMAGE, **options)


async def say(fleet, device, state, campaign="c"):
    await fleet.updates.offer(device)
    body = {"execution": f"{campaign}:{device}", "state": state, "version": "2.0.0"}
    return await fleet.updates.status(device, messages.FirmwareStatus(**body))


async def test_only_a_device_that_succeeded_is_updated(fleet):
    await begun(fleet, "a", "b")

    for device in ("a", "b"):
        await say(fleet, device, "cancelled")

    ended = await fleet.campaigns.get("c")
    assert (ended.state, ended.reason) == (CampaignState.FAILED, "0 of 2 devices updated: 2 cancelled")


@pytest.mark.parametrize("leave", ["retire", "erase"])
async def test_a_campaign_ends_when_its_last_open_device_leaves(fleet, leave):
    await begun(fleet, "a", "b")
    await say(fleet, "a", "succeeded")

    if leave == "retire":
        await fleet.lifecycles.move("b", Lifecycle.RETIRED)
    else:
        await fleet.erasing.erase("b")

    ended = await fleet.campaigns.get("c")
    assert ended.state is CampaignState.SUCCEEDED
    assert ended.reason == "1 of 2 devices updated: 1 cancelled"
    left = await fleet.campaigns.execution("c", "b")
    assert left is None if leave == "erase" else (left.state, left.code) == (ExecutionState.CANCELLED, "device_retired")


async def test_an_erased_device_is_in_no_count(fleet):
    await begun(fleet, "a", "b")
    await say(fleet, "a", "succeeded")
    await say(fleet, "b", "failed")

    await fleet.erasing.erase("b")

    assert (await fleet.campaigns.counts("c")).states == {"succeeded": 1}


async def test_an_older_version_goes_to_no_device_that_reports_a_newer_one(fleet):
    await fleet.devices.register("a", "sensor")
    await fleet.twins.report("a", {"firmware": {"version": "2.1.0"}})

    with pytest.raises(Refused, match=r"it runs 2\.1\.0") as refused:
        await begun(fleet, "a")
    await begun(fleet, "a", campaign="allowed", allow_downgrade=True)

    assert refused.value.code == "rollback_refused"
    assert await fleet.updates.offer("a") is not None


async def test_a_device_that_has_become_newer_since_is_not_offered_the_older_version(fleet):
    await begun(fleet, "a")
    await fleet.twins.report("a", {"firmware": {"version": "2.1.0"}})

    assert await fleet.updates.offer("a") is None

    left = await fleet.campaigns.execution("c", "a")
    assert (left.state, left.code) == (ExecutionState.REJECTED, "rollback_refused")
    assert (await fleet.campaigns.get("c")).state is CampaignState.FAILED


async def test_nothing_is_offered_from_the_first_commit_of_an_abort_on(fleet):
    await begun(fleet, "a", "b")
    await fleet.updates.offer("a")
    cancel_rest, fleet.campaigns._cancel_rest = fleet.campaigns._cancel_rest, lambda campaign: _same(campaign)

    await fleet.campaigns.abort("c")

    assert await fleet.updates.offer("a") is None
    assert await fleet.updates.offer("b") is None
    fleet.campaigns._cancel_rest = cancel_rest
    await fleet.campaigns.load()
    assert (await fleet.campaigns.counts("c")).states == {"cancelled": 2}


async def _same(campaign):
    return campaign


async def test_the_end_of_a_campaign_is_taken_up_after_a_crash_before_it(fleet):
    await begun(fleet, "a")
    fleet.updates.on_moved(_nothing)  # the process ends before the campaign is looked at
    await say(fleet, "a", "succeeded")
    fleet.updates.on_moved(fleet.campaigns.drive)
    assert (await fleet.campaigns.get("c")).state is CampaignState.RUNNING

    await fleet.campaigns.load()

    assert (await fleet.campaigns.get("c")).state is CampaignState.SUCCEEDED


async def test_a_device_that_is_erased_while_it_is_offered_something_gets_nothing(fleet, monkeypatch):
    await begun(fleet, "a")
    change = fleet.campaigns.executions.change

    async def after_the_erasure(*args):
        monkeypatch.setattr(fleet.campaigns.executions, "change", change)
        await fleet.erasing.erase("a")
        return await change(*args)

    monkeypatch.setattr(fleet.campaigns.executions, "change", after_the_erasure)

    assert await fleet.updates.offer("a") is None
    assert await fleet.updates.offer("a") is None
    assert (await fleet.campaigns.counts("c")).states == {}


async def test_a_campaign_that_is_aborted_while_it_is_offered_gives_way_to_the_next(fleet, monkeypatch):
    await begun(fleet, "a")
    await begun(fleet, "a", campaign="next")
    change = fleet.campaigns.executions.change

    async def after_the_abort(*args):
        monkeypatch.setattr(fleet.campaigns.executions, "change", change)
        await fleet.campaigns.abort("c")
        return await change(*args)

    monkeypatch.setattr(fleet.campaigns.executions, "change", after_the_abort)
    shown = await fleet.updates.offer("a")

    assert shown["offer"]["campaign"] == "next"
    assert (await fleet.campaigns.counts("c")).states == {"cancelled": 1}


async def drafted(fleet, *devices):
    for device in devices:
        await fleet.devices.register(device, "sensor")
    return await fleet.campaigns.create("c", "2.0.0", devices, "https://example.com/fw")


async def test_a_retired_device_is_in_no_new_campaign(fleet):
    await fleet.devices.register("a", "sensor")
    await fleet.lifecycles.move("a", Lifecycle.RETIRED)

    with pytest.raises(Conflict, match="retired"):
        await begun(fleet, "a")


async def test_a_device_that_is_retired_while_a_campaign_is_made_ends_its_part(fleet, monkeypatch):
    await fleet.devices.register("a", "sensor")
    commit = fleet.storage.commit

    async def after_the_retirement(change):
        if any(put.kind == "campaign" for put in change.puts):
            monkeypatch.setattr(fleet.storage, "commit", commit)
            await fleet.lifecycles.move("a", Lifecycle.RETIRED)
        return await commit(change)

    monkeypatch.setattr(fleet.storage, "commit", after_the_retirement)
    await begun(fleet, "a")

    assert (await fleet.campaigns.counts("c")).states == {"cancelled": 1}
    assert (await fleet.campaigns.get("c")).state is CampaignState.FAILED


async def test_a_draft_whose_devices_were_all_erased_makes_them_no_executions_anew(fleet):
    await drafted(fleet, "a", "b")
    for device in ("a", "b"):
        await fleet.erasing.erase(device)

    started = await fleet.campaigns.start("c", **IMAGE)

    assert (started.state, started.reason) == (CampaignState.FAILED, "0 of 2 devices updated: 2 erased")
    assert (await fleet.campaigns.counts("c")).states == {}


async def test_a_draft_that_is_aborted_while_it_is_started_stays_aborted(fleet, monkeypatch):
    await drafted(fleet, "a")
    commit = fleet.storage.commit

    async def after_the_abort(change):
        monkeypatch.setattr(fleet.storage, "commit", commit)
        await fleet.campaigns.abort("c")
        return await commit(change)

    monkeypatch.setattr(fleet.storage, "commit", after_the_abort)
    started = await fleet.campaigns.start("c", **IMAGE)

    assert started.state is CampaignState.ABORTED
    assert (await fleet.campaigns.counts("c")).states == {"cancelled": 1}


async def test_a_campaign_does_not_wait_for_an_erased_device_that_was_retired_without_it(fleet, monkeypatch):
    await begun(fleet, "a")
    monkeypatch.setattr(fleet.updates, "leave", _nothing)  # as releases before 0.2 retired
    await fleet.lifecycles.move("a", Lifecycle.RETIRED)
    monkeypatch.undo()
    assert (await fleet.campaigns.get("c")).state is CampaignState.RUNNING

    await fleet.erasing.erase("a")

    assert (await fleet.campaigns.get("c")).state is CampaignState.FAILED


async def _nothing(*_args, **_options):
    return None


async def test_a_wrong_counter_is_found_and_set_right(fleet):
    await begun(fleet, "a", "b")
    await fleet.storage.commit(Commit(add={("campaign/c", "waiting"): 3}))

    found = await recount(fleet.storage, fleet.counted)

    assert found == ["The counter campaign/c waiting was 5 and is now 2"]
    assert (await fleet.campaigns.counts("c")).states == {"waiting": 2}
    assert await recount(fleet.storage, fleet.counted) == []


STEPS = st.lists(
    st.tuples(st.sampled_from(["say", "offer", "retire", "erase", "abort"]), st.integers(0, 5), st.sampled_from(
        [*REPORTED, "accepted", "downloading", "installing"]
    )),
    max_size=25,
)  # fmt: skip


@settings(max_examples=40)
@given(STEPS)
def test_counts_are_conserved_in_any_order_of_steps(steps):
    async def act():
        async with IoTFleetManager(clock=MovableClock()) as manager:
            fleet = await manager.open()
            devices = [f"d-{number}" for number in range(6)]
            await begun(fleet, *devices)
            erased = set()
            for what, number, state in steps:
                device = devices[number]
                if what == "abort":
                    await fleet.campaigns.abort("c")
                elif device in erased:
                    continue
                elif what == "say":
                    await say(fleet, device, state)
                elif what == "offer":
                    await fleet.updates.offer(device)
                elif what == "retire":
                    await fleet.lifecycles.move(device, Lifecycle.RETIRED)
                else:
                    await fleet.erasing.erase(device)
                    erased.add(device)
                counts = (await fleet.campaigns.counts("c")).states
                assert await differences(fleet.storage, (fleet.campaigns.executions,)) == {}
                assert sum(counts.values()) == len(devices) - len(erased)
                campaign = await fleet.campaigns.get("c")
                running = any(ExecutionState(name) not in EXECUTION_ENDS for name in counts)
                if campaign.state is not CampaignState.ABORTED:
                    assert (campaign.state is CampaignState.RUNNING) is running
                else:
                    begun_at = PROGRESS_ORDER[ExecutionState.ACCEPTED]
                    assert all(PROGRESS_ORDER[ExecutionState(name)] >= begun_at for name in counts)

    asyncio.run(act())


@pytest.mark.parametrize("other", sorted(set(REPORTED) - {"succeeded"}))
async def test_an_execution_that_has_ended_has_no_other_end(fleet, other):
    await begun(fleet, "a", "b")
    await say(fleet, "a", "succeeded")

    refused = await say(fleet, "a", other)

    assert refused.code == "illegal_transition"
    assert (await fleet.campaigns.execution("c", "a")).state is ExecutionState.SUCCEEDED
