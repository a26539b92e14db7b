"""A fleet mirrored to Pub/Sub by the engine, and what a receiver makes of the messages."""

import asyncio
import json
import sys

from fleetcore_gcp.config import GcpConfig
from fleetcore_gcp.testing.control import Control
from fleetcore_gcp.testing.server import serving
from google.pubsub_v1.types import Topic

from fleetcore import IoTFleetManager
from fleetcore.model.mirror import EntityKey
from fleetcore.pipeline.mirror.entity_states import digest
from fleetcore.runtime.config import load
from fleetcore.testing.patience import PATIENCE_S

DEVICES = 30
SECTION = """
[clouds.{name}]
kind = "gcp"
project = "plant-project"
emulator = "{front.endpoint}"
create = true
mirror = ["registry", "twins", "groups"]
metrics = ["*"]
commands = ["reboot"]
delete = true
write_every_s = 0.1
timeout_s = 30
"""

#: Registers and changes devices until it is killed.
CHILD = """
import asyncio, sys
from pathlib import Path
from fleetcore import IoTFleetManager
from fleetcore.pipeline import back_off
from fleetcore.pipeline.mirror import sender
from fleetcore.runtime.config import load

back_off._WAITS_S, sender._AGAIN_S = (0.05,), 0.05

async def main():
    async with IoTFleetManager(config=load(Path(sys.argv[1])), create=True) as manager:
        await (await manager.open()).serve()
        first = 0
        while True:
            for number in range(first, first + 20):
                await manager.register_device(f"{sys.argv[2]}-{number}", "pump")
                await manager.set_desired(f"{sys.argv[2]}-{number}", {"interval": number})
                if number % 5 == 4:
                    await manager.erase_device(f"{sys.argv[2]}-{number - 2}")
            first += 20
            print(first, flush=True)

asyncio.run(main())
"""


async def until(condition):
    async with asyncio.timeout(PATIENCE_S):
        while not await condition():
            await asyncio.sleep(0.02)


def written(tmp_path, **fronts):
    file = tmp_path / "fleet.toml"
    sections = "".join(SECTION.format(name=name, front=front) for name, front in fronts.items())
    file.write_text(f'[fleet]\ndata = "data"\n{sections}')
    return load(file)


def control_of(front):
    return Control(front, GcpConfig(project="plant-project", emulator=front.endpoint))


async def drift(manager, name):
    """How many entities were compared, with what, and where they differ."""
    found, compared, cursor = [], 0, None
    while True:
        part = await manager.list_mirror_drift(name, after=cursor, limit=50)
        compared += part.compared
        found += [(each.entity, each.state) for each in part.differences]
        cursor = part.next
        if cursor is None:
            return compared, part.against, found


async def wanted(manager, name):
    """What a receiver should have, by digest: what the fleet has, as it fits the hub."""
    mirror = (await manager.open()).mirrors[name]
    hub, found, after = await mirror.hub(), {}, None
    while True:
        keys, after = await mirror.comparing._walk.next(after, 100)
        for key, body in (await mirror.comparing._bodies(keys)).items():
            found[str(key)] = digest(hub.fit(key, body).item.body)
        if after is None:
            return found


async def received(control):
    return {str(key): digest(item.body) for key, item in (await control.received()).items()}


async def is_in_step(manager, name):
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


async def talk(manager, stop):
    """Devices report and are given new desired state, come and go, until told to stop; returns how many rounds."""
    rounds = 0
    while not stop.is_set():
        for number in range(0, DEVICES, 3):
            device = f"pump-{number}"
            await manager.collect_telemetry(device, "heat", float(rounds))
            await manager.set_desired(device, {"round": rounds})
        await manager.register_device(f"late-{rounds}", "sensor")
        if rounds:
            await manager.erase_device(f"late-{rounds - 1}")
        rounds += 1
        await asyncio.sleep(0.02)
    return rounds


