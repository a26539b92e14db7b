"""A fleet mirrored to the hub by the engine, from fleet.toml to identities and twins, and an existing one imported."""

import asyncio

import pytest
from fleetcore_azure.testing.front import serving
from fleetcore_azure.testing.hub import Hub

from fleetcore import IoTFleetManager
from fleetcore.model.mirror import EntityKey
from fleetcore.runtime.config import load
from fleetcore.testing.patience import until

DEVICES = 40


@pytest.fixture(autouse=True)
def variable(front, monkeypatch):
    monkeypatch.setenv("HUB", front.connection_string())


def section(front, more="", name="azure"):
    return (
        f'[clouds.{name}]\nkind = "azure"\nconnection_string = "env:HUB"\nendpoint = "{front.endpoint}"\n'
        f'ca = "{front.ca.path}"\nthreads = 4\nwrite_every_s = 0.1\n{more}\n'
    )


def rates(**more):
    raised = {"devices/bulk": 1000, "devices/write": 1000, "twins/query": 1000, "twins/read": 5000, "twins/write": 5000}
    text = ", ".join(f'"{name}" = {float(rate)}' for name, rate in {**raised, **more}.items())
    return f"rates = {{{text}}}"


def fleet(tmp_path, *sections):
    file = tmp_path / "fleet.toml"
    file.write_text('[fleet]\ndata = "data"\n' + "".join(sections))
    return IoTFleetManager(config=load(file), create=True)


async def drift(manager, name="azure"):
    """How many entities were compared, and where the hub differs."""
    found, compared, cursor = [], 0, None
    while True:
        part = await manager.list_mirror_drift(name, after=cursor, limit=50)
        compared += part.compared
        found += [(each.entity, each.state) for each in part.differences]
        cursor = part.next
        if cursor is None:
            return compared, found


async def test_a_fleet_is_mirrored_through_an_outage(tmp_path, front):
    more = f'mirror = ["registry", "twins"]\nmetrics = ["*"]\n{rates()}'
    async with fleet(tmp_path, section(front, more)) as manager:
        await (await manager.open()).serve()
        mirror = (await manager.open()).mirrors["azure"]
        await manager.create_group("lab")
        await manager.register_device("dev.1", "sensor")
        await manager.add_to_group("lab", ["dev.1"])
        await manager.collect_telemetry("dev.1", "temperature", 21.5)
        await until(lambda: "dev.1" in front.hub.devices and front.hub.events)
        front.faults.down = True
        await manager.set_desired("dev.1", {"interval": 60})
        await until(lambda: mirror.state == "failing")
        front.faults.heal()
        await manager.resume_mirror("azure")
        await until(lambda: front.hub.devices["dev.1"].desired == {"interval": 60} and mirror.sender.idle)
        shown = await manager.get_mirror("azure")
        found = await drift(manager)

    there = front.hub.devices["dev.1"]
    assert there.tags["fleetcore"]["fleet"].startswith("default-")
    assert there.tags["fleetcore"]["groups"] == {"lab": True}
    assert (shown.state, shown.invalid, found) == ("running", 0, (2, []))


async def test_what_azure_users_want_and_command_comes_into_the_fleet(tmp_path, front, hub):
    more = (
        'mirror = ["registry", "twins"]\ndirection = {desired = "both"}\ncommands = ["reboot"]\npoll_s = 1\n'
        f'commands_by = "desired"\ncommands_poll_s = 0.05\n{rates()}'
    )
    async with fleet(tmp_path, section(front, more)) as manager:
        await (await manager.open()).serve()
        mirror = (await manager.open()).mirrors["azure"]
        await manager.register_device("dev-1", "sensor")
        await manager.set_desired("dev-1", {"interval": 60, "mode": "eco"})
        await until(lambda: "dev-1" in front.hub.devices and front.hub.devices["dev-1"].desired and mirror.sender.idle)

        await hub.edit(EntityKey("twin", "dev-1"), {"desired": {"interval": 60, "mode": "fast"}})

        async def taken():
            return (await manager.get_twin("dev-1")).desired == {"interval": 60, "mode": "fast"}

        await until(taken)
        await hub.command("dev-1", "reboot", {"delay_s": 5})

        async def arrived():
            return await manager.list_device_commands("dev-1")

        await until(arrived)
        commands = await manager.list_device_commands("dev-1")
        await until(lambda: "fleetcore" not in front.hub.devices["dev-1"].desired)

    assert [(each.name, each.args, each.issued_by) for each in commands] == [("reboot", {"delay_s": 5}, "mirror/azure")]


