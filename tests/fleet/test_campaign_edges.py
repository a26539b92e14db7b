"""Campaigns where rules meet: holds with places, retries and consent; stops while devices are added; repeated approval."""

import asyncio

import pytest

from fleetcore.calls.caller import Caller
from fleetcore.calls.campaigns import abort_campaign, approve_campaign, clone_campaign, create_campaign, get_campaign
from fleetcore.errors import NotAuthorised, NotFound
from fleetcore.fleet import targets
from fleetcore.model.days import DAY_MS, HOUR_MS
from fleetcore.model.eligibility import Eligibility
from fleetcore.model.firmware import CampaignState, ExecutionState, FirmwareImage
from fleetcore.model.operator import Permission
from fleetcore.model.rollout import Rate, Retries, Rollout
from fleetcore.rollout.simulation import Behaviour
from fleetcore.wire import messages

IMAGE = {"url": "https://example.com/fw", "sha256": "ab" * 32, "size": 10}
RELEASE, BEFORE = "2.0.0", "1.0.0"


async def registered(fleet, *names, **members):
    for name in names:
        await fleet.devices.register(name, "sensor", **members)


async def begun(fleet, *devices, eligibility=None, campaign="c", **more):
    rollout = Rollout(eligibility=eligibility or Eligibility(), **more.pop("rollout", {}))
    return await fleet.campaigns.create(campaign, RELEASE, devices, **IMAGE, rollout=rollout, **more)


async def say(fleet, device, state, **more):
    body = messages.FirmwareStatus(execution=f"c:{device}", state=state, version=RELEASE, **more)
    await fleet.updates.status(device, body)


async def execution(fleet, device):
    return await fleet.campaigns.execution("c", device)


async def later(fleet, clock, milliseconds):
    clock.jump(milliseconds)
    await fleet.campaigns.tick()


async def asks_until_offered(fleet, clock, device, *, every_ms, times):
    """How often the device asked before it got the offer."""
    for number in range(times):
        if await fleet.updates.offer(device) is not None:
            return number
        await later(fleet, clock, every_ms)
    return None


@pytest.mark.parametrize("waves", [("1",), ()])
async def test_a_device_waits_once_for_its_share_of_the_spread(fleet, clock, waves):
    await registered(fleet, "a")
    retries = Retries(times=1, wait_ms=1000)
    await begun(
        fleet, "a", eligibility=Eligibility(spread_ms=48 * HOUR_MS), rollout={"waves": waves, "retries": retries}
    )
    asked = await asks_until_offered(fleet, clock, "a", every_ms=HOUR_MS, times=100)
    assert asked is not None
    assert asked <= 48

    await say(fleet, "a", "failed")

    asked = await asks_until_offered(fleet, clock, "a", every_ms=HOUR_MS, times=100)
    assert asked is not None
    assert asked <= 49
    assert (await execution(fleet, "a")).missed == 0


async def test_a_late_consent_leaves_a_device_with_the_image_its_time_to_install(fleet, clock):
    await registered(fleet, "a")
    await begun(fleet, "a", eligibility=Eligibility(consent=True, download_early=True))
    await fleet.updates.offer("a")
    await say(fleet, "a", "downloaded")
    clock.jump(DAY_MS - 1)

    await fleet.updates.consent(await fleet.campaigns.get("c"), await execution(fleet, "a"))
    await later(fleet, clock, HOUR_MS)

    assert (await execution(fleet, "a")).state is ExecutionState.DOWNLOADED
    assert (await fleet.updates.offer("a"))["offer"]["install"] == "now"


async def test_a_device_that_is_excluded_until_further_notice_holds_up_no_wave(fleet, clock):
    await registered(fleet, "a", "b")
    await begun(fleet, "a", "b", rollout={"waves": ("1",)})
    (first,) = [name for name in "ab" if (await execution(fleet, name)).wave]
    (other,) = {"a", "b"} - {first}
    await fleet.freezes.add("broken", where=f"id = '{first}'")

    for _ in range(26):
        assert await fleet.updates.offer(first) is None
        await later(fleet, clock, HOUR_MS + 1)

    assert (await fleet.updates.offer(other))["offer"]["execution"] == f"c:{other}"