async def test_receivers_have_the_fleet_after_one_hub_was_cut_throttled_and_lost_answers(tmp_path, monkeypatch):
    monkeypatch.setattr("fleetcore.pipeline.back_off._WAITS_S", (0.05,))
    monkeypatch.setattr("fleetcore.pipeline.mirror.sender._AGAIN_S", 0.05)
    async with serving() as steady, serving() as shaky:
        fronts = {"steady": steady, "shaky": shaky}
        async with IoTFleetManager(config=written(tmp_path, **fronts), create=True) as manager:
            await (await manager.open()).serve()
            await manager.create_group("hall")
            for number in range(DEVICES):
                await manager.register_device(f"pump-{number}", "pump", {"site": "north"})
            await manager.add_to_group("hall", [f"pump-{number}" for number in range(DEVICES)])
            stop = asyncio.Event()
            talking = asyncio.create_task(talk(manager, stop))

            async def rounds(more):
                before = (await manager.get_twin("pump-0")).desired_version

                async def talked():
                    return (await manager.get_twin("pump-0")).desired_version >= before + more

                await until(talked)

            async def fails():
                return (await manager.get_mirror("shaky")).state == "failing"

            await rounds(3)
            shaky.faults.down = True
            await until(fails)
            await rounds(3)
            shaky.faults.heal()
            shaky.faults.throttled, shaky.faults.lost, shaky.faults.errors = 40, 20, 10
            await manager.resume_mirror("shaky")
            await rounds(3)
            stop.set()
            assert await talking >= 9
            for name in fronts:
                await until(lambda name=name: is_in_step(manager, name))
            found = {name: await drift(manager, name) for name in fronts}
            fleet = {name: await wanted(manager, name) for name in fronts}
            shown = {name: await manager.get_mirror(name) for name in fronts}

    # The group, the devices and the one that came last, and the twins of every third.
    count = 1 + DEVICES + 1 + DEVICES // 3
    assert found == dict.fromkeys(fronts, (count, "sent", []))
    for name, front in fronts.items():
        control = control_of(front)
        assert await received(control) == fleet[name]
        assert len(fleet[name]) == count
        for number in range(0, DEVICES, 3):
            values = [value for _, _, value in await control.telemetry(f"pump-{number}")]
            assert values == [float(at) for at in range(len(values))], "none is missing, and all are in order"
    assert shown["steady"].counts.get("failed", 0) == 0
    assert sum(shown["shaky"].throttled.values()) > 0


async def test_after_kills_and_lost_answers_a_receiver_has_the_fleet(tmp_path, monkeypatch):
    monkeypatch.setattr("fleetcore.pipeline.back_off._WAITS_S", (0.05,))
    monkeypatch.setattr("fleetcore.pipeline.mirror.sender._AGAIN_S", 0.05)
    async with serving() as front:
        written(tmp_path, gcp=front)
        control = control_of(front)
        for number in range(3):
            child = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                CHILD,
                str(tmp_path / "fleet.toml"),
                f"run{number}",
                stdout=asyncio.subprocess.PIPE,
            )
            async with asyncio.timeout(PATIENCE_S):
                await child.stdout.readline()
                sent = len(control.messages("registry"))
                for more in (10, 20):
                    while len(control.messages("registry")) < sent + more:
                        await asyncio.sleep(0.005)
                    front.faults.only, front.faults.lost = ("Publish",), 3
                child.kill()
                await child.wait()
        front.faults.heal()
        async with IoTFleetManager(config=load(tmp_path / "fleet.toml"), create=False) as manager:
            await (await manager.open()).serve()
            await until(lambda: is_in_step(manager, "gcp"))
            fleet, found = await wanted(manager, "gcp"), await drift(manager, "gcp")

        assert await received(control) == fleet
        assert found == (len(fleet), "sent", [])
        assert len(fleet) >= 60


