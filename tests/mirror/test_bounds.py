"""What keeps a mirror in bounds: daily budgets, removals, loops; and what brings a hub in step again."""

import pytest

from fleetcore.errors import NotFound, Unavailable
from fleetcore.fleet.mirrors import VIA
from fleetcore.testing.memory_cloud import MemoryCloud
from fleetcore.testing.patience import until

from .conftest import caught_up, registry, twin


async def drift(manager):
    found, cursor = [], None
    while True:
        part = await manager.list_mirror_drift("memory", limit=2, after=cursor)
        found += [(each.entity, each.state) for each in part.differences]
        cursor = part.next
        if cursor is None:
            return found


async def plan(manager):
    found, cursor = [], None
    while True:
        page = await manager.plan_mirror("memory", limit=2, cursor=cursor)
        found += [(each.entity, each.action) for each in page]
        cursor = page.next
        if cursor is None:
            return found


async def erase(manager, *devices):
    for device in devices:
        await manager.erase_device(device)


async def test_a_fleet_that_is_emptied_is_not_emptied_at_the_hub(served, hub):
    section = '[clouds.memory]\nmirror = ["registry"]\ndelete = true\nremovals_per_day = 2'
    async with served(section) as manager:
        for number in range(5):
            await manager.register_device(f"dev-{number}", "sensor")
        await caught_up(manager)
        await erase(manager, *(f"dev-{number}" for number in range(5)))
        mirror = (await manager.open()).mirrors["memory"]
        await until(lambda: len(mirror.sender.removals_wait) == 3)
        shown = await manager.get_mirror("memory")
        assert (len(hub.held), shown.removals_wait, shown.waiting) == (3, 3, 3)
        assert {row.action for row in await manager.list_audit(object="memory")} == {"mirror.budget_spent"}
    async with served(section) as manager:
        mirror = (await manager.open()).mirrors["memory"]
        await until(lambda: len(mirror.sender.removals_wait) == 3)
        await manager.register_device("dev-9", "sensor")
        await until(lambda: registry("dev-9") in hub.held)
        assert len(hub.held) == 4, "a restart is not a new day, and what waits holds up no other"

        await manager.allow_mirror_removals("memory", 2)
        await until(lambda: len(hub.held) == 2)
        await until(lambda: len(mirror.sender.removals_wait) == 1)


async def test_a_plan_names_what_is_gone_where_it_would_be_removed(served, hub):
    for delete, expected in (("false", []), ("true", [("registry/dev-1", "remove")])):
        async with served(f'[clouds.memory]\nmirror = ["registry"]\ndelete = {delete}') as manager:
            if delete == "false":
                await manager.register_device("dev-1", "sensor")
                await caught_up(manager)
                await manager.pause_mirror("memory")
                await erase(manager, "dev-1")
            await manager.wait_idle()

            assert await plan(manager) == expected


async def test_a_days_budget_of_readings_holds_over_a_restart_and_is_told(served, hub):
    section = '[clouds.memory]\nmetrics = ["*"]\nmessages_per_day = 3'
    for _ in range(2):
        async with served(section) as manager:
            if "dev-1" not in [each.id for each in await manager.list_devices()]:
                await manager.register_device("dev-1", "sensor")
            for value in (1.0, 2.0):
                await manager.collect_telemetry("dev-1", "heat", value)
            await caught_up(manager)
            shown = await manager.get_mirror("memory")
            rows = await manager.list_audit(object="memory")

    assert len(hub.telemetry) == 3
    assert shown.readings.over_budget == 1
    assert [row.action for row in rows] == ["mirror.budget_spent"]


async def test_apply_brings_the_hub_in_step(served, hub):
    section = '[clouds.memory]\nmirror = ["registry", "twins"]\ndelete = true'
    async with served(section) as manager:
        for number in range(3):
            await manager.register_device(f"dev-{number}", "sensor")
            await manager.set_desired(f"dev-{number}", {"interval": number})
        await caught_up(manager)
        hub.edit(twin("dev-0"), {"desired": {"interval": 9}, "reported": {}})
        hub.edit(twin("dev-1"), None)
        hub.edit(registry("ghost"), {"type": "sensor", "lifecycle": "active"}, owner=hub.held[registry("dev-1")].owner)
        found = await drift(manager)
        assert sorted(found) == [("registry/ghost", "extra"), ("twin/dev-0", "differs"), ("twin/dev-1", "missing")]
        writes = hub.writes.total()

        operation = await manager.apply_mirror("memory")
        fleet = await manager.open()
        await fleet.operations.run(operation.id)
        await caught_up(manager)

        ended = await manager.get_operation(operation.id)
        assert (ended.state, ended.result) == ("succeeded", {"compared": 6, "differs": 1, "missing": 1, "extra": 1})
        assert await drift(manager) == []
        assert hub.writes.total() == writes + 3
        assert registry("ghost") not in hub.held


