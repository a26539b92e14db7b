"""What comes from a hub: commands are run once, and what the fleet does not take is told."""

import asyncio

import pytest

from fleetcore.interfaces.cloud import Arrived, CloudChange, CloudCommand
from fleetcore.model.mirror import EntityKey
from fleetcore.pipeline.mirror.inbox import KIND
from fleetcore.testing.memory_cloud import MemoryCloud
from fleetcore.testing.patience import PATIENCE_S, until

from .conftest import caught_up, twin

SECTION = '[clouds.memory]\ncommands = ["reboot"]'


def reboot(number, device="dev-1", name="reboot"):
    return CloudCommand(id=f"c{number}", device=device, name=name, args={"delay_s": number})


async def arrived(manager, hub):
    inbox = (await manager.open()).mirrors["memory"].inbox
    await until(lambda: sum(inbox.counts.values()) >= len(hub.events))


async def test_a_command_of_the_hub_is_a_command_of_the_fleet(served, hub):
    hub.events += [reboot(1), reboot(2)]
    async with served(SECTION) as manager:
        await manager.register_device("dev-1", "sensor")
        hub.events += [reboot(3)]
        await arrived(manager, hub)
        commands = await manager.list_device_commands("dev-1")
        shown = await manager.get_mirror("memory")

    assert {(each.name, each.args["delay_s"], each.issued_by) for each in commands} >= {("reboot", 3, "mirror/memory")}
    assert shown.inbox.commands + shown.inbox.refused == 3


async def test_a_command_that_comes_again_is_run_once(served, hub):
    async with served(SECTION) as manager:
        await manager.register_device("dev-1", "sensor")
        hub.events += [reboot(1), reboot(1)]
        await arrived(manager, hub)
    async with served(SECTION) as manager:
        # As after a crash between the command and the place in the hub.
        mirror = (await manager.open()).mirrors["memory"]
        await mirror.inbox.take(Arrived(events=[reboot(1)]))
        commands = await manager.list_device_commands("dev-1")

    assert [each.args for each in commands] == [{"delay_s": 1}]


async def test_what_was_taken_is_not_asked_for_again_after_a_restart(served, hub):
    hub.events += [reboot(1, device="nobody")]
    async with served(SECTION) as manager:
        await arrived(manager, hub)
        storage = (await manager.open()).storage
        async with asyncio.timeout(PATIENCE_S):
            while await storage.get(KIND, "memory") is None:  # the position is saved after its messages
                await asyncio.sleep(0)
    hub.events += [reboot(2, device="nobody")]
    async with served(SECTION) as manager:
        inbox = (await manager.open()).mirrors["memory"].inbox
        await until(lambda: inbox.counts["refused"])

        assert [each[0] for each in inbox.refused] == ["c2"]


async def test_a_command_that_the_fleet_does_not_take_is_told_and_holds_up_none(served, hub):
    async with served(SECTION + "\nwhere = \"type = 'sensor'\"") as manager:
        await manager.register_device("dev-1", "sensor")
        await manager.register_device("truck-1", "truck")
        await manager.register_device("old", "sensor")
        await manager.retire_device("old")
        hub.events += [
            reboot(1, name="wipe"), reboot(2, device="nobody"), reboot(3, device="truck-1"), reboot(4, device="old"),
            reboot(5),
        ]  # fmt: skip
        await arrived(manager, hub)
        refused = await manager.list_mirror_refused_commands("memory")
        commands = await manager.list_device_commands("dev-1")

    assert [each.args for each in commands] == [{"delay_s": 5}]
    assert {each.id for each in refused} == {"c1", "c2", "c3", "c4"}
    assert "[clouds.memory] commands does not name 'wipe'" in {each.id: each.reason for each in refused}["c1"]


