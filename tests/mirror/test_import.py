"""What others have made at a hub becomes the fleet's: planned, registered, taken over at the hub, and once."""

import asyncio

import pytest

from fleetcore.errors import Conflict, Refused, StorageError
from fleetcore.fleet.adopting import Adopting
from fleetcore.interfaces.cloud import CloudCommand
from fleetcore.model.mirror import EntityKey, GroupBody, RegistryBody, TwinBody
from fleetcore.testing.patience import until
from fleetcore.wire.records import to_plain

from .conftest import caught_up

SECTION = '[clouds.memory]\nmirror = ["registry", "twins", "groups"]\nimports = true'


def device(hub, name, *, owner="", desired=None, reported=None, **members):
    body = RegistryBody(**{"type": "pump", "lifecycle": "", **members})
    hub.edit(EntityKey("registry", name), to_plain(body), owner=owner)
    if desired is not None or reported is not None:
        twin = TwinBody(desired=desired or {}, reported=reported or {})
        hub.edit(EntityKey("twin", name), to_plain(twin), owner=owner)


async def planned(manager, **given):
    found, after = [], None
    while True:
        part = await manager.list_mirror_import("memory", after=after, **given)
        found += part.found
        after = part.next
        if after is None:
            return {each.name: (each.action, each.reason) for each in found}


async def imported(manager, **given):
    started = await manager.import_mirror("memory", **given)
    ended = await manager.get_operation(started.id)
    while ended.state == "running":
        ended = await manager.get_operation(started.id)
    return ended


async def drift(manager):
    found, compared, after = [], 0, None
    while True:
        part = await manager.list_mirror_drift("memory", after=after)
        found, compared, after = found + part.differences, compared + part.compared, part.next
        if after is None:
            return found, compared


@pytest.fixture
def filled(hub):
    """A hub that others have used: 25 devices, two of which cannot be imported, and a group of three."""
    for number in range(22):
        groups = ("lab",) if number < 3 else ()
        device(
            hub,
            f"pump-{number:02d}",
            desired={"interval": number},
            reported={"battery": 0.5},
            groups=groups,
            tags=("outdoor",),
            attributes={"site": "north"},
        )
    device(hub, "door-1", type="")
    device(hub, "not a name")
    device(hub, "theirs", owner="another fleet")
    hub.edit(EntityKey("group", "lab"), to_plain(GroupBody(description="the lab")))
    return hub


async def test_an_import_is_planned_done_and_owned(served, filled):
    async with served(SECTION) as manager:
        plan = await planned(manager)
        assert not (await manager.list_devices()).items
        ended = await imported(manager, type="door")
        await caught_up(manager)
        found = {each.id: each for each in (await manager.list_devices(limit=100)).items}
        twin = await manager.get_twin("pump-07")
        differ, compared = await drift(manager)
        shown = await manager.get_mirror("memory")
        members = [each.device for each in (await manager.list_group_members("lab")).items]
        again = await planned(manager)

    assert {each for each, (action, _) in plan.items() if action == "create"} == {*found, "lab"}
    assert "not a device id" in plan["not a name"][1]
    assert "another fleet" in plan["theirs"][1]
    assert (ended.state, ended.done, ended.failed) == ("partly", 26, 2)
    assert {each.about for each in ended.failures} == {"not a name", "theirs"}
    assert ended.result == {"devices": 23, "groups": 1, "members": 3}
    assert len(found) == 23
    assert (found["pump-07"].type, found["pump-07"].tags, found["pump-07"].attributes) == (
        "pump",
        ["outdoor"],
        {"site": "north"},
    )
    assert found["door-1"].type == "door"
    assert (twin.desired, twin.reported) == ({"interval": 7}, {"battery": 0.5})
    assert members == ["pump-00", "pump-01", "pump-02"]
    assert filled.held[EntityKey("registry", "pump-07")].owner == filled.held[EntityKey("twin", "pump-07")].owner != ""
    assert filled.held[EntityKey("registry", "theirs")].owner == "another fleet"
    assert (differ, compared, shown.invalid) == ([], 46, 0)
    assert again.keys() == {"not a name", "theirs"}


async def test_a_device_that_the_fleet_has_already_is_left_as_it_is(served, hub):
    device(hub, "PUMP-1", desired={"interval": 9})
    async with served(SECTION) as manager:
        await manager.register_device("pump-1", "valve")
        plan = await planned(manager)
        ended = await imported(manager)
        kept = await manager.get_device("pump-1")

    assert plan["PUMP-1"][0] == "skip"
    assert (ended.state, ended.failures[0].code) == ("partly", "already_exists")
    assert kept.type == "valve"
    assert hub.held[EntityKey("registry", "PUMP-1")].owner == ""


