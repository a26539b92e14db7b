"""What a mirror's states are at the hub, and what they cost in calls."""

import json

import pytest
from attrs import evolve

from fleetcore.interfaces.cloud import CloudUse, MirrorItem
from fleetcore.model.mirror import EntityKey, GroupBody, JobBody, RegistryBody, TwinBody
from fleetcore.testing.cloud_contract import registration, twin

PLAIN = RegistryBody(type="sensor", lifecycle="active", tags=("outdoor",), attributes={"site": "north"})
JOB = JobBody(
    device="sensor-1", campaign="c.1", release="2.0", url="https://x.example/fw", state="offered", sha256="ab", size=7
)
JOB_KEY = EntityKey("job", "c.1:sensor-1")
TWIN = EntityKey("twin", "sensor-1")


async def applied(cloud, item):
    (result,) = await cloud.apply([item])
    assert result.state == "done", result
    return evolve(item, remote_version=result.remote_version)


async def held(cloud, item):
    (read,) = await cloud.read([item.key])
    return None if read is None else read.body


async def test_a_hundred_devices_with_their_tags_are_made_in_one_call_and_removed_in_another(cloud, front):
    items = [registration(f"sensor-{at}", body=PLAIN) for at in range(100)]
    made = await cloud.apply(items)
    assert front.calls == {"devices/bulk": 1}

    gone = [
        evolve(item, body=None, remote_version=result.remote_version) for item, result in zip(items, made, strict=True)
    ]
    removed = await cloud.apply(gone)

    assert {each.state for each in (*made, *removed)} == {"done"}
    assert front.calls == {"devices/bulk": 2, "twins/read": 100}
    assert not front.hub.devices


async def test_what_users_of_the_hub_query_are_tags_by_their_names(cloud, front):
    body = evolve(PLAIN, groups=("lab 1",), attributes={"site": "north", "plant.area": {"row": 7}})
    await applied(cloud, registration("plant.7", body=body))

    tags = front.hub.devices["plant.7"].tags
    assert tags["site"] == "north"
    assert tags["plant:2Earea"] == {"row": 7}
    assert tags["fleetcore"] == {
        "fleet": "default",
        "type": "sensor",
        "lifecycle": "active",
        "tags": ["outdoor"],
        "groups": {"lab:201": True},
    }


async def test_a_device_that_may_not_connect_is_disabled_and_keeps_its_keys(cloud, front):
    item = await applied(cloud, registration("sensor-1", body=PLAIN))
    keys = front.hub.devices["sensor-1"].keys
    assert front.hub.devices["sensor-1"].status == "enabled"

    item = await applied(cloud, evolve(item, body=evolve(PLAIN, lifecycle="suspended")))
    assert front.hub.devices["sensor-1"].status == "disabled"
    assert await held(cloud, item) == item.body
    item = await applied(cloud, evolve(item, body=PLAIN))

    assert (front.hub.devices["sensor-1"].status, front.hub.devices["sensor-1"].keys) == ("enabled", keys)
    assert await held(cloud, item) == PLAIN


async def test_a_device_that_azure_users_disabled_differs_and_is_enabled_again(cloud, front):
    item = await applied(cloud, registration("sensor-1", body=PLAIN))
    front.hub.devices["sensor-1"].status = "disabled"
    front.hub._touched(front.hub.devices["sensor-1"])

    (known,) = await cloud.apply([evolve(item, body=evolve(PLAIN, name="new"))])
    (read,) = await cloud.read([item.key])
    await applied(cloud, evolve(item, remote_version=read.remote_version))

    assert known.state == "conflict"
    assert front.hub.devices["sensor-1"].status == "enabled"


async def test_what_azure_users_tag_becomes_an_attribute(cloud, front):
    item = await applied(cloud, registration("sensor-1", body=PLAIN))

    front.hub.edit("sensor-1", tags={"row": 7, "site": None})

    assert (await held(cloud, item)).attributes == {"row": 7}


