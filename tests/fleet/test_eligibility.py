"""When a device may install: windows, freezes, requirement, battery, sites, spread and consent. It waits, never fails."""

from datetime import UTC, datetime

import pytest

from fleetcore.errors import Conflict, NotFound, Refused
from fleetcore.model.days import DAY_MS, HOUR_MS
from fleetcore.model.device import Location
from fleetcore.model.eligibility import Eligibility
from fleetcore.model.firmware import CampaignState, ExecutionState
from fleetcore.model.message import Accepted
from fleetcore.model.rollout import Rate, Rollout, TimeLimits
from fleetcore.rollout.eligibility import AGAIN_MS, spread_of
from fleetcore.rollout.simulation import Behaviour
from fleetcore.wire import messages
from fleetcore.wire.times import format_time

IMAGE = {"sha256": "ab" * 32, "size": 10}
RELEASE = "2.0.0"
NIGHT = ("0 2 * * * 4h",)


async def registered(fleet, *names, **members):
    for name in names:
        await fleet.devices.register(name, "sensor", **members)


async def begun(fleet, *devices, campaign="c", rate=None, waves=(), place_ms=DAY_MS, priority=0, **eligibility):
    return await fleet.campaigns.create(
        campaign, RELEASE, devices, "https://example.com/fw", **IMAGE,
        rollout=Rollout(
            eligibility=Eligibility(**eligibility), rate=rate, waves=waves, limits=TimeLimits(place_ms=place_ms),
            priority=priority,
        ),
    )  # fmt: skip


async def offer(fleet, device):
    made = await fleet.updates.offer(device)
    return None if made is None else made["offer"]


async def say(fleet, device, state, campaign="c", **more):
    body = messages.FirmwareStatus(execution=f"{campaign}:{device}", state=state, version=RELEASE, **more)
    return await fleet.updates.status(device, body)


async def execution(fleet, device, campaign="c"):
    return await fleet.campaigns.execution(campaign, device)


async def at(fleet, clock, text):
    """The time is moved to a time of day of 2026, UTC, and the fleet does what is due."""
    wanted = round(datetime.fromisoformat(f"2026-{text}").replace(tzinfo=UTC).timestamp() * 1000)
    clock.jump(wanted - clock.now_ms())
    await fleet.campaigns.tick()


@pytest.fixture
async def noon(fleet, clock):
    """A spring day at noon, UTC."""
    await at(fleet, clock, "05-04T12:00")


@pytest.fixture
def told(fleet):
    """The devices that were told of an offer."""
    found = []
    fleet.updates.on_offer(found.append)
    return found


async def test_a_device_waits_for_its_window_and_is_told_when_it_opens(fleet, clock, noon, told):
    await registered(fleet, "a")
    await begun(fleet, "a", windows=NIGHT, zone="Europe/Berlin")

    assert await offer(fleet, "a") is None
    held = await execution(fleet, "a")
    assert (held.state, held.code, held.reason) == (
        ExecutionState.WAITING, "outside_window", "No window is open in Europe/Berlin",
    )  # fmt: skip
    assert format_time(held.until) == "2026-05-05T00:00:00.000Z"
    campaign = await fleet.campaigns.get("c")
    assert await fleet.updates.waits_for(campaign, held) == (
        "outside_window: No window is open in Europe/Berlin; judged again at 2026-05-05T00:00:00.000Z"
    )
    told.clear()
    await at(fleet, clock, "05-04T23:59")
    assert (told, await offer(fleet, "a")) == ([], None)
    await at(fleet, clock, "05-05T00:00:01")
    assert told == ["a"]
    made = await offer(fleet, "a")
    assert (made["install"], made["deadline"]) == ("now", "2026-05-05T04:00:00.000Z")
    assert (await execution(fleet, "a")).code is None