async def test_what_changes_at_the_hub_before_it_is_taken_over_is_merged(served, hub):
    device(hub, "pump-1", desired={"interval": 9, "mode": "eco"})
    section = SECTION + '\npoll_s = 3600\ndirection = {desired = "both"}'
    async with served(section) as manager:
        mirror = (await manager.open()).mirrors["memory"]
        await manager.pause_mirror("memory")
        await imported(manager)
        device(hub, "pump-1", desired={"interval": 9, "mode": "fast"})
        await manager.set_desired("pump-1", {"interval": 5})
        await manager.resume_mirror("memory")
        await caught_up(manager)
        await until(lambda: mirror.sender.idle)
        twin = await manager.get_twin("pump-1")

    assert twin.desired == {"interval": 5, "mode": "fast"}
    assert hub.body(EntityKey("twin", "pump-1"))["desired"] == {"interval": 5, "mode": "fast"}


async def test_an_import_that_was_cut_off_goes_on_after_a_restart(served, filled, monkeypatch):
    monkeypatch.setattr("fleetcore.pipeline.back_off._WAITS_S", (0.01,))
    async with served(SECTION) as manager:
        started = await manager.import_mirror("memory")
        await until(lambda: filled.calls > 4)
        filled.go_down()
    filled.heal()
    async with served(SECTION) as manager:
        while (ended := await manager.get_operation(started.id)).state == "running":
            pass
        await caught_up(manager)
        differ, compared = await drift(manager)
        found = (await manager.list_devices(limit=100)).items

    assert ended.state == "partly"
    assert len(found) == 23
    assert (differ, compared) == ([], 46)


async def test_a_mirror_without_devices_imports_none(served, hub):
    async with served('[clouds.memory]\nmirror = ["twins"]\nimports = true') as manager:
        with pytest.raises(Refused, match="does not mirror devices"):
            await manager.list_mirror_import("memory")


async def test_a_mirror_that_may_not_import_says_what_to_add(served, hub):
    async with served('[clouds.memory]\nmirror = ["registry"]') as manager:
        with pytest.raises(Refused) as refused:
            await manager.import_mirror("memory")

    assert refused.value.remedy == "Add imports = true to [clouds.memory]"


async def finished(manager, operation):
    while (ended := await manager.get_operation(operation.id)).state == "running":
        await asyncio.sleep(0.005)
    return ended


async def test_an_import_says_that_its_hub_does_not_answer_and_goes_on_when_it_does(served, hub):
    device(hub, "pump-1")
    async with served(SECTION) as manager:
        fleet = await manager.open()
        await caught_up(manager)
        hub.go_down()
        started = await manager.import_mirror("memory")

        async def waits():
            return (await manager.get_operation(started.id)).waiting

        await until(waits)
        said, calls = await waits(), hub.calls
        for _ in range(20):
            await fleet.operations.tick()
        asked = hub.calls - calls
        hub.heal()
        ended = await finished(manager, started)

    assert "The hub in memory is down" in said
    assert asked <= 5, "a hub that does not answer is not asked again at once"
    assert (ended.state, ended.waiting, ended.result) == ("succeeded", "", {"devices": 1})


async def test_a_paused_import_waits(served, hub):
    for number in range(25):
        device(hub, f"pump-{number:02}")
    async with served(SECTION) as manager:
        fleet = await manager.open()
        started = await manager.import_mirror("memory")
        await manager.pause_operation(started.id)
        before = await manager.get_operation(started.id)
        for _ in range(5):
            await fleet.operations.tick()
        after = await manager.get_operation(started.id)
        await manager.resume_operation(started.id)
        ended = await finished(manager, started)
        with pytest.raises(Conflict, match="has ended"):
            await manager.pause_operation(started.id)

    assert before.paused == "paused by library:root"
    assert (after.done, after.updated) == (before.done, before.updated)
    assert (ended.state, ended.result, ended.paused) == ("succeeded", {"devices": 25}, None)


