"""What goes both ways between fleet and hub: each leaf as the side has it that changed it, and no change is lost."""

import pytest

from fleetcore.errors import ConfigError, NotFound
from fleetcore.testing.patience import until

from .conftest import caught_up, registry, twin

BOTH = (
    '[clouds.memory]\nmirror = ["registry", "twins"]\npoll_s = 3600\ndirection = {desired = "both", registry = "both"}'
)


async def desired(manager, device="dev-1"):
    return dict((await manager.get_twin(device)).desired)


@pytest.fixture
async def manager(served):
    async with served(BOTH) as found:
        await found.register_device("dev-1", "sensor")
        await found.update_device("dev-1", tags=["outdoor"], attributes={"site": "north"})
        await found.set_desired("dev-1", {"interval": 60, "mode": "eco", "limits": {"low": 1, "high": 9}})
        await caught_up(found)
        yield found


async def polled(manager):
    """The hub is read once."""
    await manager.resync_mirror("memory")
    await caught_up(manager)


async def test_each_leaf_is_as_the_side_has_it_that_changed_it(manager, hub):
    await manager.pause_mirror("memory")
    await manager.set_desired("dev-1", {"interval": 30, "limits": {"low": 2}})
    hub.edit(
        twin("dev-1"), {"desired": {"interval": 60, "mode": "fast", "limits": {"low": 1}, "new": [1]}, "reported": {}}
    )
    await manager.resume_mirror("memory")
    await polled(manager)

    wanted = {"interval": 30, "mode": "fast", "limits": {"low": 2}, "new": [1]}
    assert await desired(manager) == wanted
    assert hub.body(twin("dev-1"))["desired"] == wanted


async def test_what_the_hub_changed_is_the_mirrors_doing_in_the_audit_log(manager, hub):
    hub.edit(twin("dev-1"), {"desired": {"interval": 5}, "reported": {}})
    await polled(manager)

    rows = await manager.list_audit(actor="mirror/memory")
    assert {(row.action, row.object) for row in rows} == {("twin.desired", "dev-1")}


@pytest.mark.parametrize(("wins", "value"), [("", 10), ('\nwins = {desired = "fleet"}', 20)])
async def test_a_leaf_that_both_changed_is_the_winners(served, hub, wins, value):
    async with served(BOTH + wins) as manager:
        await manager.register_device("dev-1", "sensor")
        await manager.set_desired("dev-1", {"interval": 60})
        await caught_up(manager)
        await manager.pause_mirror("memory")
        await manager.set_desired("dev-1", {"interval": 20})
        hub.edit(twin("dev-1"), {"desired": {"interval": 10}, "reported": {}})
        await manager.resume_mirror("memory")
        await polled(manager)
        shown = await manager.get_mirror("memory")

        assert await desired(manager) == {"interval": value}
        assert hub.body(twin("dev-1"))["desired"] == {"interval": value}
        assert shown.counts["both_changed"] == 1


async def test_what_a_device_reports_is_never_taken_from_the_hub(manager, hub):
    hub.edit(twin("dev-1"), {**hub.body(twin("dev-1")), "reported": {"battery": 0.1}})
    await polled(manager)

    assert (await manager.get_twin("dev-1")).reported == {}
    assert hub.body(twin("dev-1"))["reported"] == {}


async def test_tags_and_attributes_are_merged_one_by_one(manager, hub):
    await manager.pause_mirror("memory")
    await manager.update_device("dev-1", tags=["outdoor", "ours"])
    body = hub.body(registry("dev-1"))
    hub.edit(registry("dev-1"), {**body, "tags": ["theirs"], "name": "door", "attributes": {"site": "north", "row": 7}})
    await manager.resume_mirror("memory")
    await polled(manager)
    device = await manager.get_device("dev-1")

    assert (sorted(device.tags), device.name, device.attributes) == (
        ["ours", "theirs"], "door", {"site": "north", "row": 7},
    )  # fmt: skip
    assert hub.body(registry("dev-1"))["tags"] == ["ours", "theirs"]