async def test_commands_come_in_once_and_a_resynchronisation_sends_everything_again(tmp_path, front):
    control = control_of(front)
    async with IoTFleetManager(config=written(tmp_path, gcp=front), create=True) as manager:
        await (await manager.open()).serve()
        await manager.register_device("pump-1", "pump")
        await manager.set_desired("pump-1", {"interval": 60})

        async def listens():
            return control.names.commands in front.hub.subscriptions

        await until(lambda: is_in_step(manager, "gcp"))
        await until(listens)
        body = json.dumps({"device": "pump-1", "command": "reboot", "args": {"delay_s": 5}, "id": "mine"}).encode()
        front.faults.acks_lost = 1
        control.put(body, "pump-1")
        control.put(body, "pump-1")
        control.put(b"no json", "pump-1")
        control.put(json.dumps({"command": "reset"}).encode(), "pump-1")

        async def told():
            inbox = (await manager.get_mirror("gcp")).inbox
            return inbox.commands == 2 and inbox.invalid == 1 and inbox.refused == 1

        await until(told)
        commands = await manager.list_device_commands("pump-1")
        before = {topic: len(control.messages(topic)) for topic in ("registry", "state")}
        await manager.resync_mirror("gcp")
        await until(lambda: is_in_step(manager, "gcp"))
        await manager.resync_mirror("gcp", entity="twin/pump-1")
        await until(lambda: is_in_step(manager, "gcp"))
        after = {topic: len(control.messages(topic)) for topic in ("registry", "state")}

    assert [(each.name, each.args, each.issued_by) for each in commands] == [("reboot", {"delay_s": 5}, "mirror/gcp")]
    assert (before, after) == ({"registry": 1, "state": 1}, {"registry": 2, "state": 3})
    versions = [int(each.attributes["fleetcore-version"]) for each in control.messages("state")]
    assert sorted(set(versions)) == versions


async def test_what_changed_while_the_hub_was_down_is_drift_and_never_in_step(tmp_path, front, monkeypatch):
    async with IoTFleetManager(config=written(tmp_path, gcp=front), create=True) as manager:
        await (await manager.open()).serve()
        await manager.register_device("pump-1", "pump")
        await manager.register_device("pump-2", "pump")
        await until(lambda: is_in_step(manager, "gcp"))
        await manager.pause_mirror("gcp")
        await manager.update_device("pump-1", name="door")
        await manager.erase_device("pump-2")
        await manager.register_device("pump-3", "pump")

        found = await drift(manager, "gcp")

    changed = [("registry/pump-1", "differs"), ("registry/pump-3", "missing"), ("registry/pump-2", "extra")]
    assert found == (2, "sent", changed)


async def test_a_direction_that_would_need_reading_stops_the_mirror_with_a_remedy(tmp_path, front):
    config = written(tmp_path, gcp=front)
    text = (tmp_path / "fleet.toml").read_text() + 'direction = {desired = "both"}\n'
    (tmp_path / "fleet.toml").write_text(text)
    config = load(tmp_path / "fleet.toml")
    async with IoTFleetManager(config=config, create=True) as manager:
        await (await manager.open()).serve()

        async def stopped():
            return (await manager.get_mirror("gcp")).state == "failing"

        await until(stopped)
        shown = await manager.get_mirror("gcp")

    assert "only receives" in shown.error
    assert "Remove direction" in shown.error


async def test_topics_that_are_missing_are_told_by_name(tmp_path, front):
    config = written(tmp_path, gcp=front)
    file = tmp_path / "fleet.toml"
    file.write_text(file.read_text().replace("create = true\n", ""))
    config = load(file)
    async with IoTFleetManager(config=config, create=True) as manager:
        await (await manager.open()).serve()
        await manager.register_device("pump-1", "pump")

        async def fails():
            return (await manager.get_mirror("gcp")).state == "failing"

        await until(fails)
        error = (await manager.get_mirror("gcp")).error
        found = [each for each in (await manager.check_mirror("gcp")).findings if each.state == "problem"]
        front.hub.create_topic(Topic(name="projects/plant-project/topics/fleetcore-registry"))
        await manager.resume_mirror("gcp")
        await until(lambda: _waits_for_nothing(manager))

    assert "create = true" in error
    assert any("fleetcore-registry" in each.what and each.remedy for each in found)
    assert EntityKey("registry", "pump-1") in await control_of(front).received()


async def _waits_for_nothing(manager):
    return (await manager.get_mirror("gcp")).waiting == 0
