"""An existing fleet at AWS becomes this fleet's: things, their unnamed shadows, groups and members."""

import json

import pytest
from fleetcore_aws.testing.control import Control

from fleetcore import IoTFleetManager
from fleetcore.runtime.config import load
from fleetcore.testing.patience import until

DEVICES = 12


async def existing(control):
    """What a site had made at AWS before."""
    await control.call("iot", "create_thing_type", thingTypeName="pump")
    await control.call("iot", "create_thing_group", thingGroupName="lab")
    for number in range(DEVICES):
        name = f"pump-{number:02d}"
        attributes = {"attributes": {"site": "north", "serial": f"s-{number}"}}
        await control.call("iot", "create_thing", thingName=name, thingTypeName="pump", attributePayload=attributes)
        state = {"desired": {"interval": number}, "reported": {"battery": 0.5, "steps": [1, 2]}}
        payload = json.dumps({"state": state}).encode()
        await control.call("iot-data", "update_thing_shadow", thingName=name, payload=payload)
    await control.call("iot", "create_thing", thingName="bare")
    await control.call("iot", "create_thing", thingName="no:name")
    for number in range(3):
        await control.call("iot", "add_thing_to_thing_group", thingName=f"pump-{number:02d}", thingGroupName="lab")


def section(front):
    return (
        f'[fleet]\ndata = "data"\n[clouds.aws]\nregion = "us-east-1"\nendpoint = "{front.endpoint}"\n'
        'mirror = ["registry", "twins", "groups"]\nimports = true\nshadow = ""\nthreads = 4\nwrite_every_s = 0\n'
        'rates = {"iot:CreateThing" = 1000.0, "iot:ListThings" = 1000.0, "iot:ListThingGroups" = 1000.0}\n'
    )


@pytest.fixture(params=["own", "moto"])
def at(request):
    return request.getfixturevalue("front" if request.param == "own" else "moto_front")


async def test_an_existing_fleet_is_imported_with_the_fewest_calls(tmp_path, at):
    control = Control(at)
    await existing(control)
    file = tmp_path / "fleet.toml"
    file.write_text(section(at))
    async with IoTFleetManager(config=load(file), create=True) as manager:
        await (await manager.open()).serve()
        mirror = (await manager.open()).mirrors["aws"]
        plan = [part async for part in _plan(manager)]
        at.calls.clear()
        started = await manager.import_mirror("aws", type="thing")

        async def over():
            return (await manager.get_operation(started.id)).state != "running"

        await until(over)
        await manager.wait_idle()
        await until(lambda: mirror.sender.idle)
        calls = dict(at.calls)
        ended = await manager.get_operation(started.id)
        found = {each.id: each for each in (await manager.list_devices(limit=100)).items}
        twin = await manager.get_twin("pump-05")
        members = [each.device for each in (await manager.list_group_members("lab")).items]
        differ, compared = await _drift(manager)
    thing = await control.call("iot", "describe_thing", thingName="pump-05")
    shadow = json.loads((await control.call("iot-data", "get_thing_shadow", thingName="pump-05"))["payload"].read())
    control.close()

    assert {each.name for each in plan if each.action == "skip"} == {"no:name"}
    assert (ended.result, ended.failed) == ({"devices": DEVICES + 1, "groups": 1, "members": 3}, 1)
    assert found.keys() == {"bare", *(f"pump-{number:02d}" for number in range(DEVICES))}
    assert (found["pump-05"].type, found["bare"].type) == ("pump", "thing")
    assert found["pump-05"].attributes == {"site": "north", "serial": "s-5"}
    assert (twin.desired, twin.reported) == ({"interval": 5}, {"battery": 0.5, "steps": [1, 2]})
    assert members == ["pump-00", "pump-01", "pump-02"]
    assert thing["attributes"]["fleetcore:fleet"].startswith("default-")
    assert thing["attributes"]["serial"] == "s-5"
    assert shadow["state"]["desired"] == {"interval": 5}
    assert (differ, compared) == ([], 2 * DEVICES + 2)
    # A page of each list, a shadow read, a thing and a shadow taken over: no thing is asked for by itself. A
    # member's thing is written once more for its group.
    assert (calls["iot:ListThings"], calls["iot:ListThingGroups"], calls["iot:ListThingsInThingGroup"]) == (1, 1, 1)
    assert calls["iot:UpdateThing"] <= DEVICES + 1 + 3
    assert calls["iot:DescribeThing"] <= 3 + 1


async def _drift(manager):
    found, compared, after = [], 0, None
    while True:
        part = await manager.list_mirror_drift("aws", after=after, limit=1000)
        found, compared, after = found + part.differences, compared + part.compared, part.next
        if after is None:
            return found, compared


async def _plan(manager):
    after = None
    while True:
        part = await manager.list_mirror_import("aws", after=after)
        for each in part.found:
            yield each
        after = part.next
        if after is None:
            return