async def test_a_lost_answer_is_not_taken_for_the_clouds_own_change(manager, hub):
    # The hub writes 1 and says nothing; the fleet wants 2 when it comes to ask.
    sender = (await manager.open()).mirrors["memory"].sender
    writes, asked = hub.writes[twin("dev-1")], hub.calls
    hub.lose_answers(1, after=1)  # reading is answered, writing is not
    await manager.set_desired("dev-1", {"interval": 1})
    await until(lambda: hub.writes[twin("dev-1")] > writes)
    await manager.set_desired("dev-1", {"interval": 2})
    await manager.resume_mirror("memory")
    await caught_up(manager)

    assert hub.calls > asked
    assert await desired(manager) == {"interval": 2, "mode": "eco", "limits": {"low": 1, "high": 9}}
    assert hub.body(twin("dev-1"))["desired"]["interval"] == 2
    assert sender.counts["both_changed"] == 0


async def test_both_sides_that_go_on_changing_do_not_make_each_other_change(manager, hub):
    for number in range(5):
        hub.edit(twin("dev-1"), {"desired": {"theirs": number}, "reported": {}})
        await manager.set_desired("dev-1", {"ours": number})
        await polled(manager)
    await caught_up(manager)
    writes, version = hub.writes[twin("dev-1")], (await manager.get_twin("dev-1")).desired_version
    for _ in range(3):
        await polled(manager)

    assert hub.writes[twin("dev-1")] == writes
    assert (await manager.get_twin("dev-1")).desired_version == version
    assert hub.body(twin("dev-1"))["desired"] == await desired(manager)


async def test_a_twin_that_is_removed_at_the_hub_is_made_again(manager, hub):
    hub.edit(twin("dev-1"), None)
    await polled(manager)

    assert hub.body(twin("dev-1"))["desired"] == await desired(manager)
    assert (await desired(manager))["interval"] == 60


async def test_what_the_fleet_does_not_take_is_a_dead_letter_and_the_hubs_is_left(manager, hub):
    theirs = {"desired": {"fleetcore": {"trust": "mine"}, "deep": {"a" * 2000: 1}}, "reported": {}}
    hub.edit(twin("dev-1"), theirs)
    await polled(manager)
    (letter,) = await manager.list_mirror_dead_letters("memory")

    assert letter.entity == "twin/dev-1"
    assert letter.reason.startswith("The fleet refuses the hub's state: ")
    assert hub.body(twin("dev-1")) == theirs
    assert "fleetcore" not in await desired(manager)


async def test_the_fleets_own_key_is_not_taken_from_the_hub(manager, hub):
    hub.edit(twin("dev-1"), {"desired": {"fleetcore": {"trust": "mine"}, "interval": 1}, "reported": {}})
    await polled(manager)

    assert await desired(manager) == {"interval": 1}
    assert hub.body(twin("dev-1"))["desired"] == {"interval": 1}


async def test_what_comes_in_alone_is_never_written_over(served, hub):
    async with served('[clouds.memory]\nmirror = ["twins"]\npoll_s = 3600\ndirection = {desired = "in"}') as manager:
        await manager.register_device("dev-1", "sensor")
        await manager.set_desired("dev-1", {"interval": 60})
        await caught_up(manager)
        hub.edit(twin("dev-1"), {"desired": {"interval": 7, "theirs": 1}, "reported": {}})
        await polled(manager)
        await manager.set_desired("dev-1", {"interval": 8})
        await polled(manager)

        assert hub.body(twin("dev-1"))["desired"] == {"interval": 7, "theirs": 1}
        assert await desired(manager) == {"interval": 7, "theirs": 1}


