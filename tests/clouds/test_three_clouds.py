"""One fleet at AWS, Azure and Google Cloud at once while its devices talk; one hub is cut, another throttles."""

import asyncio
import json

from fleetcore_aws.testing.front import HubBack
from fleetcore_aws.testing.front import serving as serving_aws
from fleetcore_aws.testing.hub import Hub as AwsHub
from fleetcore_azure.testing.front import serving as serving_azure
from fleetcore_azure.testing.hub import Hub as AzureHub
from fleetcore_gcp.config import GcpConfig
from fleetcore_gcp.testing.control import Control as Receiver
from fleetcore_gcp.testing.server import serving as serving_gcp

from fleetcore import IoTFleetManager
from fleetcore.model.mirror import EntityKey
from fleetcore.runtime.config import load
from fleetcore.testing.patience import until

DEVICES = 24
CLOUDS = ("aws", "azure", "gcp")


def section(name, **settings):
    common = {"mirror": ["registry", "twins"], "metrics": ["*"], "delete": True, "write_every_s": 0.1, "timeout_s": 30}
    lines = [f"{key} = {json.dumps(value)}" for key, value in {**common, **settings}.items()]
    return "\n".join([f"[clouds.{name}]", *lines, ""])


async def drift(manager, name):
    """How many entities were compared, and where the hub differs."""
    found, compared, cursor = [], 0, None
    while True:
        part = await manager.list_mirror_drift(name, after=cursor, limit=50)
        compared, cursor = compared + part.compared, part.next
        found += [(each.entity, each.state) for each in part.differences]
        if cursor is None:
            return compared, found


async def talk(manager, stop):
    """Devices report and are given new desired state, come and go, until told to stop."""
    number = 0
    while not stop.is_set():
        for device in range(0, DEVICES, 4):
            await manager.collect_telemetry(f"pump-{device}", "heat", float(number))
            await manager.set_desired(f"pump-{device}", {"round": number, "nested": {"at": device}})
        await manager.register_device(f"late-{number}", "sensor")
        if number:
            await manager.erase_device(f"late-{number - 1}")
        number += 1
        await asyncio.sleep(0.02)


async def test_three_hubs_are_in_step_after_one_was_cut_and_another_throttled(tmp_path, monkeypatch):
    monkeypatch.setattr("fleetcore.pipeline.back_off._WAITS_S", (0.05,))
    monkeypatch.setattr("fleetcore.pipeline.mirror.sender._AGAIN_S", 0.05)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    async with (
        serving_aws(HubBack(AwsHub())) as aws,
        serving_azure(AzureHub()) as azure,
        serving_gcp() as gcp,
    ):
        monkeypatch.setenv("AZURE_TEST_HUB", azure.connection_string())
        receiver = Receiver(gcp, GcpConfig(project="plant-123456", emulator=gcp.endpoint))
        file = tmp_path / "fleet.toml"
        file.write_text(
            '[fleet]\ndata = "data"\n'
            + section("aws", region="us-east-1", endpoint=aws.endpoint)
            + 'rates = {"iot:CreateThing" = 1000.0}\n'
            + section(
                "azure",
                connection_string="env:AZURE_TEST_HUB",
                endpoint=azure.endpoint,
                ca=str(azure.ca.path),
                tier="S3",
            )
            + section("gcp", project="plant-123456", emulator=gcp.endpoint, create=True)
        )
        async with IoTFleetManager(config=load(file), create=True) as manager:
            fleet = await manager.open()
            await fleet.serve()
            for number in range(DEVICES):
                await manager.register_device(f"pump-{number}", "pump", {"site": "north"})
            stop = asyncio.Event()
            talking = asyncio.create_task(talk(manager, stop))

            async def rounds(more):
                """Until the devices have talked so often again."""
                until_version = (await manager.get_twin("pump-0")).desired_version + more
                await until(lambda: _talked(manager, until_version))

            await rounds(3)
            aws.faults.down = True
            azure.faults.throttled = 40
            await until(lambda: _is(manager, "aws", "failing"))
            await rounds(3)
            aws.faults.heal()
            await manager.resume_mirror("aws")
            await rounds(3)
            stop.set()
            await talking
            for name in CLOUDS:
                await until(lambda name=name: _is_in_step(manager, name))
            found = {name: await drift(manager, name) for name in CLOUDS}
            shown = {name: await manager.get_mirror(name) for name in CLOUDS}
            last = (await manager.get_twin("pump-0")).desired
            received = await receiver.received()

    # The devices and the one that came last, and the twins of every fourth.
    compared = DEVICES + 1 + DEVICES // 4
    assert found == dict.fromkeys(CLOUDS, (compared, []))
    assert {name: (each.waiting, each.invalid) for name, each in shown.items()} == dict.fromkeys(CLOUDS, (0, 0))
    assert sum(shown["azure"].throttled.values()) > 0
    assert azure.faults.throttled == 0
    assert len(received) == compared, "a receiver that was there from the beginning has the same"
    assert received[EntityKey("twin", "pump-0")].body.desired == last


async def _talked(manager, version):
    return (await manager.get_twin("pump-0")).desired_version >= version


async def _is(manager, name, state):
    return (await manager.get_mirror(name)).state == state


async def _is_in_step(manager, name):
    fleet = await manager.open()
    mirror, position = fleet.mirrors[name], await fleet.storage.position()
    shown = await manager.get_mirror(name)
    behind = mirror.tracker.status.position < position or mirror.readings.status.position < position
    return not behind and shown.waiting == 0 and shown.snapshot is None and mirror.sender.idle