async def test_a_clock_that_jumps_over_a_window_lets_nobody_install_outside_one(fleet, clock, noon, told):
    """The clock was wrong, or the server slept: what is due is judged by the time that it is now."""
    await registered(fleet, "a", "b")
    await begun(fleet, "a", "b", windows=NIGHT, download_early=False)
    assert [await offer(fleet, name) for name in ("a", "b")] == [None, None]

    await at(fleet, clock, "05-05T07:00")  # the window was open meanwhile
    assert await offer(fleet, "a") is None
    held = await execution(fleet, "a")
    assert (held.code, format_time(held.until)) == ("outside_window", "2026-05-06T02:00:00.000Z")

    await at(fleet, clock, "05-05T03:00")  # and is again
    await at(fleet, clock, "05-06T02:00:01")
    made = await offer(fleet, "a")
    assert (made["install"], made["deadline"]) == ("now", "2026-05-06T06:00:00.000Z")

    await at(fleet, clock, "05-05T22:00")  # back before it: what has begun goes on, and nothing else begins
    assert isinstance(await say(fleet, "a", "succeeded"), Accepted)
    assert await offer(fleet, "b") is None
    await at(fleet, clock, "05-06T02:00:01")
    assert (await offer(fleet, "b"))["install"] == "now"
    assert isinstance(await say(fleet, "b", "succeeded"), Accepted)
    assert (await fleet.campaigns.get("c")).state is CampaignState.SUCCEEDED


async def test_the_window_of_each_device_is_in_its_own_time_zone(fleet, clock, noon):
    await registered(fleet, "berlin", attributes={"time_zone": "Europe/Berlin"})
    await registered(fleet, "tokyo")
    await fleet.twins.report("tokyo", {"time_zone": "Asia/Tokyo"})
    await registered(fleet, "nairobi", location=Location(lat=-1.29, lon=36.82))
    await registered(fleet, "nowhere", "wrong")
    await fleet.twins.report("wrong", {"time_zone": "../../etc/passwd"})
    devices = ("berlin", "tokyo", "nairobi", "nowhere", "wrong")
    await begun(fleet, *devices, windows=NIGHT)

    for device in devices:
        assert await offer(fleet, device) is None

    begin = {device: format_time((await execution(fleet, device)).until)[11:16] for device in devices}
    assert begin == {"berlin": "00:00", "tokyo": "17:00", "nairobi": "23:00", "nowhere": "02:00", "wrong": "02:00"}


async def test_a_wait_for_the_window_costs_no_place_in_the_wave(fleet, clock, noon):
    await registered(fleet, "a", "b")
    await begun(fleet, "a", "b", waves=("1",), windows=("0 2 * * sun 4h",), place_ms=HOUR_MS)
    first = [name for name in ("a", "b") if (await execution(fleet, name)).wave]
    assert await offer(fleet, first[0]) is None

    await at(fleet, clock, "05-10T01:00")
    assert (await execution(fleet, first[0])).wave == 1
    await at(fleet, clock, "05-10T02:30")
    assert (await offer(fleet, first[0]))["install"] == "now"


async def test_a_low_battery_costs_the_place_and_another_device_goes_first(fleet, clock, noon):
    await registered(fleet, "a", "b")
    await begun(fleet, "a", "b", waves=("1",), min_battery=50, place_ms=HOUR_MS)
    (first,) = [name for name in ("a", "b") if (await execution(fleet, name)).wave]
    await fleet.twins.report(first, {"power": {"battery": 20}})
    assert await offer(fleet, first) is None

    for _ in range(5):
        clock.jump(AGAIN_MS)
        await fleet.campaigns.tick()
        await offer(fleet, first)

    assert (await execution(fleet, first)).missed == 1
    (other,) = {"a", "b"} - {first}
    assert (await execution(fleet, other)).wave == 1


