"""What AWS and the network do wrong, and what becomes of it."""

import asyncio
import re

import pytest
from attrs import evolve
from fleetcore_aws.failures import from_answer
from fleetcore_aws.names import job_id
from fleetcore_aws.testing.operations import arn

from fleetcore.errors import ConfigError, CredentialsRejected, Unavailable
from fleetcore.interfaces.call_failed import SET_CLOCK
from fleetcore.interfaces.cloud import CloudUse, MirrorItem
from fleetcore.interfaces.pace import Pace
from fleetcore.model.mirror import EntityKey, GroupBody, JobBody
from fleetcore.model.telemetry import TelemetryBatch
from fleetcore.testing.clock import MovableClock
from fleetcore.testing.cloud_contract import START_MS, TwoDevices, registration, twin

REGISTRY = EntityKey("registry", "sensor-1")
TWIN = EntityKey("twin", "sensor-1")


async def states(cloud, *items):
    return [result.state for result in await cloud.apply(items)]


@pytest.mark.parametrize(
    ("action", "facet"),
    [
        ("iot:ListThings", "registry"),
        ("iot:ListNamedShadowsForThing", "twin"),
        ("iot:ListThingGroups", "group"),
        ("iot:ListJobs", "job"),
    ],
)
async def test_a_list_that_was_cut_is_a_failure_and_no_empty_list(cloud, front, action, facet):
    await cloud.apply([registration("sensor-1")])
    front.faults.only, front.faults.halved = (action,), 1

    with pytest.raises(Unavailable):
        [key async for key in cloud.entities(facet)]


@pytest.mark.parametrize("action", ["iot:DescribeThing", "iot:GetThingShadow"])
async def test_a_state_that_was_cut_is_a_failure_and_not_gone(cloud, front, action):
    await cloud.apply([registration("sensor-1")])
    await cloud.apply([twin("sensor-1", interval=1)])
    front.faults.only, front.faults.halved = (action,), 1

    with pytest.raises(Unavailable):
        await cloud.read([REGISTRY if action == "iot:DescribeThing" else TWIN])


async def test_a_write_whose_answer_was_cut_is_done_again(cloud, front):
    front.faults.only, front.faults.halved = ("iot:CreateThing",), 1

    first = await states(cloud, registration("sensor-1"), registration("sensor-2"))
    again = await states(cloud, registration("sensor-1"), registration("sensor-2"))

    assert sorted(first) == ["done", "failed"]
    assert again == ["done", "done"]


async def test_a_write_to_a_twin_whose_answer_was_lost_is_a_conflict_that_reading_settles(cloud, front):
    await cloud.apply([registration("sensor-1")])
    (known,) = await cloud.apply([twin("sensor-1", interval=1)])
    front.faults.only, front.faults.lost = ("iot:UpdateThingShadow",), 1
    with pytest.raises(Unavailable):
        await cloud.apply([twin("sensor-1", known.remote_version, interval=2)])

    again = await states(cloud, twin("sensor-1", known.remote_version, interval=2))
    newer = await states(cloud, twin("sensor-1", known.remote_version, interval=3))

    assert (again, newer) == (["done"], ["conflict"])


async def test_throttling_is_known_by_its_code_under_both_statuses(cloud, front, hub):
    cloud.pace = Pace({"iot:CreateThing": 100.0, "iot:GetThingShadow": 100.0}, MovableClock())
    front.faults.throttled, front.faults.retry_after_s = 1 << 30, 7.0

    results = await cloud.apply([registration("sensor-1"), twin("sensor-1", interval=1)])

    assert [(each.state, each.retry_after_s) for each in results] == [("throttled", 7.0)] * 2
    assert cloud.pace.throttled == {"iot:CreateThingType": 1, "iot:GetThingShadow": 1}


async def test_one_item_that_is_throttled_or_fails_harms_no_other(cloud, front):
    await cloud.apply([registration("sensor-0")])  # which makes the type
    for fault, state in (("throttled", "throttled"), ("errors", "failed"), ("lost", "failed")):
        front.faults.heal()
        front.faults.only = ("iot:CreateThing",)
        setattr(front.faults, fault, 1)

        found = await states(cloud, *(registration(f"{fault}-{number}") for number in range(4)))

        assert sorted(found) == sorted(["done"] * 3 + [state])


async def test_a_list_whose_pages_expire_half_way_begins_anew(cloud, front, monkeypatch):
    monkeypatch.setattr("fleetcore_aws.clients._PAGE", 2)
    await cloud.apply([registration(f"sensor-{number}") for number in range(5)])
    front.faults.only, front.faults.stale = ("iot:ListThings",), 2

    found = [key.id async for key in cloud.entities("registry")]

    assert (len(found), set(found)) == (9, {f"sensor-{number}" for number in range(5)})
    front.faults.stale = 3
    with pytest.raises(Unavailable, match="next token"):
        [key async for key in cloud.entities("registry")]