async def test_what_devices_report_to_the_fleet_is_reported_at_the_hub_until_they_report_there(
    tmp_path, front, the_device_itself
):
    more = f'device_link = "mqtt"\nlink_endpoint = "{front.devices.endpoint}"\nimports = true\npoll_s = 1\n'
    more += 'mirror = ["registry", "twins"]\n'
    async with fleet(tmp_path, section(front, more + rates())) as manager:
        await (await manager.open()).serve()
        mirror = (await manager.open()).mirrors["azure"]
        await manager.register_device("dev-1", "sensor")
        await (await manager.open()).twins.report("dev-1", {"battery": 0.5, "old": 1})
        await until(lambda: front.hub.devices.get("dev-1") and front.hub.devices["dev-1"].reported)
        await (await manager.open()).twins.report("dev-1", {"battery": 0.25, "old": None})
        await until(lambda: front.hub.devices["dev-1"].reported == {"battery": 0.25} and mirror.sender.idle)
        found = await drift(manager)
        ours = front.devices.opened["dev-1"]

        await manager.update_device("dev-1", home="azure")
        async with the_device_itself("dev-1") as device:
            device.publish("$iothub/twin/PATCH/properties/reported/?$rid=1", '{"battery": 0.125}')

            async def reported():
                return (await manager.get_twin("dev-1")).reported == {"battery": 0.125}

            await until(reported)
            await manager.set_desired("dev-1", {"interval": 60})
            await until(lambda: front.hub.devices["dev-1"].desired == {"interval": 60} and mirror.sender.idle)
            opened = front.devices.opened["dev-1"] - ours

    assert found == (2, [])
    assert opened == 1, "the device itself, once"
    assert front.hub.devices["dev-1"].reported == {"battery": 0.125}


async def test_leaves_stand_below_their_gateways_at_the_hub_and_follow_them(tmp_path, front):
    def below(name):
        there = front.hub.devices.get(name)
        return None if there is None or not there.scope else there.scope.split("/")[-1].rpartition("-")[0]

    async with fleet(tmp_path, section(front, f'mirror = ["registry", "twins"]\n{rates()}')) as manager:
        await manager.create_device("box-1", "box", attributes={"gateway": {"may_register": True}})
        await manager.register_device("box-2", "box")
        for number in range(5):
            await manager.register_device(f"a-leaf-{number}", "sensor", {"gateway": "box-1"})
        await (await manager.open()).serve()
        mirror = (await manager.open()).mirrors["azure"]
        await until(lambda: {below(f"a-leaf-{number}") for number in range(5)} == {"box-1"})
        await manager.update_device("a-leaf-0", gateway="box-2")
        await manager.update_device("a-leaf-1", gateway=None)
        await until(lambda: (below("a-leaf-0"), below("a-leaf-1")) == ("box-2", None))
        await until(lambda: mirror.sender.idle)
        found = await drift(manager)

    assert found == (7, [])
    assert [name for name, each in front.hub.devices.items() if each.edge] == ["box-1", "box-2"]