async def test_apply_leaves_what_the_hub_alone_has_where_nothing_is_removed(served, hub):
    async with served('[clouds.memory]\nmirror = ["registry"]') as manager:
        await manager.register_device("dev-1", "sensor")
        await caught_up(manager)
        hub.edit(registry("ghost"), {"type": "sensor", "lifecycle": "active"}, owner=hub.held[registry("dev-1")].owner)

        operation = await manager.apply_mirror("memory")
        await (await manager.open()).operations.run(operation.id)
        await caught_up(manager)

        assert registry("ghost") in hub.held
        assert (await manager.get_mirror("memory")).held == 1


async def test_a_device_comes_and_goes_with_the_query_whatever_changes(served, hub):
    section = '[clouds.memory]\nmirror = ["registry", "twins"]\ndelete = true\nwhere = "desired.cloud = true"'
    async with served(section) as manager:
        await manager.register_device("dev-1", "sensor")
        await caught_up(manager)
        assert not hub.held

        await manager.set_desired("dev-1", {"cloud": True})
        await caught_up(manager)
        assert set(hub.held) == {registry("dev-1"), twin("dev-1")}

        await manager.set_desired("dev-1", {"cloud": False})
        await caught_up(manager)
        assert not hub.held


async def test_a_device_is_in_the_groups_around_its_group_as_they_change(served, hub):
    async with served('[clouds.memory]\nmirror = ["registry", "groups"]') as manager:
        for group in ("hall", "site"):
            await manager.create_group(group)
        await manager.register_device("dev-1", "sensor")
        await manager.add_to_group("hall", ["dev-1"])
        await caught_up(manager)
        assert hub.body(registry("dev-1"))["groups"] == ["hall"]

        await manager.update_group("hall", within=["site"])
        await caught_up(manager)
        assert hub.body(registry("dev-1"))["groups"] == ["hall", "site"]


@pytest.mark.parametrize(
    ("via", "sent"), [([], True), (["a"], True), (["a", "b"], True), (["a", "b", "c"], False), (None, False)]
)
async def test_a_device_that_came_through_too_many_fleets_goes_no_further(served, hub, via, sent):
    async with served('[clouds.memory]\nmirror = ["registry"]') as manager:
        via = [(await manager.open()).id] if via is None else via
        await manager.pause_mirror("memory")
        await manager.register_device("dev-1", "sensor")
        await manager.update_device("dev-1", attributes={VIA: via, "site": "north"})
        await manager.register_device("dev-2", "sensor")
        await manager.resume_mirror("memory")
        await caught_up(manager)

        assert registry("dev-2") in hub.held
        assert hub.writes[registry("dev-1")] == sent
        if sent and via:
            assert hub.body(registry("dev-1"))["via"] == via
            assert hub.body(registry("dev-1"))["attributes"] == {"site": "north"}


async def test_another_hub_under_the_same_name_gets_everything(served, hubs):
    for hub in ("hub", "other", "other"):
        async with served(f'[clouds.memory]\nmirror = ["registry"]\nhub = "{hub}"') as manager:
            if hub == "hub":
                await manager.register_device("dev-1", "sensor")
            await caught_up(manager)
            held = (await manager.get_mirror("memory")).held

            assert registry("dev-1") in hubs[hub].held
            assert held == 1
    assert hubs["other"].writes[registry("dev-1")] == 1


async def test_two_mirrors_to_one_hub_do_not_make_each_other_write(served, hub):
    sections = ('[clouds.memory]\nkind = "memory"', '[clouds.second]\nkind = "memory"')
    async with served(*sections) as manager:
        for number in range(20):
            await manager.register_device(f"dev-{number}", "sensor")
            await manager.set_desired(f"dev-{number}", {"interval": number})
        for name in ("memory", "second"):
            await caught_up(manager, name)
        writes = hub.writes.total()
        await manager.set_desired("dev-1", {"interval": 99})
        for name in ("memory", "second"):
            await manager.resync_mirror(name)
            await caught_up(manager, name)

        assert hub.body(twin("dev-1"))["desired"] == {"interval": 99}
        assert hub.writes.total() == writes + 1


async def test_a_mirror_whose_place_was_dropped_begins_anew(served, hub):
    async with served('[clouds.memory]\nmirror = ["registry"]') as manager:
        await manager.register_device("dev-1", "sensor")
        await caught_up(manager)
    async with served("# none") as manager:
        await manager.drop_left_behind("mirror/memory")
    hub.held.clear()
    async with served('[clouds.memory]\nmirror = ["registry"]') as manager:
        await caught_up(manager)

    assert registry("dev-1") in hub.held


async def test_what_was_made_without_an_answer_is_removed_when_it_goes(served, hub):
    async with served('[clouds.memory]\nmirror = ["registry"]\ndelete = true') as manager:
        hub.lose_answers(1)
        await manager.register_device("dev-1", "sensor")
        await until(lambda: registry("dev-1") in hub.held)
        assert (await manager.get_mirror("memory")).held == 0
        await manager.pause_mirror("memory")
        await erase(manager, "dev-1")
        await manager.resume_mirror("memory")
        await until(lambda: registry("dev-1") not in hub.held)
        await caught_up(manager)

        assert await drift(manager) == []