async def test_what_a_layer_gives_goes_back_to_a_hub_that_took_it_away(manager, hub):
    await manager.set_layer("fleet", {"ntp": "time.example"})
    await manager.wait_idle()
    await caught_up(manager)
    assert hub.body(twin("dev-1"))["desired"]["ntp"] == "time.example"
    hub.edit(twin("dev-1"), {"desired": {"interval": 60}, "reported": {}})
    await polled(manager)

    assert await desired(manager) == {"interval": 60, "ntp": "time.example"}
    assert hub.body(twin("dev-1"))["desired"] == {"interval": 60, "ntp": "time.example"}


async def test_the_hub_is_read_from_time_to_time(served, hub):
    async with served(BOTH.replace("3600", "1")) as manager:
        await manager.register_device("dev-1", "sensor")
        await manager.set_desired("dev-1", {"interval": 60})
        await caught_up(manager)
        hub.edit(twin("dev-1"), {"desired": {"interval": 5}, "reported": {}})
        twins = (await manager.open()).twins
        while (await twins.get("dev-1")).desired.document != {"interval": 5}:
            await until(lambda: True)
            await manager.wait_idle()


async def test_a_direction_of_what_is_not_mirrored_is_refused(served):
    with pytest.raises(ConfigError, match="direction names a part that is not mirrored") as refused:
        async with served('[clouds.memory]\nmirror = ["registry"]\ndirection = {desired = "both"}'):
            pass

    assert refused.value.remedy == "Add twins to mirror"


async def test_a_paused_entity_is_left_as_it_is_and_the_others_go_on(manager, hub):
    await manager.register_device("dev-2", "sensor")
    await manager.pause_mirror("memory", entity="twin/dev-1", reason="a trial at the hub")
    for device in ("dev-1", "dev-2"):
        await manager.set_desired(device, {"interval": 1})
    await caught_up(manager)
    assert hub.body(twin("dev-1"))["desired"]["interval"] == 60
    assert hub.body(twin("dev-2"))["desired"]["interval"] == 1
    (paused,) = await manager.list_mirror_paused("memory")
    assert (paused.entity, paused.reason) == ("twin/dev-1", "a trial at the hub")
    assert (await manager.get_mirror("memory")).paused == 1
    assert (await manager.list_mirror_drift("memory")).differences == []

    await manager.resume_mirror("memory", entity="twin/dev-1")
    await caught_up(manager)

    assert hub.body(twin("dev-1"))["desired"]["interval"] == 1
    assert (await manager.get_mirror("memory")).paused == 0
    with pytest.raises(NotFound, match="has not paused"):
        await manager.resume_mirror("memory", entity="twin/dev-1")


@pytest.mark.parametrize("before", ["", '\ndirection = {desired = "both"}'])
async def test_what_went_out_alone_is_what_both_sides_had_once_it_goes_both_ways(served, hub, before):
    section = '[clouds.memory]\nmirror = ["registry", "twins"]'
    async with served(section + before) as manager:
        await manager.register_device("dev-1", "sensor")
        await manager.set_desired("dev-1", {"interval": 1})
        await caught_up(manager)
    async with served(section) as manager:
        await manager.set_desired("dev-1", {"interval": 2})
        await caught_up(manager)
        await manager.pause_mirror("memory")
        await manager.set_desired("dev-1", {"interval": 3})
        await manager.wait_idle()
    async with served(section + '\ndirection = {desired = "both"}') as manager:
        await manager.resume_mirror("memory")
        await caught_up(manager)

        assert await desired(manager) == {"interval": 3}
        assert hub.body(twin("dev-1"))["desired"] == {"interval": 3}


async def test_what_the_hub_changed_before_it_went_from_the_fleet_is_removed(served, hub):
    async with served(BOTH + "\ndelete = true") as manager:
        await manager.register_device("dev-1", "sensor")
        await manager.set_desired("dev-1", {"interval": 1})
        await caught_up(manager)
        hub.edit(twin("dev-1"), {"desired": {"interval": 2}, "reported": {}})
        await manager.erase_device("dev-1")
        await until(lambda: not hub.held)
        await caught_up(manager)

        assert (await manager.get_mirror("memory")).waiting == 0