async def test_a_device_that_was_offered_the_update_is_not_skipped(fleet, clock):
    await registered(fleet, "a")
    await fleet.twins.report("a", {"firmware": {"version": BEFORE}})
    retries = Retries(by_code={"health_failed": 1}, wait_ms=1000)
    await begun(fleet, "a", rollout={"retries": retries})
    await fleet.updates.offer("a")
    await say(fleet, "a", "rebooting")
    await fleet.twins.report("a", {"firmware": {"version": RELEASE}})
    await say(fleet, "a", "reverted", code="health_failed")

    await later(fleet, clock, 2000)

    assert (await fleet.updates.offer("a"))["offer"]["attempt"] == 2


async def test_a_rollback_has_the_devices_that_wait_after_an_attempt_without_an_end(fleet, clock):
    await registered(fleet, "a")
    back = FirmwareImage(release=BEFORE, url="https://example.com/old", sha256="ef" * 32, size=3)
    await begun(fleet, "a", rollback=back, rollout={"retries": Retries(times=1, wait_ms=DAY_MS)})
    await fleet.updates.offer("a")
    await say(fleet, "a", "installing")
    await later(fleet, clock, DAY_MS + 1)
    assert (await execution(fleet, "a")).state is ExecutionState.WAITING

    await fleet.campaigns.roll_back("c")

    assert (await fleet.updates.offer("a"))["offer"]["version"] == BEFORE


async def test_an_abort_cancels_devices_that_wait_with_the_image(fleet, clock):
    await registered(fleet, "a")
    await fleet.freezes.add("holidays", end=clock.now_ms() + DAY_MS)
    await begun(fleet, "a", eligibility=Eligibility(download_early=True))
    await fleet.updates.offer("a")
    await say(fleet, "a", "downloaded")

    await fleet.campaigns.abort("c")

    assert (await execution(fleet, "a")).state is ExecutionState.CANCELLED


async def test_a_repeated_approval_allows_no_more_offers(fleet, clock):
    names = [f"d-{number}" for number in range(6)]
    await registered(fleet, *names)
    await begun(fleet, *names, approval=True, actor="library:ana", rollout={"rate": Rate(per_minute=2)})
    await fleet.campaigns.approve("c", actor="library:bob")
    for _ in range(3):
        await clock.advance(61)
        await fleet.campaigns.tick()  # all get a place, and none asks

    offered = 0
    for name in names:
        await fleet.campaigns.approve("c", actor="library:bob")
        offered += await fleet.updates.offer(name) is not None

    assert offered == 2


async def test_the_time_of_a_campaign_begins_with_its_approval(fleet, clock):
    await registered(fleet, "a")
    await begun(fleet, "a", approval=True, actor="library:ana")
    await later(fleet, clock, 91 * DAY_MS)

    approved = await fleet.campaigns.approve("c", actor="library:bob")

    assert approved.state is CampaignState.RUNNING


async def test_a_continuous_campaign_needs_the_approval_of_large_ones(fleet, monkeypatch):
    monkeypatch.setattr(fleet.campaigns, "_approve_above", 5)
    await registered(fleet, "a")
    assert (await begun(fleet, where="type = 'sensor'", continuous=True)).state is CampaignState.AWAITING_APPROVAL
    assert (await begun(fleet, where="type = 'sensor'", campaign="once")).state is CampaignState.RUNNING


async def test_an_abort_while_devices_are_added_ends_all(fleet, monkeypatch):
    monkeypatch.setattr(targets, "_TOGETHER", 2)
    await registered(fleet, *(f"d-{number}" for number in range(6)))
    add = fleet.updates.add

    async def aborted(*values):
        await add(*values)
        await fleet.campaigns.abort("c")

    monkeypatch.setattr(fleet.updates, "add", aborted)

    await begun(fleet, where="type = 'sensor'")

    assert dict((await fleet.campaigns.counts("c")).states) == {ExecutionState.CANCELLED: 6}


async def test_no_device_joins_a_campaign_that_has_ended(fleet, monkeypatch):
    await registered(fleet, "a")
    await begun(fleet, where="type = 'sensor'", continuous=True)
    await registered(fleet, "b")
    join = fleet.updates.join

    async def aborted(*values):
        await fleet.campaigns.abort("c")
        await join(*values)

    monkeypatch.setattr(fleet.updates, "join", aborted)
    fleet.campaigns._targets._next.clear()
    await fleet.campaigns.tick()

    assert (await fleet.campaigns.get("c")).total == 1
    assert dict((await fleet.campaigns.counts("c")).states) == {ExecutionState.CANCELLED: 1}