async def test_a_battery_is_judged_again_and_one_that_charges_may(fleet, clock, noon, told):
    await registered(fleet, "a", "mains")
    await begun(fleet, "a", "mains", min_battery=50)
    await fleet.twins.report("a", {"power": {"battery": 49.5, "charging": False}})

    assert (await offer(fleet, "mains"))["install"] == "now"
    assert await offer(fleet, "a") is None
    held = await execution(fleet, "a")
    assert (held.code, held.reason) == ("battery_low", "Its battery has 49.5 % and needs 50 %")
    await fleet.twins.report("a", {"power": {"charging": True}})
    told.clear()
    clock.jump(AGAIN_MS)
    await fleet.campaigns.tick()
    assert told == ["a"]
    assert (await offer(fleet, "a"))["install"] == "now"


async def test_a_requirement_is_judged_at_the_offer(fleet, clock, noon):
    await registered(fleet, "a")
    await begun(fleet, "a", requirement="tags has 'ready'")

    assert await offer(fleet, "a") is None
    assert (await execution(fleet, "a")).code == "requirement_unmet"
    await fleet.devices.change("a", tags={"ready"})
    clock.jump(AGAIN_MS)
    await fleet.campaigns.tick()
    assert (await offer(fleet, "a"))["install"] == "now"


async def test_a_freeze_holds_the_devices_that_it_selects_until_its_end(fleet, clock, noon, told):
    await registered(fleet, "a", tags={"shop"})
    await registered(fleet, "b")
    end = clock.now_ms() + 90 * 60_000
    await fleet.freezes.add("sale", end=end, where="tags has 'shop'", reason="summer sale", actor="ann")
    await begun(fleet, "a", "b")

    assert (await offer(fleet, "b"))["install"] == "now"
    assert await offer(fleet, "a") is None
    held = await execution(fleet, "a")
    assert (held.code, held.reason) == ("frozen", "The freeze 'sale' covers it: summer sale")
    clock.jump(1000 * 3600)
    await fleet.campaigns.tick()
    assert await offer(fleet, "a") is None
    clock.jump(1000 * 1801)
    await fleet.campaigns.tick()
    assert (await offer(fleet, "a"))["install"] == "now"


async def test_a_freeze_without_end_holds_until_it_is_removed(fleet, clock, noon):
    await registered(fleet, "a")
    await fleet.freezes.add("ever", reason="a court said so")
    await begun(fleet, "a")
    assert await offer(fleet, "a") is None
    clock.jump(1000 * 200 * 3600)
    await fleet.campaigns.tick()
    assert await offer(fleet, "a") is None

    await fleet.freezes.remove("ever")
    clock.jump(1000 * 3601)
    await fleet.campaigns.tick()
    assert (await offer(fleet, "a"))["install"] == "now"


async def test_freezes_that_cannot_be_are_refused(fleet, clock, noon):
    await fleet.freezes.add("a")
    for wrong in ({"end": clock.now_ms()}, {"begin": clock.now_ms() + 10, "end": clock.now_ms() + 5}, {"where": "a ="}):
        with pytest.raises(Refused):
            await fleet.freezes.add("b", **wrong)
    with pytest.raises(Conflict, match="exists already"):
        await fleet.freezes.add("a")
    with pytest.raises(NotFound):
        await fleet.freezes.remove("b")


async def test_an_emergency_overrides_windows_freezes_and_consent_but_no_battery(fleet, clock, noon):
    await registered(fleet, "a", "b")
    await fleet.freezes.add("ever")
    await begun(
        fleet, "a", "b", windows=NIGHT, spread_ms=HOUR_MS, consent=True, min_battery=30, emergency="CVE-2026-1234",
    )  # fmt: skip
    await fleet.twins.report("b", {"power": {"battery": 29}})

    assert (await offer(fleet, "a"))["install"] == "now"
    assert await offer(fleet, "b") is None
    assert (await execution(fleet, "b")).code == "battery_low"