async def test_an_import_takes_gateways_over_and_leaves_what_it_does_not_know(tmp_path, front):
    box = front.hub.make("z-box", {"capabilities": {"iotEdge": True}})
    off = front.hub.make("off", {"capabilities": {"iotEdge": True}, "status": "disabled"})
    for name, above in (("a-leaf", box), ("b-leaf", off)):
        front.hub.make(name, {"deviceScope": above.scope})
    async with fleet(tmp_path, section(front, f'mirror = ["registry"]\nimports = true\n{rates()}')) as manager:
        await (await manager.open()).serve()
        mirror = (await manager.open()).mirrors["azure"]
        started = await manager.import_mirror("azure", type="pump")

        async def over():
            return (await manager.get_operation(started.id)).state != "running"

        await until(over)
        await until(lambda: mirror.sender.idle)
        gateways = [(await manager.get_device(name)).gateway for name in ("z-box", "a-leaf", "b-leaf")]
        found = await drift(manager)

    assert gateways == [None, "z-box", None]
    assert found == (3, [])
    assert [front.hub.devices[name].scope for name in ("a-leaf", "b-leaf")] == [box.scope, off.scope]


async def talk(manager, stop):
    """Devices report and are given new desired state, come and go, until told to stop; returns how many rounds."""
    rounds = 0
    while not stop.is_set():
        for number in range(0, DEVICES, 4):
            await manager.collect_telemetry(f"pump-{number}", "heat", float(rounds))
            await manager.set_desired(f"pump-{number}", {"round": rounds, "nested": {"at": number}})
        await manager.register_device(f"late-{rounds}", "sensor")
        if rounds:
            await manager.erase_device(f"late-{rounds - 1}")
        rounds += 1
        await asyncio.sleep(0.02)
    return rounds


