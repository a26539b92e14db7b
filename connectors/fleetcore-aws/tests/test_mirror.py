"""A fleet mirrored to AWS by the engine, from fleet.toml to things and shadows."""

import asyncio
import json
import time

import pytest
from fleetcore_aws.testing.front import HubBack, serving
from fleetcore_aws.testing.hub import Hub

from fleetcore import IoTFleetManager
from fleetcore.interfaces.call_failed import SET_CLOCK
from fleetcore.model.mirror import EntityKey
from fleetcore.model.parts import parts
from fleetcore.runtime.config import load
from fleetcore.testing.cloud_contract import registration, twin
from fleetcore.testing.patience import PATIENCE_S, until

QUEUE = "http://127.0.0.1/123456789012/commands"


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
        await until(lambda: mirror.sender.idle)
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
        await until(lambda: mirror.sender.idle)

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


async def drift(manager):
    """Where AWS differs, page by page."""
    found = []

    async def page(after):
        return await manager.list_mirror_drift("aws", after=after)

    async for part in parts(page, lambda part: part.next):
        found += part.differences
    return found


VIA = {
    "iot-data": '{via = "iot-data"}',
    "kinesis": '{via = "kinesis", stream = "readings"}',
    "sqs": '{via = "sqs", queue = "http://127.0.0.1/123456789012/readings"}',
}


@pytest.mark.parametrize("via", VIA)
async def test_state_and_readings_arrive_each_once_through_requests_that_were_cut(tmp_path, monkeypatch, front, via):
    monkeypatch.setattr("fleetcore.pipeline.back_off._WAITS_S", (0.02,))
    monkeypatch.setattr("fleetcore.pipeline.mirror.sender._AGAIN_S", 0.02)
    file = tmp_path / "fleet.toml"
    file.write_text(
        f'[fleet]\ndata = "data"\n[clouds.aws]\nregion = "us-east-1"\nendpoint = "{front.endpoint}"\n'
        f'mirror = ["registry", "twins"]\nmetrics = ["*"]\ntelemetry = {VIA[via]}\nwrite_every_s = 0.01\n'
    )
    hub, faults = front.back.hub, front.faults
    async with IoTFleetManager(config=load(file), create=True) as manager:
        await (await manager.open()).serve()
        mirror = (await manager.open()).mirrors["aws"]
        for number in range(3):
            await manager.register_device(f"dev-{number}", "sensor")
        await until(lambda: len(hub.things) == 3 and mirror.sender.idle)
        faults.only, counted = ("iot:UpdateThingShadow",), []
        for number, order in enumerate(("cut_heads", "cut_bodies", "lost")):
            setattr(faults, order, 1)
            await manager.set_desired("dev-0", {"round": -number})
            await until(lambda: mirror.state == "failing")
            await manager.resume_mirror("aws")
            await until(lambda number=number: desired(hub).get("dev-0") == -number and mirror.sender.idle)
            counted.append((await manager.get_mirror("aws")).counts["failed"])
        faults.only = ()
        faults.cut_heads = faults.cut_bodies = 3
        for at in range(12):
            await manager.set_desired(f"dev-{at % 3}", {"round": at})
            await manager.collect_telemetry(f"dev-{at % 3}", "heat", float(at))
            await asyncio.sleep(0)
        await until(lambda: not faults.cut_heads and not faults.cut_bodies)
        await until(lambda: len(values(front)) >= 12)
        await until(lambda: mirror.sender.idle and desired(hub) == {"dev-0": 9, "dev-1": 10, "dev-2": 11})
        shown = await manager.get_mirror("aws")
        drifted = await drift(manager)

    assert sorted(values(front)) == [float(at) for at in range(12)]
    assert counted == [1, 2, 3], "a cut request counts as a lost answer does"
    assert (shown.invalid, drifted) == (0, [])


def values(front):
    return [reading["value"] for message in front.messages for reading in message["readings"]]


def desired(hub):
    return {name: named["twin"].state.get("desired", {}).get("round") for name, named in hub.shadows.items()}


async def test_a_campaign_is_shown_by_its_executions_and_one_that_was_cancelled_at_aws_is_drift(tmp_path, front, hub):
    jobs, executions = front.back.hub.jobs, front.back.hub.executions.held
    file = tmp_path / "fleet.toml"
    file.write_text(
        f'[fleet]\ndata = "data"\n[clouds.aws]\nregion = "us-east-1"\nendpoint = "{front.endpoint}"\n'
        'mirror = ["registry", "jobs"]\nwrite_every_s = 0.01\n'
    )

    async with IoTFleetManager(config=load(file), create=True) as manager:
        await (await manager.open()).serve()
        mirror = (await manager.open()).mirrors["aws"]
        await manager.register_device("dev-1", "sensor")
        await manager.create_campaign("spring", "2.0.0", ["dev-1"], "https://x.example/fw", sha256="ab" * 32, size=7)
        await manager.resync_mirror("aws")  # no event tells of a part that waits
        await until(lambda: jobs and mirror.sender.idle)
        ((name, job),) = jobs.items()
        await hub.call("iot", "cancel_job_execution", jobId=name, thingName="dev-1", force=True)
        cancelled = await drift(manager)
        await manager.apply_mirror("aws")
        await until(lambda: "since" in job["description"])
        repaired = await drift(manager)
        await manager.abort_campaign("spring")
        await until(lambda: '"cancelled"' in job["description"] and mirror.sender.idle)
        after = await drift(manager)
        await manager.create_campaign("summer", "3.0.0", ["dev-1"], "https://x.example/fw", sha256="cd" * 32, size=7)
        await manager.abort_campaign("summer")
        await until(lambda: len(jobs) == 2 and mirror.sender.idle)
        (second,) = jobs.keys() - {name}

    assert [(each.entity.partition("/")[0], each.state) for each in cancelled] == [("job", "differs")]
    assert (repaired, after) == ([], [])
    assert (executions[second]["dev-1"].status, executions[second]["dev-1"].details) == (
        "CANCELED",
        {"state": "cancelled", "code": "aborted"},
    )


@pytest.mark.parametrize("skew_s", [3 * 3600.0, -3 * 3600.0])
async def test_another_time_at_aws_is_shown_as_that_and_ends_with_it(tmp_path, monkeypatch, front, skew_s):
    monkeypatch.setattr("fleetcore.pipeline.back_off._WAITS_S", (0.02,))
    file = tmp_path / "fleet.toml"
    file.write_text(
        f'[fleet]\ndata = "data"\n[clouds.aws]\nregion = "us-east-1"\nendpoint = "{front.endpoint}"\n'
        'mirror = ["registry"]\n'
    )
    front.faults.skew_s = skew_s
    async with IoTFleetManager(config=load(file), create=True) as manager:
        await (await manager.open()).serve()
        mirror = (await manager.open()).mirrors["aws"]
        await manager.register_device("dev-1", "sensor")
        await until(lambda: mirror.state == "failing")
        (shown,) = (await manager.list_mirrors()).items
        checked = (await manager.check_mirror("aws")).findings
        doctor = (await manager.get_status()).consumers
        front.faults.heal()
        await until(lambda: front.back.hub.things and mirror.sender.idle)
        healed = await manager.get_mirror("aws")

    assert "s behind AWS's" in shown.error if skew_s > 0 else "s ahead of AWS's" in shown.error
    assert [(each.state, each.what) for each in checked] == [("problem", "clock")]
    assert [each["remedy"] for each in doctor.values() if each["error"] == shown.error] == [SET_CLOCK]
    assert (healed.state, healed.error) == ("running", "")


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