async def test_a_site_has_so_many_devices_under_way_at_once(fleet, clock, noon, told):
    names = [f"a-{number}" for number in range(3)]
    await registered(fleet, *names, attributes={"site": "berlin"})
    await registered(fleet, "b-0", attributes={"site": "munich"})
    await begun(fleet, *names, "b-0", site_limit=1)

    made = [name for name in (*names, "b-0") if await offer(fleet, name)]
    assert made == ["a-0", "b-0"]
    await say(fleet, "a-0", "installing")
    told.clear()
    await fleet.campaigns.tick()
    assert set(told) == {"a-1", "a-2"}  # those that asked in vain
    assert await offer(fleet, "a-1") is None
    await say(fleet, "a-0", "succeeded")
    assert await offer(fleet, "a-2") is not None
    assert await offer(fleet, "a-1") is None


async def test_devices_begin_at_different_times_and_none_after_the_spread(fleet, clock, noon):
    names = [f"d-{number}" for number in range(20)]
    await registered(fleet, *names)
    wanted = Eligibility(windows=NIGHT, spread_ms=2 * HOUR_MS)
    await begun(fleet, *names, windows=NIGHT, spread_ms=2 * HOUR_MS)
    for name in names:
        assert await offer(fleet, name) is None

    begins = {name: (await execution(fleet, name)).until for name in names}
    opens = round(datetime(2026, 5, 5, 2, tzinfo=UTC).timestamp() * 1000)
    assert begins == {name: opens + spread_of(wanted, f"c:{name}") for name in names}
    assert len({begin // 600_000 for begin in begins.values()}) > 5
    await at(fleet, clock, "05-05T04:00")
    assert all([await offer(fleet, name) for name in names])


async def test_a_device_downloads_early_and_installs_in_its_window(fleet, clock, noon, told):
    await registered(fleet, "a")
    await begun(fleet, "a", windows=NIGHT, min_battery=30, download_early=True)
    await fleet.twins.report("a", {"power": {"battery": 80}})

    made = await offer(fleet, "a")
    assert (made["install"], made["not_before"]) == ("wait", "2026-05-05T02:00:00.000Z")
    for state in ("accepted", "downloading", "downloaded"):
        assert await say(fleet, "a", state) == Accepted()
    held = await execution(fleet, "a")
    assert (held.state, held.code, held.held) == (ExecutionState.DOWNLOADED, "outside_window", True)
    await fleet.twins.report("a", {"power": {"battery": 20}})
    told.clear()
    await at(fleet, clock, "05-05T02:00:01")
    assert told == ["a"]
    assert (await offer(fleet, "a"))["install"] == "wait"  # the battery is judged again before the installation
    assert (await execution(fleet, "a")).code == "battery_low"
    await fleet.twins.report("a", {"power": {"battery": 60}})
    clock.jump(AGAIN_MS)
    await fleet.campaigns.tick()
    assert (await offer(fleet, "a"))["install"] == "now"
    await say(fleet, "a", "installing")
    assert (await offer(fleet, "a"))["install"] == "now"
    await say(fleet, "a", "succeeded")
    assert (await fleet.campaigns.get("c")).state is CampaignState.SUCCEEDED


async def test_a_paused_campaign_lets_nothing_install_that_was_downloaded_early(fleet, clock, noon):
    await registered(fleet, "a")
    await begun(fleet, "a", windows=NIGHT, download_early=True)
    await offer(fleet, "a")
    await say(fleet, "a", "downloaded")
    await fleet.campaigns.pause("c")

    await at(fleet, clock, "05-05T02:01")

    assert (await offer(fleet, "a"))["install"] == "wait"
    assert (await execution(fleet, "a")).code == "campaign_paused"
    await fleet.campaigns.resume("c")
    await at(fleet, clock, "05-05T02:17")
    assert (await offer(fleet, "a"))["install"] == "now"


async def test_devices_that_run_the_version_already_are_no_canaries(fleet, noon):
    names = [f"d-{number}" for number in range(10)]
    await registered(fleet, *names)
    await begun(fleet, *names, waves=("2",))
    for name in names:
        if (await execution(fleet, name)).wave:
            await fleet.twins.report(name, {"firmware": {"version": RELEASE}})
            assert await offer(fleet, name) is None
    await fleet.campaigns.tick()

    canaries = [name for name in names if (found := await execution(fleet, name)).wave == 1 and found.code is None]
    assert (len(canaries), (await fleet.campaigns.get("c")).wave) == (2, 1)


async def test_a_wait_of_weeks_for_the_window_times_nothing_out(fleet, clock, noon):
    await registered(fleet, "a")
    await begun(fleet, "a", windows=("0 2 1 * * 4h",), download_early=True)
    await offer(fleet, "a")
    await say(fleet, "a", "downloaded")

    await at(fleet, clock, "05-20T12:00")
    assert (await execution(fleet, "a")).state is ExecutionState.DOWNLOADED
    await at(fleet, clock, "06-01T02:10")
    assert (await offer(fleet, "a"))["install"] == "now"


async def test_an_offer_that_was_not_taken_up_waits_once_the_window_has_closed(fleet, clock, noon):
    await registered(fleet, "a")
    await begun(fleet, "a", windows=("0 12 * * * 1h",))
    assert (await offer(fleet, "a"))["install"] == "now"

    clock.jump(1000 * 2 * 3600)
    made = await offer(fleet, "a")

    assert (made["install"], made["not_before"]) == ("wait", "2026-05-05T12:00:00.000Z")


async def test_a_user_agrees_and_the_device_is_told(fleet, clock, noon, told):
    await registered(fleet, "a")
    await begun(fleet, "a", consent=True)
    assert await offer(fleet, "a") is None
    campaign, waits = await fleet.campaigns.get("c"), await execution(fleet, "a")
    assert waits.code == "consent_missing"

    told.clear()
    agreed = await fleet.updates.consent(campaign, waits, actor="app")
    assert (told, agreed.consented) == (["a"], clock.now_ms())
    assert (await offer(fleet, "a"))["install"] == "now"
    again = await fleet.updates.consent(campaign, await execution(fleet, "a"), actor="app")
    assert again.consented == agreed.consented
    await say(fleet, "a", "succeeded")
    with pytest.raises(Conflict, match="is succeeded already"):
        await fleet.updates.consent(campaign, await execution(fleet, "a"))
    rows = await fleet.audit.page(object="c:a")
    assert [row.action for row in rows.items] == [
        "execution.held", "execution.consented", "execution.offered", "execution.succeeded",
    ]  # fmt: skip


async def test_a_device_may_be_deferred_up_to_the_limit_and_not_longer(fleet, clock, noon):
    await registered(fleet, "a")
    await begun(fleet, "a", max_deferral_ms=2 * DAY_MS)
    made = await offer(fleet, "a")
    latest = clock.now_ms() + 2 * DAY_MS
    assert made["defer_until"] == format_time(latest)

    refused = await say(fleet, "a", "deferred", until=latest + 1)
    assert (refused.code, refused.pointer) == ("too_late", "/until")
    assert await say(fleet, "a", "deferred", until=latest) == Accepted()
    assert (await execution(fleet, "a")).attempt == 1


async def test_a_device_that_runs_the_version_is_skipped(fleet, noon):
    await registered(fleet, "a", "b", "c")
    for name, digest in (("a", None), ("b", "ab" * 32), ("c", "cd" * 32)):
        more = {} if digest is None else {"sha256": digest}
        await fleet.twins.report(name, {"firmware": {"version": RELEASE, **more}})
    await begun(fleet, "a", "b", "c")

    made = {name: await offer(fleet, name) for name in ("a", "b", "c")}

    assert (made["a"], made["b"]) == (None, None)
    assert made["c"]["version"] == RELEASE  # another build
    assert [(await execution(fleet, name)).code for name in ("a", "b")] == ["same_version"] * 2
    await say(fleet, "c", "failed", code="internal")
    assert (await fleet.campaigns.get("c")).state is CampaignState.SUCCEEDED


async def test_another_campaign_goes_first_while_a_device_is_held(fleet, clock, noon):
    await registered(fleet, "a")
    await begun(fleet, "a", campaign="first", priority=5, windows=NIGHT)
    await fleet.campaigns.create("second", "2.1.0", ["a"], "https://example.com/fw", sha256="cd" * 32, size=10)

    assert (await offer(fleet, "a"))["campaign"] == "second"
    assert (await execution(fleet, "a", "first")).code == "outside_window"


async def test_an_emergency_comes_before_an_update_that_waits_with_its_image(fleet, clock, noon):
    await registered(fleet, "a")
    await begun(fleet, "a", windows=NIGHT, download_early=True)
    await offer(fleet, "a")
    await say(fleet, "a", "downloaded")
    await fleet.campaigns.create(
        "urgent", "3.0.0", ["a"], "https://example.com/fw", sha256="cd" * 32, size=10,
        rollout=Rollout(priority=1, eligibility=Eligibility(windows=NIGHT, emergency="CVE-2026-1234")),
    )  # fmt: skip

    made = await offer(fleet, "a")

    assert (made["version"], made["install"]) == ("3.0.0", "now")
    ended = await execution(fleet, "a")
    assert (ended.state, ended.code) == (ExecutionState.CANCELLED, "superseded")
    assert (await say(fleet, "a", "installing")).code == "illegal_transition"


async def test_an_update_that_waits_with_its_image_goes_on_while_a_later_campaign_has_no_priority(fleet, clock, noon):
    await registered(fleet, "a")
    await begun(fleet, "a", windows=NIGHT, download_early=True)
    await offer(fleet, "a")
    await say(fleet, "a", "downloaded")
    await fleet.campaigns.create("later", "3.0.0", ["a"], "https://example.com/fw", sha256="cd" * 32, size=10)

    assert (await offer(fleet, "a"))["campaign"] == "c"
    await at(fleet, clock, "05-05T02:01")
    assert (await offer(fleet, "a"))["install"] == "now"


async def test_devices_that_are_off_do_not_slow_a_rate_down(fleet, clock):
    names = [f"d-{number:03d}" for number in range(60)]
    await registered(fleet, *names)
    await begun(fleet, *names, rate=Rate(per_minute=10))
    off, made = set(names[::2]), set[str]()

    for _ in range(8):
        for name in set(names) - off - made:
            if (await execution(fleet, name)).wave and await offer(fleet, name):
                made.add(name)
        await clock.advance(61)
        await fleet.campaigns.tick()

    assert len(made) == 30


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"windows": ("at night",)}, "is not a window"),
        ({"zone": "Berlin"}, "is not a time zone"),
        ({"requirement": "tags is"}, "does not fit here"),
        ({"windows": ("0 2 * * * 1h",), "spread_ms": HOUR_MS}, "would miss the window"),
    ],
)
async def test_what_cannot_be_read_is_refused_when_the_campaign_is_made(fleet, wrong, said):
    await registered(fleet, "a")
    with pytest.raises(Refused, match=said):
        await begun(fleet, "a", **wrong)
    assert await fleet.campaigns.records.get("c") is None


async def test_a_plan_counts_windows_and_names_the_devices_that_are_held(fleet, clock, noon):
    await registered(fleet, "a", "b", attributes={"time_zone": "UTC"})
    await registered(fleet, "c", attributes={"time_zone": "Asia/Tokyo"})
    await registered(fleet, "frozen")
    await fleet.freezes.add("ever", where="id = 'frozen'")
    await begun(fleet, "a", "b", "c", "frozen", windows=NIGHT)

    plan = await fleet.plans.plan("c", Behaviour(fetch_s=1, install_s=60))

    assert plan.held == {"outside_window": 3, "frozen": 1}
    assert plan.held_devices["frozen"] == "frozen"
    course = plan.courses[0]
    assert course.counts == {ExecutionState.SUCCEEDED: 3, ExecutionState.TIMED_OUT: 1}
    # 02:00 in Tokyo is five hours from now, and 02:00 UTC fourteen.
    begins = [min(at for at, done, _ in course.points if done >= many) // HOUR_MS for many in (1, 3)]
    assert begins == [5, 14]