async def test_two_hubs_are_in_step_after_one_was_cut_throttled_and_lagged(tmp_path, monkeypatch, ca, front):
    monkeypatch.setattr("fleetcore.pipeline.back_off._WAITS_S", (0.05,))
    monkeypatch.setattr("fleetcore.pipeline.mirror.sender._AGAIN_S", 0.05)
    more = f'mirror = ["registry", "twins"]\nmetrics = ["*"]\ndelete = true\n{rates()}'
    async with serving(Hub(), ca=ca) as shaky:
        both = {"steady": front, "shaky": shaky}
        async with fleet(tmp_path, *(section(at, more, name) for name, at in both.items())) as manager:
            await (await manager.open()).serve()
            for number in range(DEVICES):
                await manager.register_device(f"pump-{number}", "pump", {"site": "north"})
            stop = asyncio.Event()
            talking = asyncio.create_task(talk(manager, stop))

            async def rounds(more):
                before = (await manager.get_twin("pump-0")).desired_version

                async def talked():
                    return (await manager.get_twin("pump-0")).desired_version >= before + more

                await until(talked)

            await rounds(3)
            shaky.faults.down = True

            async def failing():
                return (await manager.get_mirror("shaky")).state == "failing"

            await until(failing)
            await rounds(3)
            shaky.faults.heal()
            shaky.hub.index_lag_s = 60.0
            for fault in ("throttled", "halved", "errors", "lost", "partly", "cut_bodies"):
                setattr(shaky.faults, fault, 8)
            await manager.resume_mirror("shaky")
            await rounds(3)
            stop.set()
            assert await talking >= 9
            for name in both:
                await until(lambda name=name: _is_in_step(manager, name))
            shown = {name: await manager.get_mirror(name) for name in both}
            found = {name: await drift(manager, name) for name in both}

    # The devices and the one that came last, and the twins of every fourth.
    assert found == dict.fromkeys(both, (DEVICES + 1 + DEVICES // 4, []))
    for name, at in both.items():
        assert (shown[name].waiting, shown[name].invalid) == (0, 0)
        assert len(at.hub.devices) == DEVICES + 1
    assert shaky.faults.throttled == 0
    assert shown["steady"].counts.get("failed", 0) == 0


async def _is_in_step(manager, name):
    opened = await manager.open()
    mirror, position = opened.mirrors[name], await opened.storage.position()
    shown = await manager.get_mirror(name)
    return (
        mirror.tracker.status.position >= position
        and mirror.readings.status.position >= position
        and shown.waiting == 0
        and shown.snapshot is None
        and mirror.sender.idle
    )


async def test_an_existing_fleet_is_imported_with_the_fewest_calls(tmp_path, front):
    for number in range(DEVICES):
        tags = {"site": "north", "serial": f"s-{number}"}
        made = front.hub.make(f"pump-{number:02d}", {"tags": tags, "properties": {"desired": {"interval": number}}})
        made.reported = {"battery": 0.5, "steps": [1, 2]}
        front.hub._touched(made)
    front.hub.make("no:name", {})
    front.hub.make("off", {"status": "disabled"})
    front.hub.make("theirs", {"tags": {"fleetcore": {"fleet": "other"}}})
    keys = front.hub.devices["pump-05"].keys
    more = f'mirror = ["registry", "twins"]\nimports = true\nwrite_every_s = 0\n{rates()}'.replace(
        "write_every_s = 0\n", ""
    )
    async with fleet(tmp_path, section(front, more)) as manager:
        await (await manager.open()).serve()
        mirror = (await manager.open()).mirrors["azure"]
        front.calls.clear()
        started = await manager.import_mirror("azure", type="pump")

        async def over():
            return (await manager.get_operation(started.id)).state != "running"

        await until(over)
        await manager.wait_idle()
        await until(lambda: mirror.sender.idle)
        calls = dict(front.calls)
        ended = await manager.get_operation(started.id)
        device, twin = await manager.get_device("pump-05"), await manager.get_twin("pump-05")
        front.hub.devices["pump-06"].reported = {"battery": 0.25}
        await manager.set_desired("pump-06", {"interval": 7})

        async def reported():
            return (await manager.get_twin("pump-06")).reported == {"battery": 0.25}

        await until(reported)
        await until(lambda: mirror.sender.idle)
        found = await drift(manager)

    assert (ended.result["devices"], ended.failed) == (DEVICES, 3)
    assert (device.type, device.attributes) == ("pump", {"site": "north", "serial": "s-5"})
    assert (twin.desired, twin.reported) == ({"interval": 5}, {"battery": 0.5, "steps": [1, 2]})
    there = front.hub.devices["pump-05"]
    assert there.tags["fleetcore"]["fleet"].startswith("default-")
    assert (there.desired, there.keys) == ({"interval": 5}, keys)
    assert found == (2 * DEVICES, [])
    assert front.hub.devices["theirs"].tags == {"fleetcore": {"fleet": "other"}}
    # Registration and twin are taken over by a write each, under the ETags that page and write have told. Where both are
    # under way at once, one of them is repeated.
    assert calls.keys() - {"twins/read"} == {"twins/query", "twins/write"}
    assert calls["twins/query"] == 2, "edges are asked for first"
    assert 2 * DEVICES <= calls["twins/write"] <= 3 * DEVICES
    assert calls.get("twins/read", 0) <= 3 * (calls["twins/write"] - 2 * DEVICES)


async def test_a_device_that_changes_while_it_is_imported_is_taken_over_as_it_is(tmp_path, front):
    front.hub.make("pump-1", {"tags": {"site": "north"}, "properties": {"desired": {"interval": 1}}})
    do, changes = front.hub.do, [1]

    def changing(call):
        answer = do(call)
        if call.operation == "Query" and changes:
            changes.pop()
            front.hub.edit("pump-1", tags={"site": "south"}, desired={"interval": 2})
        return answer

    front.hub.do = changing
    more = (
        'mirror = ["registry", "twins"]\nimports = true\n'
        f'direction = {{desired = "both", registry = "both"}}\nwins = {{registry = "cloud"}}\n{rates()}'
    )
    async with fleet(tmp_path, section(front, more)) as manager:
        await (await manager.open()).serve()
        await manager.import_mirror("azure", type="pump")

        async def in_step():
            try:
                device, twin = await manager.get_device("pump-1"), await manager.get_twin("pump-1")
            except Exception:
                return False
            return device.attributes == {"site": "south"} and twin.desired == {"interval": 2}

        await until(in_step)

        async def without_drift():
            return await drift(manager) == (2, [])

        await until(without_drift)