async def test_the_twin_of_an_erased_device_goes_from_the_hub_with_it(served, hub):
    async with served('[clouds.memory]\nmirror = ["registry", "twins"]\ndelete = true') as manager:
        for device in ("dev-1", "dev-2"):
            await manager.register_device(device, "sensor")
            await manager.set_desired(device, {"interval": 1})
        await caught_up(manager)
        await erase(manager, "dev-1")
        await caught_up(manager)

        assert set(hub.held) == {registry("dev-2"), twin("dev-2")}
        assert await drift(manager) == []


async def test_a_scan_that_breaks_off_is_made_again(served, hub, monkeypatch):
    entities, breaks = MemoryCloud.entities, iter([Unavailable("The page token has expired", code="not_ready")])

    async def breaking(self, facet):
        given = 0
        async for key in entities(self, facet):
            if given == 2:
                for broken in breaks:
                    raise broken
            given += 1
            yield key

    monkeypatch.setattr(MemoryCloud, "entities", breaking)
    async with served('[clouds.memory]\nmirror = ["registry"]\ndelete = true') as manager:
        for number in range(5):
            await manager.register_device(f"dev-{number}", "sensor")
        await caught_up(manager)
        hub.edit(registry("ghost"), {"type": "sensor", "lifecycle": "active"}, owner=hub.held[registry("dev-1")].owner)
        hub.edit(registry("dev-3"), None)

        operation = await manager.apply_mirror("memory")
        await (await manager.open()).operations.run(operation.id)
        await caught_up(manager)

        assert set(hub.held) == {registry(f"dev-{number}") for number in range(5)}
        assert await drift(manager) == []


async def test_a_device_that_is_there_again_does_not_wait_for_its_removal(served, hub):
    section = '[clouds.memory]\nmirror = ["registry"]\ndelete = true\nremovals_per_day = 0'
    async with served(section) as manager:
        await manager.register_device("dev-1", "sensor")
        await caught_up(manager)
        await manager.erase_device("dev-1")
        sender = (await manager.open()).mirrors["memory"].sender
        await until(lambda: sender.removals_wait)
        await manager.register_device("dev-1", "pump")
        await until(lambda: hub.body(registry("dev-1"))["type"] == "pump")


async def test_what_is_gone_from_the_fleet_is_no_dead_letter(served, hub):
    async with served('[clouds.memory]\nmirror = ["registry", "twins"]') as manager:
        await manager.register_device("dev-1", "sensor")
        await manager.set_desired("dev-1", {"text": "x" * 9000})
        await caught_up(manager)
        assert [each.entity for each in await manager.list_mirror_dead_letters("memory")] == ["twin/dev-1"]
        await manager.erase_device("dev-1")
        await caught_up(manager)

        assert (await manager.get_mirror("memory")).invalid == 0


async def test_a_twin_goes_with_its_device(served, hub):
    async with served('[clouds.memory]\nmirror = ["registry", "twins"]\ndelete = true') as manager:
        await manager.register_device("dev-1", "sensor")
        await manager.set_desired("dev-1", {"interval": 1})
        await caught_up(manager)
        assert twin("dev-1") in hub.held
        await manager.erase_device("dev-1")
        await caught_up(manager)

    assert not hub.held


async def test_an_entity_that_is_paused_while_it_is_written_stays_paused(served, hub):
    async with served('[clouds.memory]\nmirror = ["registry"]') as manager:
        await manager.register_device("dev-1", "sensor")
        await caught_up(manager)
        hub.answer_s = 0.1
        await manager.update_device("dev-1", tags=["a"])
        calls = hub.calls
        await until(lambda: hub.calls > calls)
        await manager.pause_mirror("memory", entity="registry/dev-1")
        hub.answer_s = 0.0
        await manager.update_device("dev-1", tags=["b"])
        await caught_up(manager)
        shown = await manager.get_mirror("memory")

        assert (shown.paused, hub.body(registry("dev-1"))["tags"]) == (1, ["a"])
        await manager.resume_mirror("memory", entity="registry/dev-1")
        await caught_up(manager)
        assert hub.body(registry("dev-1"))["tags"] == ["b"]


async def test_one_dead_letter_is_tried_again(served, hub):
    async with served('[clouds.memory]\nmirror = ["registry"]') as manager:
        for device in ("dev-1", "dev-2"):
            hub.edit(registry(device), {"type": "theirs", "lifecycle": "active"}, owner="another")
            await manager.register_device(device, "sensor")
        await caught_up(manager)
        assert len(await manager.list_mirror_dead_letters("memory")) == 2
        hub.held.clear()

        await manager.resync_mirror("memory", entity="registry/dev-1")
        await caught_up(manager)

        assert set(hub.held) == {registry("dev-1")}
        assert [each.entity for each in await manager.list_mirror_dead_letters("memory")] == ["registry/dev-2"]
        with pytest.raises(NotFound, match="has no registry/nobody"):
            await manager.resync_mirror("memory", entity="registry/nobody")
