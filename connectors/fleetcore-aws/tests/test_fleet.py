"""A fleet that mirrors to two AWS counterparts at once while its devices talk, and one of them has a bad day."""

import asyncio

from fleetcore_aws.testing.front import HubBack, serving
from fleetcore_aws.testing.hub import Hub

from fleetcore import IoTFleetManager
from fleetcore.runtime.config import load
from fleetcore.testing.patience import until

DEVICES = 40
SECTION = """
[clouds.{name}]
kind = "aws"
region = "us-east-1"
endpoint = "{endpoint}"
mirror = ["registry", "twins", "groups"]
metrics = ["*"]
delete = true
write_every_s = 0.1
rates = {{"iot:CreateThing" = 1000}}
timeout_s = 30
"""


async def drift(manager, name):
    """How many entities were compared, and where the hub differs."""
    found, compared, cursor = [], 0, None
    while True:
        part = await manager.list_mirror_drift(name, after=cursor, limit=50)
        compared += part.compared
        found += [(each.entity, each.state) for each in part.differences]
        cursor = part.next
        if cursor is None:
            return compared, found


async def talk(manager, stop):
    """Devices report and are given new desired state, come and go, until told to stop; returns how many rounds."""
    rounds = 0
    while not stop.is_set():
        for number in range(0, DEVICES, 4):
            device = f"pump-{number}"
            await manager.collect_telemetry(device, "heat", float(rounds))
            await manager.set_desired(device, {"round": rounds, "nested": {"at": number}})
        await manager.register_device(f"late-{rounds}", "sensor")
        if rounds:
            await manager.erase_device(f"late-{rounds - 1}")
        rounds += 1
        await asyncio.sleep(0.02)
    return rounds


async def test_two_hubs_are_in_step_after_one_was_cut_and_throttled(tmp_path, monkeypatch):
    monkeypatch.setattr("fleetcore.pipeline.back_off._WAITS_S", (0.05,))
    monkeypatch.setattr("fleetcore.pipeline.mirror.sender._AGAIN_S", 0.05)
    async with serving(HubBack(Hub())) as steady, serving(HubBack(Hub())) as shaky:
        text = "".join(
            SECTION.format(name=name, endpoint=front.endpoint) for name, front in (("steady", steady), ("shaky", shaky))
        )
        file = tmp_path / "fleet.toml"
        file.write_text(f'[fleet]\ndata = "data"\n{text}')
        async with IoTFleetManager(config=load(file), create=True) as manager:
            await (await manager.open()).serve()
            await manager.create_group("hall")
            for number in range(DEVICES):
                await manager.register_device(f"pump-{number}", "pump", {"site": "north"})
            await manager.add_to_group("hall", [f"pump-{number}" for number in range(DEVICES)])
            stop = asyncio.Event()
            talking = asyncio.create_task(talk(manager, stop))

            async def rounds(more):
                """Until the devices have talked so often again."""
                before = (await manager.get_twin("pump-0")).desired_version
                await until(lambda: _talked(manager, before + more))

            await rounds(3)
            shaky.faults.down = True
            await until(lambda: _is(manager, "shaky", "failing"))
            await rounds(3)
            shaky.faults.heal()
            shaky.faults.throttled = 60
            shaky.faults.halved = 10
            shaky.faults.errors = 10
            await manager.resume_mirror("shaky")
            await rounds(3)
            stop.set()
            assert await talking >= 9

            for name in ("steady", "shaky"):
                await until(lambda name=name: _is_in_step(manager, name))
            shown = {name: await manager.get_mirror(name) for name in ("steady", "shaky")}
            found = {name: await drift(manager, name) for name in ("steady", "shaky")}

    # The group, the devices and the one that came last, and the twins of every fourth.
    assert found == dict.fromkeys(("steady", "shaky"), (1 + DEVICES + 1 + DEVICES // 4, []))
    for name, front in (("steady", steady), ("shaky", shaky)):
        assert shown[name].waiting == 0
        assert shown[name].invalid == 0
        sent = [(message["device"], reading["value"]) for message in front.messages for reading in message["readings"]]
        for number in range(0, DEVICES, 4):
            values = [value for device, value in sent if device == f"pump-{number}"]
            assert set(values) == set(map(float, range(len(set(values))))), "none is missing"
    assert sum(shown["shaky"].throttled.values()) > 0
    assert shaky.faults.throttled == 0
    assert shown["steady"].counts.get("failed", 0) == 0


async def _talked(manager, version):
    return (await manager.get_twin("pump-0")).desired_version >= version


async def _is(manager, name, state):
    return (await manager.get_mirror(name)).state == state


async def _is_in_step(manager, name):
    fleet = await manager.open()
    mirror, position = fleet.mirrors[name], await fleet.storage.position()
    shown = await manager.get_mirror(name)
    return (
        mirror.tracker.status.position >= position
        and mirror.readings.status.position >= position
        and shown.waiting == 0
        and shown.snapshot is None
        and mirror.sender.idle
    )
