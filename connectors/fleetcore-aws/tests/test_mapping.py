"""What a mirror's states are at AWS, and what they cost in calls."""

import json

import pytest
from attrs import evolve
from fleetcore_aws.names import job_id

from fleetcore.interfaces.cloud import CloudUse, MirrorItem
from fleetcore.model.mirror import EntityKey, GroupBody, JobBody, RegistryBody, TwinBody
from fleetcore.testing.cloud_contract import registration, twin

PLAIN = RegistryBody(type="sensor", lifecycle="active", tags=("outdoor",), attributes={"site": "north"})
RICH = evolve(PLAIN, name="north door", attributes={"site": "north", "limits": {"low": 1, "high": 2}})
JOB = JobBody(
    device="sensor-1", campaign="c1", release="2.0", url="https://x.example/fw", state="offered", sha256="ab", size=7
)
JOB_KEY = EntityKey("job", "c1:sensor-1")


def group(name, **members):
    return MirrorItem(key=EntityKey("group", name), body=GroupBody(**members))


async def applied(cloud, item):
    (result,) = await cloud.apply([item])
    assert result.state == "done", result
    return evolve(item, remote_version=result.remote_version)


async def held(cloud, item):
    (read,) = await cloud.read([item.key])
    return None if read is None else read.body


async def test_a_plain_device_costs_one_call_and_its_type_one_more_once(cloud, front):
    await cloud.apply([registration("sensor-1", body=PLAIN), registration("sensor-2", body=PLAIN)])

    assert front.calls == {"iot:CreateThing": 2, "iot:CreateThingType": 1}


async def test_what_has_no_room_in_attributes_comes_and_goes_with_the_shadow_meta(cloud, front, hub):
    at = {"thingName": "sensor-1", "shadowName": "meta"}
    item = await applied(cloud, registration("sensor-1", body=RICH))
    shadow = await hub.call("iot-data", "get_thing_shadow", **at)
    assert await held(cloud, item) == RICH

    item = await applied(cloud, evolve(item, body=PLAIN))

    assert json.loads(shadow["payload"].read())["state"]["reported"] == {
        "name": "north door",
        "attributes": {"limits": {"low": 1, "high": 2}},
    }
    assert await held(cloud, item) == PLAIN
    with pytest.raises(hub.client("iot-data").exceptions.ResourceNotFoundException):
        await hub.call("iot-data", "get_thing_shadow", **at)


async def test_a_write_that_ended_between_thing_and_shadow_is_completed(cloud, front):
    front.faults.only, front.faults.errors = ("iot:UpdateThingShadow",), 1
    (first,) = await cloud.apply([registration("sensor-1", body=RICH)])

    item = await applied(cloud, registration("sensor-1", body=RICH))

    assert first.state == "failed"
    assert await held(cloud, item) == RICH


async def test_a_change_of_the_rest_by_another_writer_is_a_conflict(cloud, hub):
    item = await applied(cloud, registration("sensor-1", body=RICH))
    payload = b'{"state": {"reported": {"name": "theirs"}}}'
    await hub.call("iot-data", "update_thing_shadow", thingName="sensor-1", shadowName="meta", payload=payload)

    (result,) = await cloud.apply([evolve(item, body=evolve(RICH, model="m"))])

    assert result.state == "conflict"


async def test_a_removed_device_leaves_no_shadow_of_ours(cloud, hub):
    item = await applied(cloud, registration("sensor-1", body=RICH))

    await applied(cloud, evolve(item, body=None))
    await hub.call("iot", "create_thing", thingName="sensor-1")
    named = await hub.call("iot-data", "list_named_shadows_for_thing", thingName="sensor-1")

    assert named["results"] == []


async def test_devices_come_into_their_groups_and_out_of_them_and_others_groups_stay(cloud, hub):
    await hub.call("iot", "create_thing_group", thingGroupName="theirs")
    for name in ("lab", "north hall"):
        await applied(cloud, group(name))
    item = await applied(cloud, registration("sensor-1", body=evolve(PLAIN, groups=("lab", "north hall"))))
    await hub.call("iot", "add_thing_to_thing_group", thingName="sensor-1", thingGroupName="theirs")
    assert await held(cloud, item) == item.body

    item = await applied(cloud, evolve(item, body=evolve(PLAIN, groups=("lab",))))

    listed = await hub.call("iot", "list_thing_groups_for_thing", thingName="sensor-1")
    assert {each["groupName"] for each in listed["thingGroups"]} == {"lab", "theirs"}
    assert await held(cloud, item) == item.body


async def test_a_membership_that_aws_users_ended_is_seen(cloud, hub):
    await applied(cloud, group("lab"))
    item = await applied(cloud, registration("sensor-1", body=evolve(PLAIN, groups=("lab",))))

    await hub.call("iot", "remove_thing_from_thing_group", thingName="sensor-1", thingGroupName="lab")

    assert (await held(cloud, item)).groups == ()


async def test_groups_that_are_not_sent_are_told_without_a_membership(cloud, front):
    cloud.use = CloudUse(sends=frozenset({"registry"}))
    item = await applied(cloud, registration("sensor-1", body=evolve(PLAIN, groups=("lab",))))

    assert await held(cloud, item) == item.body
    assert "iot:AddThingToThingGroup" not in front.calls


