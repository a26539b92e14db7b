"""A fleet mirrored to AWS by the engine, from fleet.toml to things and shadows."""

import asyncio
import json
import time

import pytest
from fleetcore_aws.testing.front import HubBack, serving
from fleetcore_aws.testing.hub import Hub

from fleetcore import IoTFleetManager
from fleetcore.model.mirror import EntityKey
from fleetcore.runtime.config import load
from fleetcore.testing.cloud_contract import registration, twin
from fleetcore.testing.patience import PATIENCE_S

QUEUE = "http://127.0.0.1/123456789012/commands"


async def until(condition):
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_fleet_is_mirrored_through_an_outage(tmp_path, front, hub):
    things, shadows = front.back.hub.things, front.back.hub.shadows
    file = tmp_path / "fleet.toml"
    file.write_text(
        f'[fleet]\ndata = "data"\n[clouds.aws]\nregion = "us-east-1"\nendpoint = "{front.endpoint}"\n'
        'mirror = ["registry", "twins", "groups"]\nmetrics = ["*"]\n'
        'telemetry = {via = "iot-data", topic = "plant"}\nthreads = 4\n'
    )
    async with IoTFleetManager(config=load(file), create=True) as manager:
        await (await manager.open()).serve()
        mirror = (await manager.open()).mirrors["aws"]
        await manager.create_group("lab")
        await manager.register_device("dev.1", "sensor")
        await manager.collect_telemetry("dev.1", "temperature", 21.5)
        await until(lambda: "dev:2E1" in things and front.messages)
        front.faults.down = True
        await manager.set_desired("dev.1", {"interval": 60})
        await until(lambda: mirror.state == "failing")
        front.faults.heal()
        await manager.resume_mirror("aws")
        await until(lambda: mirror.lane.idle)
        shown = await manager.get_mirror("aws")

    assert things["dev:2E1"].attributes["fleetcore:fleet"].startswith("default-")
    assert shadows["dev:2E1"]["twin"].state["desired"] == {"interval": 60}
    assert list(front.back.hub.groups) == ["lab"]
    assert [each["readings"][0]["value"] for each in front.messages] == [21.5]
    assert (shown.state, shown.invalid) == ("running", 0)


async def test_what_aws_users_want_and_command_comes_into_the_fleet(tmp_path, front, hub):
    file = tmp_path / "fleet.toml"
    file.write_text(
        f'[fleet]\ndata = "data"\n[clouds.aws]\nregion = "us-east-1"\nendpoint = "{front.endpoint}"\n'
        'mirror = ["registry", "twins"]\ndirection = {desired = "both"}\ncommands = ["reboot"]\n'
        'poll_s = 3600\ncommands_queue = "http://127.0.0.1/123456789012/commands"\nqueue_wait_s = 1\n'
    )
    key = EntityKey("twin", "dev.1")
    async with IoTFleetManager(config=load(file), create=True) as manager:
        await (await manager.open()).serve()
        mirror = (await manager.open()).mirrors["aws"]
        await manager.register_device("dev.1", "sensor")
        await manager.set_desired("dev.1", {"interval": 60, "mode": "eco"})
        await until(lambda: "twin" in front.back.hub.shadows.get("dev:2E1", {}))
        await until(lambda: mirror.lane.idle)

        await hub.edit(key, {"desired": {"interval": 60, "mode": "fast"}})
        body = {"thing": "dev:2E1", "previous": {}, "current": {}}
        await hub.call("sqs", "send_message", QueueUrl=QUEUE, MessageBody=json.dumps(body))
        async with asyncio.timeout(PATIENCE_S):
            while (await manager.get_twin("dev.1")).desired != {"interval": 60, "mode": "fast"}:
                await asyncio.sleep(0.01)
        await hub.command("dev.1", "reboot", {"delay_s": 5})
        async with asyncio.timeout(PATIENCE_S):
            while not (commands := await manager.list_device_commands("dev.1")):
                await asyncio.sleep(0.01)

    assert [(each.name, each.args, each.issued_by) for each in commands] == [("reboot", {"delay_s": 5}, "mirror/aws")]


async def everything(cloud, count):
    """Makes so many devices with their twins, four batches at a time; calls a second."""
    items = [registration(f"sensor-{number}") for number in range(count)]
    began_s = time.perf_counter()
    for some in (items, [twin(item.key.id, interval=1) for item in items]):
        batches = iter([some[at : at + cloud.limits.items] for at in range(0, count, cloud.limits.items)])

        async def work(batches=batches):
            for batch in batches:
                assert {result.state for result in await cloud.apply(batch)} == {"done"}

        await asyncio.gather(*(work() for _ in range(cloud.limits.parallel)))
    return 4 * count / (time.perf_counter() - began_s)


async def test_a_thousand_devices_arrive_each_once(opened, front):
    async with opened(threads=32) as cloud:
        await everything(cloud, 1000)
        listed = [key async for key in cloud.entities("registry")]

    assert len(set(listed)) == len(listed) == 1000
    assert front.calls["iot:CreateThing"] == front.calls["iot:UpdateThingShadow"] == 1000
    assert front.calls["iot:CreateThingType"] == 1


@pytest.mark.soak
async def test_two_thousand_devices_arrive_at_moto(opened, moto_front):
    async with opened(at=moto_front, threads=32) as cloud:
        print(f"{await everything(cloud, 2000):.0f} calls a second")
        listed = [key async for key in cloud.entities("twin")]

    assert len(set(listed)) == 2000


async def test_the_counterpart_takes_its_stated_time_for_each_call(opened):
    async with serving(HubBack(Hub()), delay_s=0.04) as slow, opened(at=slow) as cloud:
        began_s = time.perf_counter()
        await cloud.apply([registration("sensor-1")])

    assert time.perf_counter() - began_s >= 0.08  # the type, then the thing