async def test_all_facets_of_a_device_live_in_one_twin_and_leave_each_other_alone(cloud, front):
    device = await applied(cloud, registration("sensor-1", body=PLAIN))
    desired = await applied(cloud, twin("sensor-1", interval=60))
    job = await applied(cloud, MirrorItem(key=JOB_KEY, body=JOB))

    device = await applied(cloud, evolve(device, body=evolve(PLAIN, attributes={"row": 1})))
    desired = await applied(cloud, evolve(desired, body=TwinBody(desired={"mode": "eco"}, reported={"at": 1})))
    job = await applied(cloud, evolve(job, body=evolve(JOB, state="done", progress=1.0)))

    for item in (device, desired, job):
        assert await held(cloud, item) == item.body
    there = front.hub.devices["sensor-1"]
    assert there.desired == {
        "mode": "eco",
        "fleetcore": {"firmware": {"c:2E1": {**json.loads(json.dumps(_plain(JOB))), "state": "done", "progress": 1.0}}},
    }
    assert there.tags["row"] == 1
    assert "site" not in there.tags
    await applied(cloud, evolve(job, body=None))
    await applied(cloud, evolve(desired, body=None))
    assert there.desired == {} or front.hub.devices["sensor-1"].desired == {}
    assert await held(cloud, device) == device.body


def _plain(job):
    names = ("device", "campaign", "release", "url", "sha256", "size")
    return {name: getattr(job, name) for name in names}


async def test_one_batch_may_hold_a_device_and_all_that_needs_it(cloud):
    items = [MirrorItem(key=JOB_KEY, body=JOB), twin("sensor-1", a=1), registration("sensor-1")]

    assert [result.state for result in await cloud.apply(items)] == ["done"] * 3


async def test_a_twin_that_is_remembered_costs_one_call_also_after_its_device_was_written(cloud, front):
    device = await applied(cloud, registration("sensor-1", body=PLAIN))
    first = await applied(cloud, twin("sensor-1", interval=60))
    front.calls.clear()
    later = evolve(twin("sensor-1", first.remote_version, interval=30), last=first.body)

    later = await applied(cloud, later)
    assert front.calls == {"twins/write": 1}

    await applied(cloud, evolve(device, body=evolve(PLAIN, name="door")))
    front.calls.clear()
    last = await applied(cloud, evolve(twin("sensor-1", later.remote_version, interval=15), last=later.body))
    assert front.calls == {"twins/write": 2, "twins/read": 1}
    assert await held(cloud, last) == last.body


async def test_a_twin_that_is_remembered_and_was_changed_by_others_is_a_conflict(cloud, hub):
    await applied(cloud, registration("sensor-1", body=PLAIN))
    first = await applied(cloud, twin("sensor-1", interval=60))
    await hub.edit(TWIN, {"desired": {"interval": 5}})

    (result,) = await cloud.apply([evolve(twin("sensor-1", first.remote_version, interval=30), last=first.body)])

    assert result.state == "conflict"
    assert (await held(cloud, first)).desired == {"interval": 5}


async def test_what_azure_users_wanted_before_the_first_twin_is_read_and_not_overwritten_blindly(cloud, hub, front):
    await applied(cloud, registration("sensor-1"))
    front.hub.edit("sensor-1", desired={"interval": 5})

    (blind,) = await cloud.apply([twin("sensor-1", interval=60)])
    (there,) = await cloud.read([TWIN])
    await applied(cloud, twin("sensor-1", there.remote_version, interval=60))

    assert blind.state == "conflict"
    assert there.body.desired == {"interval": 5}
    assert front.hub.devices["sensor-1"].desired == {"interval": 60}


async def test_what_is_reported_goes_to_tags_and_the_largest_member_is_lost_where_it_does_not_fit(cloud, front):
    await applied(cloud, registration("sensor-1"))
    body = TwinBody(reported={"big": "x" * 3000, "bigger": "y" * 3200, "small": 1})

    fitted = cloud.fit(MirrorItem(key=TWIN, body=body))
    await applied(cloud, fitted.item)

    assert [loss.path for loss in fitted.lost] == ["/reported/bigger"]
    assert front.hub.devices["sensor-1"].tags["fleetcore"]["twin"]["reported"] == {"big": "x" * 3000, "small": 1}


async def test_what_a_device_reports_at_the_hub_itself_counts_and_is_not_written_a_second_time(cloud, front):
    await applied(cloud, registration("sensor-1"))
    front.hub.devices["sensor-1"].reported = {"battery": 0.5}
    await applied(cloud, twin("sensor-1", interval=1))

    (there,) = await cloud.read([TWIN])
    front.hub.devices["sensor-1"].reported = {"battery": 0.25}
    later = await applied(cloud, evolve(there, body=evolve(there.body, desired={"interval": 2})))

    assert there.body == TwinBody(desired={"interval": 1}, reported={"battery": 0.5})
    assert (await held(cloud, later)) == TwinBody(desired={"interval": 2}, reported={"battery": 0.25})
    assert front.hub.devices["sensor-1"].tags["fleetcore"]["twin"]["reported"] == {}