async def test_a_group_comes_back_with_its_query_and_without_what_it_lies_in(cloud):
    wanted = group("north hall", description="halls", query='type = "sensor" and tag = "hall"', within=("site",))
    fitted = cloud.fit(wanted)

    item = await applied(cloud, fitted.item)
    changed = await applied(cloud, evolve(item, body=GroupBody(description="other")))

    assert [loss.path for loss in fitted.lost] == ["/within/0"]
    assert item.body == GroupBody(description="halls", query='type = "sensor" and tag = "hall"')
    assert await held(cloud, changed) == changed.body
    assert [key async for key in cloud.entities("group")] == [item.key]
    await applied(cloud, evolve(changed, body=None))
    assert await held(cloud, changed) is None


async def test_a_twin_without_members_is_there_and_null_removes_nothing_else(cloud, hub):
    await applied(cloud, registration("sensor-1"))
    empty = await applied(cloud, MirrorItem(key=EntityKey("twin", "sensor-1"), body=TwinBody()))
    assert await held(cloud, empty) == TwinBody()

    body = TwinBody(desired={"list": [], "zero": 0, "false": False, "text": "", "deep": {"a": {"b": [{}]}}})
    item = await applied(cloud, evolve(empty, body=body))
    assert await held(cloud, item) == body

    item = await applied(cloud, evolve(item, body=TwinBody(desired={"deep": {"c": 1}}, reported={"zero": True})))
    assert await held(cloud, item) == item.body
    await applied(cloud, evolve(item, body=None))
    assert await held(cloud, item) is None


async def test_what_aws_users_wanted_of_a_device_is_read(cloud, hub):
    await applied(cloud, registration("sensor-1"))
    item = await applied(cloud, twin("sensor-1", interval=60))

    await hub.edit(item.key, {"desired": {"interval": 5, "mode": "eco"}})

    assert (await held(cloud, item)).desired == {"interval": 5, "mode": "eco"}


async def test_twins_are_listed_by_their_shadows(cloud):
    await cloud.apply([registration("sensor-1"), registration("sensor-2")])
    item = await applied(cloud, twin("sensor-2"))

    assert [key async for key in cloud.entities("twin")] == [item.key]


async def test_a_job_shows_its_state_and_ends_with_its_part(cloud, hub):
    await applied(cloud, registration("sensor-1"))
    item = await applied(cloud, MirrorItem(key=JOB_KEY, body=JOB))

    item = await applied(cloud, evolve(item, body=evolve(JOB, state="downloading", progress=0.5, reason="ä\n")))
    shown = await hub.call("iot", "get_job_document", jobId=job_id("default", JOB_KEY.id))

    assert await held(cloud, item) == item.body
    assert json.loads(shown["document"])["url"] == "https://x.example/fw"
    assert [key async for key in cloud.entities("job")] == [JOB_KEY]
    (changed,) = await cloud.apply([evolve(item, body=evolve(JOB, url="https://y.example"))])
    assert changed.state == "invalid"
    await applied(cloud, evolve(item, body=None))
    assert await held(cloud, item) is None
    assert not await hub.has(JOB_KEY)


async def test_a_job_with_a_long_id_is_listed_by_its_document(cloud):
    await applied(cloud, registration("sensor-1"))
    item = await applied(cloud, MirrorItem(key=EntityKey("job", "c" * 60 + ":sensor-1"), body=JOB))

    assert [key async for key in cloud.entities("job")] == [item.key]


async def test_a_job_waits_for_its_device(cloud):
    (result,) = await cloud.apply([MirrorItem(key=JOB_KEY, body=JOB)])

    assert result.state == "failed"
    assert "sensor-1" in result.reason


async def test_a_reason_that_is_too_long_is_lost_and_the_state_kept(cloud):
    fitted = cloud.fit(MirrorItem(key=JOB_KEY, body=evolve(JOB, reason="x" * 3000)))

    assert fitted.item.body == JOB
    assert [loss.path for loss in fitted.lost] == ["/reason"]


async def test_ids_with_a_dot_and_a_prefix_are_escaped_and_read_back(opened, hub):
    async with opened(thing_prefix="p-") as cloud:
        item = await applied(cloud, registration("plant.7"))

        assert [key async for key in cloud.entities("registry")] == [item.key]
    assert await hub.call("iot", "describe_thing", thingName="p-plant:2E7")


async def test_a_type_that_was_removed_at_aws_is_made_again(cloud, front, hub):
    await applied(cloud, registration("sensor-1"))
    front.back.hub.types.clear()

    (first,) = await cloud.apply([registration("sensor-2")])
    await applied(cloud, registration("sensor-2"))

    assert first.state == "failed"


async def test_one_batch_may_hold_a_device_and_all_that_needs_it(cloud):
    device = registration("sensor-1", body=evolve(PLAIN, groups=("lab",)))
    items = [MirrorItem(key=JOB_KEY, body=JOB), twin("sensor-1"), device, group("lab")]

    assert [result.state for result in await cloud.apply(items)] == ["done"] * 4