@pytest.mark.parametrize("commits", range(2, 30, 3))
async def test_an_import_ends_the_same_whichever_commit_is_its_last_before_a_crash(served, hub, monkeypatch, commits):
    monkeypatch.setattr("fleetcore.pipeline.back_off._WAITS_S", (0.01,))
    hub.edit(EntityKey("group", "lab"), to_plain(GroupBody()))
    for number in range(3):
        device(hub, f"pump-{number}", desired={"interval": number}, reported={"battery": 0.5}, groups=("lab",))
    async with served(SECTION) as manager:
        fleet = await manager.open()
        commit, left = fleet.storage.commit, commits

        async def mortal(change):
            nonlocal left
            if not left:
                raise StorageError("The disk is gone")
            left -= 1
            return await commit(change)

        started = await manager.import_mirror("memory")
        fleet.storage.commit = mortal
        for _ in range(200):
            await asyncio.sleep(0)
        await until(lambda: not left or fleet.mirrors["memory"].sender.idle)
        fleet.storage.commit = commit if left else mortal
    async with served(SECTION) as manager:
        while (ended := await manager.get_operation(started.id)).state == "running":
            await asyncio.sleep(0.005)
        await caught_up(manager)
        differ, compared = await drift(manager)
        twins = [(await manager.get_twin(f"pump-{number}")).desired for number in range(3)]
        members = [each.device for each in (await manager.list_group_members("lab")).items]
        paused = (await manager.get_mirror("memory")).paused

    assert (ended.failed, differ, compared, paused) == (0, [], 7, 0)
    assert twins == [{"interval": number} for number in range(3)]
    assert members == ["pump-0", "pump-1", "pump-2"]
    assert {each.owner for each in hub.held.values()} != {""}
    assert len({each.owner for each in hub.held.values()}) == 1


async def test_a_device_is_not_taken_over_before_all_of_it_is_here(served, hub, monkeypatch):
    device(hub, "pump-1", desired={"interval": 9})
    fill = Adopting.fill

    async def fails(*_, **__):
        raise StorageError("The disk is gone")

    monkeypatch.setattr(Adopting, "fill", fails)
    async with served(SECTION) as manager:
        started = await manager.import_mirror("memory")

        async def registered():
            return (await manager.list_devices()).items

        await until(registered)
        await caught_up(manager)
        assert hub.held[EntityKey("registry", "pump-1")].owner == ""
    monkeypatch.setattr(Adopting, "fill", fill)
    async with served(SECTION) as manager:
        while (ended := await manager.get_operation(started.id)).state == "running":
            await asyncio.sleep(0.005)
        await caught_up(manager)
        twin = await manager.get_twin("pump-1")

    assert (ended.state, ended.result) == ("succeeded", {"devices": 1})
    assert twin.desired == {"interval": 9}
    assert hub.held[EntityKey("registry", "pump-1")].owner == hub.held[EntityKey("twin", "pump-1")].owner != ""


async def test_a_device_that_is_imported_goes_on_reporting_at_the_hub(served, hub):
    device(hub, "pump-1", desired={"interval": 9}, reported={"interval": 3})
    key = EntityKey("twin", "pump-1")
    async with served(SECTION + "\npoll_s = 3600\ncommands = ['*']") as manager:
        mirror = (await manager.open()).mirrors["memory"]
        await imported(manager)
        await caught_up(manager)
        # It reports at the hub: the fleet hears of it, and what the fleet writes leaves it as it is.
        hub.edit(key, {"desired": {"interval": 9}, "reported": {"interval": 9, "battery": 0.4}})
        hub.edit(EntityKey("registry", "pump-1"), hub.body(EntityKey("registry", "pump-1")))
        differ, _ = await drift(manager)
        await manager.set_desired("pump-1", {"mode": "eco"})
        await caught_up(manager)
        twin = await manager.get_twin("pump-1")
        assert hub.body(key) == {"desired": {"interval": 9, "mode": "eco"}, "reported": {"interval": 9, "battery": 0.4}}
        assert twin.reported == {"interval": 9, "battery": 0.4}
        assert (differ, (await manager.get_device("pump-1")).home) == ([], "memory")
        hub.events.append(CloudCommand(id="c1", device="pump-1", name="blink"))
        await until(lambda: mirror.inbox.refused)
        # Where it comes home to the fleet, it reports here again.
        await manager.update_device("pump-1", home=None)
        hub.edit(key, {"desired": {"interval": 9, "mode": "eco"}, "reported": {"interval": 1}})
        await manager.resync_mirror("memory", entity="twin/pump-1")
        await manager.set_desired("pump-1", {"mode": "fast"})
        await caught_up(manager)

    assert "receives it there" in mirror.inbox.refused[0][3]
    assert hub.body(key)["reported"] == {"interval": 9, "battery": 0.4}


async def test_what_another_fleet_said_in_its_own_name_is_not_imported(served, hub):
    device(hub, "pump-1", desired={"interval": 9, "fleetcore": {"trust": {"version": 1}}})
    async with served(SECTION) as manager:
        ended = await imported(manager)
        await caught_up(manager)
        twin = await manager.get_twin("pump-1")
        differ, _ = await drift(manager)

    assert (ended.state, twin.desired, differ) == ("succeeded", {"interval": 9}, [])