async def test_without_the_setting_no_command_comes_in(served, hub):
    hub.events += [reboot(1)]
    async with served() as manager:
        await manager.register_device("dev-1", "sensor")
        await caught_up(manager)

        assert (await manager.get_mirror("memory")).inbox is None
        assert len(await manager.list_device_commands("dev-1")) == 0


async def test_word_of_a_change_has_the_entity_read(served, hub):
    section = '[clouds.memory]\nmirror = ["twins"]\npoll_s = 86400\ndirection = {desired = "both"}'
    async with served(section) as manager:
        await manager.register_device("dev-1", "sensor")
        await manager.set_desired("dev-1", {"interval": 60})
        await caught_up(manager)
        hub.edit(twin("dev-1"), {"desired": {"interval": 5}, "reported": {}})
        hub.events += [CloudChange(entity=EntityKey("twin", "dev-1"))]
        await arrived(manager, hub)
        await caught_up(manager)

        assert (await manager.get_twin("dev-1")).desired == {"interval": 5}


async def test_a_hub_that_fails_while_it_is_listened_to_is_listened_to_again(served, hub, monkeypatch):
    monkeypatch.setattr("fleetcore.pipeline.mirror.engine.back_off_s", lambda _failures: 0.01)
    listen, failures = MemoryCloud.inbound, iter([RuntimeError("a bug"), OSError("cut")])

    async def failing(self, after):
        for failure in failures:
            raise failure
        async for each in listen(self, after):
            yield each

    monkeypatch.setattr(MemoryCloud, "inbound", failing)
    async with served(SECTION) as manager:
        await manager.register_device("dev-1", "sensor")
        await manager.set_desired("dev-1", {"interval": 1})
        hub.events += [reboot(1)]
        await arrived(manager, hub)
        await caught_up(manager)

        assert hub.body(twin("dev-1"))["desired"] == {"interval": 1}
        assert len(await manager.list_device_commands("dev-1")) == 1


@pytest.mark.parametrize("text", ["not json", "{}"])
async def test_what_cannot_be_read_is_counted(served, text):
    async with served(SECTION) as manager:
        mirror = (await manager.open()).mirrors["memory"]
        await mirror.inbox.take(Arrived(events=[], invalid=[f"{text} is not a command"]))

        assert (await manager.get_mirror("memory")).inbox.invalid == 1


HALF = "\ud800"  # half a surrogate pair, which JSON can spell and no store can hold


@pytest.mark.parametrize(
    "odd",
    [
        CloudCommand(id="c1", device=HALF, name="reboot"),
        CloudCommand(id="c1", device="a\0b", name="reboot"),
        CloudCommand(id=HALF, device="dev-1", name="reboot"),
        CloudCommand(id="c1", device="dev-1", name=HALF),
        CloudCommand(id="c1", device="dev-1", name="reboot", args={HALF: 1}),
        CloudCommand(id="c1", device="dev-1", name="reboot", args={"delay_s": 2**70}),
        CloudChange(entity=twin(HALF)),
    ],
)
async def test_what_no_store_can_hold_holds_up_nothing(served, hub, odd):
    async with served('[clouds.memory]\ncommands = ["*"]') as manager:
        await manager.register_device("dev-1", "sensor")
        hub.events += [odd, reboot(2)]
        await arrived(manager, hub)
        commands = await manager.list_device_commands("dev-1")
        counts = (await manager.open()).mirrors["memory"].inbox.counts

    assert [each.args for each in commands] == [{"delay_s": 2}]
    assert counts["refused"] + counts["invalid"] == 1


async def test_word_of_a_change_has_nothing_sent_that_is_not_mirrored(served, hub):
    async with served('[clouds.memory]\nmirror = ["registry"]\ncommands = ["reboot"]') as manager:
        await manager.register_device("dev-1", "sensor")
        await manager.set_desired("dev-1", {"interval": 1})
        hub.events.append(CloudChange(entity=twin("dev-1")))
        await arrived(manager, hub)
        await caught_up(manager)

    assert twin("dev-1") not in hub.held