async def test_a_freeze_that_is_added_while_they_are_read_is_in_force(fleet, monkeypatch):
    await fleet.freezes.add("first")
    fleet.freezes._known = None
    read, goes_on = asyncio.Event(), asyncio.Event()
    iterate = fleet.freezes.records.iterate

    async def slow():
        found = [freeze async for freeze in iterate()]
        read.set()
        await goes_on.wait()
        for freeze in found:
            yield freeze

    monkeypatch.setattr(fleet.freezes.records, "iterate", slow)
    reading = asyncio.create_task(fleet.freezes.all())
    await read.wait()
    monkeypatch.setattr(fleet.freezes, "all", lambda: asyncio.sleep(0, []))
    await fleet.freezes.add("second")
    goes_on.set()

    assert [freeze.id for freeze in await reading] == ["first", "second"]


@pytest.fixture
async def caller(fleet):
    """A caller who may deploy to the devices of the laboratory only, asking for the permission to write."""
    await fleet.operators.grant("bob", "deployer", scope="tags has 'lab'")
    token = (await fleet.operators.create_token("bob")).token
    made = Caller(fleet, await fleet.operators.authenticate(token))
    made.permission = Permission.CAMPAIGNS_WRITE
    return made


async def test_rights_on_some_devices_do_not_reach_campaigns_that_any_device_may_join(fleet, caller):
    await begun(fleet, where="tags has 'new'", continuous=True, approval=True, actor="library:ana")
    for call in (get_campaign, approve_campaign, abort_campaign):
        with pytest.raises(NotFound):
            await call(caller, "c")
    with pytest.raises(NotFound):
        await clone_campaign(caller, "c", "mine")

    await registered(fleet, "a", tags={"lab"})
    await begun(fleet, where="tags has 'lab'", continuous=True, campaign="lab")
    assert (await get_campaign(caller, "lab")).total == 1
    for call in (approve_campaign, abort_campaign):
        with pytest.raises(NotAuthorised):
            await call(caller, "lab")


async def test_a_copy_asks_its_query_only_for_callers_with_the_whole_fleet(fleet, caller):
    await registered(fleet, "a", tags={"lab"})
    await begun(fleet, where="type = 'sensor'")
    await registered(fleet, "z")

    with pytest.raises(NotAuthorised, match="for the whole fleet"):
        await clone_campaign(caller, "c", "mine")
    with pytest.raises(NotAuthorised, match="for the whole fleet"):
        await create_campaign(caller, "mine", RELEASE, where="type = 'sensor'", **IMAGE)

    copy = await clone_campaign(caller, "c", "mine", failed=True)
    assert (copy.total, copy.where) == (1, "")


@pytest.mark.parametrize("waves", [(), ("50%",)])
async def test_a_plan_has_the_devices_that_are_held_already(fleet, clock, waves):
    await registered(fleet, "a", "b")
    await begun(fleet, "a", "b", eligibility=Eligibility(windows=("0 2 * * * 4h",)), rollout={"waves": waves})
    for name in ("a", "b"):
        assert await fleet.updates.offer(name) is None

    (course, *_) = (await fleet.plans.plan("c", Behaviour())).courses

    assert (course.state, course.counts) == (CampaignState.SUCCEEDED, {ExecutionState.SUCCEEDED: 2})
    assert course.duration_ms < 2 * DAY_MS


async def test_a_plan_gives_the_place_of_an_excluded_device_to_another(fleet, clock):
    await registered(fleet, "a", "b")
    await begun(fleet, "a", "b", rollout={"waves": ("1",)})
    (first,) = [name for name in "ab" if (await execution(fleet, name)).wave]
    await fleet.freezes.add("broken", where=f"id = '{first}'")

    (course, *_) = (await fleet.plans.plan("c", Behaviour())).courses

    assert course.counts[ExecutionState.SUCCEEDED] == 1


async def test_a_campaign_that_was_interrupted_names_the_devices_that_it_has(fleet, monkeypatch):
    """Rights on a campaign are judged by the devices that it names."""
    await registered(fleet, "a", "b", tags={"field"})
    add = fleet.updates.add

    async def crash(*_values):
        raise ConnectionError

    monkeypatch.setattr(fleet.updates, "add", crash)
    with pytest.raises(ConnectionError):
        await begun(fleet, where="tags has 'field'")
    monkeypatch.setattr(fleet.updates, "add", add)
    await fleet.devices.change("a", tags=set())
    await registered(fleet, "z", tags={"field"})

    await fleet.campaigns.load()

    assert (await fleet.campaigns.get("c")).targets == ("b", "z")