async def test_the_largest_registration_and_the_largest_report_fit_into_the_tags_together(cloud):
    device = registration("sensor-1", body=RegistryBody(type="s", lifecycle="active", attributes={"a": "x" * 4000}))
    report = MirrorItem(key=TWIN, body=TwinBody(reported={"a": "x" * 3500}))

    assert not cloud.fit(device).lost
    assert not cloud.fit(report).lost
    assert [result.state for result in await cloud.apply([device, report])] == ["done", "done"]


async def test_a_desired_member_of_our_name_is_lost_and_firmware_stays(cloud):
    fitted = cloud.fit(twin("sensor-1", fleetcore={"firmware": 1}, a=1))

    assert [loss.path for loss in fitted.lost] == ["/desired/fleetcore"]
    assert fitted.item.body.desired == {"a": 1}


async def test_entities_are_listed_by_their_marks(cloud):
    await cloud.apply([registration("sensor-1"), registration("a.b"), registration("sensor-3")])
    await applied(cloud, twin("a.b"))
    await applied(cloud, MirrorItem(key=JOB_KEY, body=JOB))

    found = {facet: [key.id async for key in cloud.entities(facet)] for facet in ("registry", "twin", "job", "group")}

    assert {facet: sorted(ids) for facet, ids in found.items()} == {
        "registry": ["a.b", "sensor-1", "sensor-3"],
        "twin": ["a.b"],
        "job": ["c.1:sensor-1"],
        "group": [],
    }


async def test_groups_are_tags_of_devices_and_nothing_of_themselves(cloud):
    item = MirrorItem(key=EntityKey("group", "lab"), body=GroupBody(description="the lab"))

    assert "group" not in cloud.limits.facets
    assert cloud.fit(item).item is None
    assert cloud.fit(item).reason == "This hub does not hold groups"
    assert await cloud.read([item.key]) == [None]


async def test_a_job_waits_for_its_device_and_shows_what_has_become_of_it(cloud):
    (waiting,) = await cloud.apply([MirrorItem(key=JOB_KEY, body=JOB)])
    await applied(cloud, registration("sensor-1"))
    item = await applied(cloud, MirrorItem(key=JOB_KEY, body=JOB))
    item = await applied(cloud, evolve(item, body=evolve(JOB, state="failed", code="hash", reason="ä\n")))

    assert (waiting.state, "sensor-1" in waiting.reason) == ("failed", True)
    assert await held(cloud, item) == item.body


async def test_a_reason_that_is_too_long_is_lost_and_the_state_kept(cloud):
    fitted = cloud.fit(MirrorItem(key=JOB_KEY, body=evolve(JOB, reason="x" * 5000)))

    assert fitted.item.body == JOB
    assert [loss.path for loss in fitted.lost] == ["/reason"]
    assert cloud.fit(MirrorItem(key=JOB_KEY, body=evolve(JOB, url="x" * 5000))).item is None


async def test_ids_with_a_prefix_are_read_back_and_others_are_left_out(opened, cloud, front):
    await applied(cloud, registration("q-1"))
    async with opened(device_prefix="p-") as prefixed:
        item = await applied(prefixed, registration("plant 7"))

        assert [key async for key in prefixed.entities("registry")] == [item.key]
    assert "p-plant:207" in front.hub.devices


async def test_twins_of_devices_that_others_make_are_ours_where_registrations_are_not_sent(cloud, front):
    front.hub.make("sensor-1", {"tags": {"theirs": 1}})
    cloud.use = CloudUse(sends=frozenset({"twin"}))

    item = await applied(cloud, twin("sensor-1", interval=1))

    assert await held(cloud, item) == item.body
    assert [key async for key in cloud.entities("twin")] == [TWIN]
    assert front.hub.devices["sensor-1"].tags["theirs"] == 1


@pytest.mark.parametrize("count", [2, 3])
async def test_two_fleets_share_a_hub(opened, cloud, count):
    names = [f"sensor-{at}" for at in range(count)]
    await cloud.apply([registration(name) for name in names])
    async with opened(fleet="other") as other:
        found = await other.apply([registration(name) for name in names])
        twins = await other.apply([twin(name, a=1) for name in names])
        listed = [key async for key in other.entities("registry")]

    assert {each.state for each in (*found, *twins)} == {"foreign"}
    assert listed == []