async def test_one_invalid_item_harms_no_other(cloud):
    too_long = MirrorItem(key=EntityKey("registry", "." * 64), body=registration("x").body)

    assert cloud.fit(too_long).item is None
    assert await states(cloud, too_long, registration("sensor-2")) == ["invalid", "done"]


def test_a_full_account_is_waited_for_and_does_not_slow_other_calls():
    failed = from_answer("iot:CreateJob", "LimitExceededException", "too many", 409, {}, 0.0)

    assert (failed.kind, failed.paced) == ("throttled", False)
    assert failed.retry_after_s >= 60


@pytest.mark.parametrize("refused", ["UnrecognizedClientException", "ExpiredTokenException", "AccessDeniedException"])
async def test_refused_credentials_say_which_action_to_allow(cloud, front, refused):
    front.faults.refused = refused

    with pytest.raises(CredentialsRejected) as failure:
        await cloud.apply([registration("sensor-1"), twin("sensor-1")])

    assert "iot:" in failure.value.remedy


async def test_credentials_that_were_renewed_in_their_file_are_used(opened, front, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    file = tmp_path / "credentials"
    file.write_text("[default]\naws_access_key_id = OLD\naws_secret_access_key = x\n")
    front.faults.key = "OLD"
    clock = MovableClock()
    async with opened(clock=clock) as cloud:
        assert await states(cloud, registration("sensor-1")) == ["done"]
        front.faults.key = "NEW"
        with pytest.raises(CredentialsRejected):
            await cloud.apply([registration("sensor-2")])
        file.write_text("[default]\naws_access_key_id = NEW\naws_secret_access_key = x\n")
        await clock.advance(60)

        assert await states(cloud, registration("sensor-2")) == ["done"]


async def test_no_credentials_at_all_are_rejected(opened, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    async with opened() as cloud:
        with pytest.raises(CredentialsRejected):
            await cloud.apply([registration("sensor-1")])


async def test_a_name_that_has_no_address_is_unavailable(opened):
    async with opened(endpoint="http://nowhere.invalid:1") as cloud:
        with pytest.raises(Unavailable):
            await cloud.apply([registration("sensor-1")])
        found = await cloud.check()

    assert "problem" in {each.state for each in found}


async def test_an_answer_that_does_not_come_is_unavailable(opened, front):
    front.faults.delay_s = 5.0
    async with opened(read_timeout_s=0.05) as cloud:
        with pytest.raises(Unavailable):
            await cloud.read([REGISTRY])


async def test_a_device_that_was_made_anew_by_another_one_is_left_alone(cloud, hub):
    (first,) = await cloud.apply([registration("sensor-1")])
    await hub.call("iot", "delete_thing", thingName="sensor-1")
    await hub.make_foreign(REGISTRY)

    later = registration("sensor-1", first.remote_version, evolve(registration("x").body, name="new"))
    assert await states(cloud, later) == ["foreign"]
    assert await states(cloud, MirrorItem(key=REGISTRY, body=None, remote_version=first.remote_version)) == ["foreign"]
    assert await cloud.read([REGISTRY]) == [None]


async def test_a_twin_that_was_made_anew_by_another_one_is_left_alone(cloud, hub):
    await cloud.apply([registration("sensor-1")])
    (first,) = await cloud.apply([twin("sensor-1", interval=1)])
    at = {"thingName": "sensor-1", "shadowName": "twin"}
    await hub.call("iot-data", "delete_thing_shadow", **at)
    await hub.call("iot-data", "update_thing_shadow", payload=b'{"state": {"desired": {"theirs": 1}}}', **at)

    assert await states(cloud, twin("sensor-1", first.remote_version, interval=2)) == ["foreign"]
    assert await states(cloud, MirrorItem(key=TWIN, body=None, remote_version=first.remote_version)) == ["foreign"]
    assert (await hub.twin("sensor-1"))[0] == {"desired": {"theirs": 1}}


async def test_no_twin_is_written_to_a_thing_of_another_one(cloud, hub):
    await hub.make_foreign(REGISTRY)

    assert await states(cloud, twin("sensor-1"), twin("sensor-2")) == ["foreign", "failed"]
    cloud.use = CloudUse(sends=frozenset({"twin"}))
    assert await states(cloud, twin("sensor-1")) == ["done"], "things that others make have twins of ours"


async def test_a_group_and_a_job_of_another_fleet_are_left_alone(opened, cloud):
    group = MirrorItem(key=EntityKey("group", "lab"), body=GroupBody(description="ours"))
    await cloud.apply([group])
    async with opened(fleet="other") as other:
        found = [*await states(other, evolve(group, body=GroupBody())), *await states(other, evolve(group, body=None))]
        read = await other.read([group.key])
        listed = [key async for key in other.entities("group")]

    assert (found, read, listed) == (["foreign", "foreign"], [None], [])


async def test_a_job_of_another_one_under_our_id_is_left_alone(cloud, hub):
    await cloud.apply([registration("sensor-1")])
    key, target = EntityKey("job", "c1:sensor-1"), arn("thing", "sensor-1")
    document = '{"fleetcore": {"fleet": "other", "id": "c1:sensor-1"}}'
    await hub.call("iot", "create_job", jobId=job_id("default", key.id), targets=[target], document=document)
    body = JobBody(device="sensor-1", campaign="c1", release="2", url="https://x.example", state="offered")

    assert await states(cloud, MirrorItem(key=key, body=body), MirrorItem(key=key, body=None)) == ["foreign"] * 2
    assert await cloud.read([key]) == [None]


def meanwhile(front, action, change):
    """Another writer changes the hub right after the next answer to an action."""
    back, changes = front.back, [change]

    async def answer(call):
        answered = await back(call)
        if call.action == action and changes:
            changes.pop()()
        return answered

    front.back = answer


async def test_a_thing_that_is_changed_between_reading_and_writing_is_a_conflict(cloud, front):
    (made,) = await cloud.apply([registration("sensor-1")])

    hub = front.back.hub

    def change():
        hub.things["sensor-1"].attributes["theirs"] = "1"
        hub.things["sensor-1"].version += 1

    meanwhile(front, "iot:DescribeThing", change)
    later = registration("sensor-1", made.remote_version, evolve(registration("x").body, tags=("new",)))
    assert await states(cloud, later) == ["conflict"]
    meanwhile(front, "iot:DescribeThing", change)
    (held,) = await cloud.read([REGISTRY])
    assert await states(cloud, MirrorItem(key=REGISTRY, body=None, remote_version=held.remote_version)) == ["conflict"]


async def test_a_twin_that_is_changed_between_reading_and_writing_is_a_conflict(cloud, front, hub):
    await cloud.apply([registration("sensor-1")])
    (made,) = await cloud.apply([twin("sensor-1", interval=1)])

    shadows = front.back.hub.shadows

    def change():
        shadow = shadows["sensor-1"]["twin"]
        shadow.state["desired"]["interval"] = 5
        shadow.version += 1

    meanwhile(front, "iot:GetThingShadow", change)

    assert await states(cloud, twin("sensor-1", made.remote_version, interval=2)) == ["conflict"]
    assert (await hub.twin("sensor-1"))[0]["desired"] == {"interval": 5}


async def test_a_group_that_is_changed_between_reading_and_writing_is_a_conflict(cloud, front):
    item = MirrorItem(key=EntityKey("group", "lab"), body=GroupBody())
    (made,) = await cloud.apply([item])

    held = front.back.hub.groups["lab"]

    def change():
        held.version += 1

    meanwhile(front, "iot:DescribeThingGroup", change)

    later = evolve(item, body=GroupBody(description="new"), remote_version=made.remote_version)
    assert await states(cloud, later) == ["conflict"]


async def test_a_cancelled_call_leaves_nothing_behind(opened, front):
    front.faults.delay_s = 0.2
    async with opened() as cloud:
        task = asyncio.create_task(cloud.apply([registration("sensor-1")]))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_readings_whose_answer_is_lost_are_sent_again(cloud, front):
    front.faults.lost = 1
    batch = TelemetryBatch.of([0, 2], range(START_MS, START_MS + 2), [1.0, 2.0])

    sent = await cloud.send(batch, TwoDevices())

    assert sent.taken == 1
    assert len(sent.rest) == 1


async def test_what_is_wrong_in_the_configuration_is_told_at_once(opened, monkeypatch):
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    for settings in (
        {"region": None},
        {"profile": "nobody"},
        {"endpoint": "not a url"},
        {"secret_access_key": "x"},
        {"thing_prefix": "a b"},
    ):
        with pytest.raises(ConfigError) as failure:
            async with opened(**settings):
                pass
        assert failure.value.remedy


async def test_the_endpoint_of_shadows_is_asked_for_and_a_cut_answer_is_no_endpoint(opened, front, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_IOT", front.endpoint)
    async with opened(endpoint=None) as cloud:
        front.faults.halved = 1
        with pytest.raises(Unavailable) as cut:
            await cloud.read([TWIN])
        with pytest.raises(Unavailable) as found:
            await cloud.read([TWIN])

    assert "endpointAddress" in str(cut.value)
    assert "counterpart.invalid" in str(found.value)
    assert front.calls == {"iot:DescribeEndpoint": 2}


async def test_a_read_that_is_throttled_is_made_again_and_fails_no_other(cloud, front, hub):
    names = [f"sensor-{number}" for number in range(5)]
    await cloud.apply([registration(name) for name in names])
    front.faults.only = ("iot:DescribeThing",)
    await hub.throttle()
    front.faults.throttled = 3

    found = await cloud.read([EntityKey("registry", name) for name in names])

    assert [each.key.id for each in found] == names
    assert front.faults.throttled == 0


@pytest.mark.parametrize("cut", ["cut_heads", "cut_bodies"])
async def test_a_request_that_was_cut_is_not_done_and_counts_as_one_whose_answer_was_lost(cloud, front, cut):
    await cloud.apply([registration("sensor-0")])  # which makes the type
    front.calls.clear()
    front.faults.only = ("iot:CreateThing",)
    setattr(front.faults, cut, 1)

    with pytest.raises(Unavailable):
        await cloud.apply([registration("sensor-1")])
    left = list(front.back.hub.things)
    again = await states(cloud, registration("sensor-1"))

    assert (left, again) == (["sensor-0"], ["done"])
    assert (getattr(front.faults, cut), front.calls) == (0, {"iot:CreateThing": 1})


async def test_a_request_without_a_body_is_cut_in_its_head_alone(cloud, front):
    front.faults.cut_bodies = 1
    assert await cloud.read([REGISTRY]) == [None]
    front.faults.cut_heads = 1
    with pytest.raises(Unavailable):
        await cloud.read([REGISTRY])

    assert (front.faults.cut_bodies, front.faults.cut_heads) == (1, 0)


@pytest.mark.parametrize("cut", ["cut_heads", "cut_bodies"])
async def test_a_change_that_was_cut_leaves_the_old_state_and_its_version(cloud, front, hub, cut):
    await cloud.apply([registration("sensor-1")])
    (known,) = await cloud.apply([twin("sensor-1", interval=1)])
    front.faults.only = ("iot:UpdateThingShadow",)
    setattr(front.faults, cut, 1)
    later = twin("sensor-1", known.remote_version, interval=2)
    with pytest.raises(Unavailable):
        await cloud.apply([later])
    state, version = await hub.twin("sensor-1")

    assert (state["desired"], str(version)) == ({"interval": 1}, known.remote_version)
    assert await states(cloud, later) == ["done"]


@pytest.mark.parametrize("skew_s", [7200.0, 400.0, -400.0, -7200.0])
async def test_another_time_at_aws_is_told_as_that_and_not_as_wrong_credentials(cloud, hub, skew_s):
    await hub.have_time(skew_s)

    with pytest.raises(Unavailable) as failure:
        await cloud.apply([registration("sensor-1"), twin("sensor-1")])
    (finding,) = await cloud.check()

    way = "behind" if skew_s > 0 else "ahead of"
    for said, remedy in ((str(failure.value), failure.value.remedy), (finding.detail, finding.remedy)):
        seconds = re.search(rf"the clock of this machine is (\d+) s {way} AWS's", said)
        assert abs(int(seconds[1]) - abs(skew_s)) < 60, said
        assert remedy == SET_CLOCK
    assert (finding.state, finding.what) == ("problem", "clock")


@pytest.mark.parametrize("skew_s", [240.0, -240.0])
async def test_a_small_difference_of_clocks_is_none(cloud, hub, skew_s):
    await hub.have_time(skew_s)

    assert await states(cloud, registration("sensor-1")) == ["done"]


async def test_a_clock_that_was_set_right_is_enough(cloud, hub):
    await hub.have_time(7200.0)
    with pytest.raises(Unavailable):
        await cloud.apply([registration("sensor-1")])
    await hub.heal()

    assert await states(cloud, registration("sensor-1")) == ["done"]


@pytest.mark.parametrize(
    ("code", "message", "headers", "said"),
    [
        ("RequestTimeTooSkewed", "", {}, "the clock of this machine differs from AWS's (RequestTimeTooSkewed)"),
        (
            "InvalidSignatureException",
            "Signature not yet current: … is still later than … (19700101T000000Z + 15 min.)",
            {},
            "7200 s ahead of AWS's",
        ),
        ("Forbidden", "", {"date": "Thu, 01 Jan 1970 04:00:00 GMT"}, "7200 s behind AWS's"),
    ],
)
def test_a_wrong_clock_is_known_whichever_way_a_service_tells_it(code, message, headers, said):
    failed = from_answer("iot:DescribeThing", code, message, 403, headers, 7200.0)

    assert failed.kind == "clock"
    assert said in failed.said
