"""The state sender: what changed reaches the hub, once, whatever fails, and nothing waits for another's answer."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from attrs import evolve

from fleetcore import IoTFleetManager
from fleetcore.errors import Unavailable
from fleetcore.fleet.mirrors import Entities
from fleetcore.interfaces.cloud import CloudLimits
from fleetcore.interfaces.waits import end_tasks
from fleetcore.model.mirror import FACETS, EntityKey
from fleetcore.model.store import Commit
from fleetcore.pipeline.mirror import change_tracker, sender
from fleetcore.pipeline.mirror.change_tracker import ChangeTracker
from fleetcore.pipeline.mirror.hub import Hub
from fleetcore.pipeline.mirror.sender import StateSender
from fleetcore.pipeline.mirror.walk import Walk
from fleetcore.testing.clock import MovableClock
from fleetcore.testing.memory_cloud import MemoryCloud, MemoryHub
from fleetcore.testing.patience import PATIENCE_S


def registry(device):
    return EntityKey("registry", device)


def twin(device):
    return EntityKey("twin", device)


@pytest.fixture
def hub():
    return MemoryHub()


@pytest.fixture
async def manager():
    async with IoTFleetManager(clock=MovableClock()) as opened:
        await opened.open()
        yield opened


class Running:
    """A mirror of a fleet to a hub in memory, at work."""

    def __init__(self, fleet, hub, watch=None, **given):
        entities = Entities(fleet.storage, fleet.devices, fleet.twins, fleet.groups, fleet.campaigns)
        self.fleet, self.hub = fleet, hub
        self.sender = StateSender("hub", fleet.storage, fleet.clock, entities.bodies, **given)
        walk = Walk(frozenset(FACETS), entities.page)
        self.tracker = ChangeTracker(self.sender, walk, fleet.storage, fleet.clock, watch=watch)

    @asynccontextmanager
    async def at_work(self, kind=MemoryCloud, **given):
        await self.tracker.start()
        cloud = kind(self.hub, **given)
        tasks = [
            asyncio.create_task(self.tracker.run()),
            asyncio.create_task(self.sender.run(Hub("hub", cloud, timeout_s=60.0))),
        ]
        try:
            yield self
        finally:
            await end_tasks(*tasks)

    async def until(self, condition):
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                await asyncio.sleep(0.002)

    async def caught_up(self):
        """Until the hub has everything."""
        await self.tracker.catch_up()
        await self.until(lambda: self.tracker.snapshot is None and self.sender.idle)


@pytest.fixture
async def running(manager, hub):
    async with Running(await manager.open(), hub).at_work() as found:
        yield found


async def test_a_fleet_that_was_there_before_the_mirror_is_sent_whole(manager, hub):
    await manager.create_group("lab")
    for number in range(30):
        await manager.register_device(f"dev-{number}", "sensor")
    await manager.set_desired("dev-3", {"interval": 60})

    async with Running(await manager.open(), hub).at_work() as running:
        await running.caught_up()

    assert {key for key in hub.held if key.facet == "registry"} == {registry(f"dev-{number}") for number in range(30)}
    assert hub.body(twin("dev-3"))["desired"] == {"interval": 60}
    assert hub.body(EntityKey("group", "lab")) is not None
    assert set(hub.writes.values()) == {1}


async def test_what_is_polled_waits_while_a_page_of_entities_is_pending(manager, hub, monkeypatch):
    monkeypatch.setattr(change_tracker, "_PAGE", 3)
    keys, polls, clock = [registry(f"dev-{number}") for number in range(3)], [], (await manager.open()).clock

    async def homed(after):
        polls.append(clock.now_ms())
        return keys, None

    running = Running(await manager.open(), hub, watch=change_tracker.Watch(homed=homed, every_s=300.0))
    await running.tracker.start()
    running.sender.pause()
    while await running.tracker.step():
        pass
    for _ in range(5):
        await clock.advance(301)
        await running.tracker._rest(10**9, 0.0)
    while_pending = len(polls)
    await running.sender.pending._storage.commit(running.sender.pending.removing(keys))
    await clock.advance(301)
    await running.tracker._rest(10**9, 0.0)

    assert (while_pending, len(polls)) == (1, 2)


async def registered(manager, *devices):
    for device in devices:
        await manager.register_device(device, "sensor")


async def test_a_hundred_changes_that_wait_are_one_write(manager, hub, running):
    await registered(manager, "dev-1")
    await running.caught_up()
    before = hub.writes[twin("dev-1")]
    running.sender.pause()
    for number in range(100):
        await manager.set_desired("dev-1", {"interval": number})
    running.sender.resume()
    await running.caught_up()

    assert hub.writes[twin("dev-1")] - before == 1
    assert hub.body(twin("dev-1"))["desired"] == {"interval": 99}


async def test_an_entity_that_is_turned_away_holds_up_no_other_and_comes_again(manager, hub, running):
    hub.throttle_entity(registry("dev-1"))
    await registered(manager, *(f"dev-{number}" for number in range(20)))
    await running.until(lambda: len([key for key in hub.held if key.facet == "registry"]) == 19)
    assert registry("dev-1") not in hub.held

    hub.heal()
    await running.fleet.clock.advance(1.1)
    await running.caught_up()
    assert registry("dev-1") in hub.held


async def test_a_hub_that_is_down_gets_everything_once_it_is_back(manager, hub, running):
    await registered(manager, "dev-1")
    await running.caught_up()
    hub.go_down()
    for number in range(50):
        await manager.set_desired("dev-1", {"interval": number})
    await running.until(lambda: running.sender.state == "failing")
    hub.heal()
    await running.fleet.clock.advance(60)
    await running.caught_up()

    assert running.sender.state == "running"
    assert hub.body(twin("dev-1"))["desired"] == {"interval": 49}


async def test_rejected_credentials_pause_the_mirror_until_they_are_good_again(manager, hub, running):
    hub.reject_credentials()
    await registered(manager, "dev-1")
    await running.until(lambda: running.sender.state == "credentials")
    hub.heal()
    running.sender.resume()
    await running.caught_up()

    assert registry("dev-1") in hub.held


async def test_a_write_whose_answer_was_lost_is_known_again_and_not_written_twice(manager, hub, running):
    await registered(manager, "dev-1")
    await running.caught_up()
    hub.lose_answers(1)
    await manager.set_desired("dev-1", {"interval": 5})
    await running.until(lambda: running.sender.state == "failing")
    await running.fleet.clock.advance(2)
    await running.caught_up()
    await manager.set_desired("dev-1", {"interval": 6})
    await running.caught_up()

    assert hub.body(twin("dev-1"))["desired"] == {"interval": 6}
    assert hub.writes[twin("dev-1")] == 2, "one a change"


async def test_what_somebody_else_changed_is_as_the_fleet_has_it_after_the_next_change(manager, hub, running):
    await registered(manager, "dev-1")
    await manager.set_desired("dev-1", {"interval": 5})
    await running.caught_up()
    hub.edit(twin("dev-1"), {"desired": {"interval": 99}, "reported": {}})
    await manager.set_desired("dev-1", {"mode": "eco"})
    await running.caught_up()

    assert hub.body(twin("dev-1"))["desired"] == {"interval": 5, "mode": "eco"}
    assert running.sender.counts["conflicts"] == 1


async def test_what_this_fleet_has_not_made_is_left_alone_and_named(manager, hub, running):
    hub.edit(registry("dev-1"), {"type": "theirs"}, owner="another fleet")
    await registered(manager, "dev-1", "dev-2")
    await running.caught_up()

    assert hub.body(registry("dev-1")) == {"type": "theirs"}
    assert (await running.sender.states.get(registry("dev-1"))).invalid == "this fleet did not create registry/dev-1"
    assert registry("dev-2") in hub.held
    assert (await running.sender.states.counts())["invalid"] == 1


async def test_what_the_hub_cannot_hold_is_told_and_sent_once_it_can(manager, hub, running):
    await registered(manager, "dev-1")
    await manager.set_desired("dev-1", {"text": "x" * 9000, "a.b": 1})
    await running.caught_up()
    kept = await running.sender.states.get(twin("dev-1"))
    assert "the hub holds 8192" in kept.invalid

    await manager.set_desired("dev-1", {"text": None})
    await running.caught_up()
    kept = await running.sender.states.get(twin("dev-1"))
    assert (kept.invalid, [loss.path for loss in kept.lost]) == (None, ["/desired/a.b"])
    assert hub.body(twin("dev-1"))["desired"] == {}
    counts = await running.sender.states.counts()
    assert (counts.get("invalid", 0), counts["lost"]) == (0, 1)


@pytest.mark.parametrize("deletes", [False, True])
async def test_what_is_gone_from_the_fleet_is_removed_only_where_that_was_asked_for(manager, hub, deletes):
    async with Running(await manager.open(), hub, deletes=deletes).at_work() as running:
        await registered(manager, "dev-1", "dev-2")
        await running.caught_up()
        await manager.erase_device("dev-1", reason="sold")
        await running.caught_up()

    assert (registry("dev-1") in hub.held) is not deletes
    assert registry("dev-2") in hub.held


async def test_a_mirror_that_is_stopped_again_and_again_in_the_middle_writes_nothing_twice(manager, hub):
    fleet = await manager.open()
    for number in range(60):
        await manager.register_device(f"dev-{number}", "sensor")
    hub.answer_s = 0.002
    for _ in range(10):
        async with Running(fleet, hub).at_work():
            before = hub.calls
            async with asyncio.timeout(PATIENCE_S):
                while hub.calls < before + 2:
                    await asyncio.sleep(0.001)
    async with Running(fleet, hub).at_work() as running:
        await running.caught_up()

    assert set(hub.writes.values()) == {1}
    assert len([key for key in hub.held if key.facet == "registry"]) == 60
    assert await running.sender.pending.waiting() == 0


async def test_changes_that_the_feed_does_not_keep_any_more_are_found_by_looking_at_everything(manager, hub):
    fleet = await manager.open()
    async with Running(fleet, hub).at_work() as running:
        await registered(manager, "dev-1")
        await running.caught_up()
    await manager.set_desired("dev-1", {"interval": 7})
    running = Running(fleet, hub)
    await running.tracker.look_again()  # as it does itself where the feed says so
    async with running.at_work():
        await running.caught_up()

    assert hub.body(twin("dev-1"))["desired"] == {"interval": 7}
    assert hub.writes[registry("dev-1")] == 1, "what has not changed is not written again"


@pytest.mark.parametrize("method", ["_apply", "fit"])
async def test_an_entity_by_which_the_backend_fails_holds_up_no_other(manager, hub, monkeypatch, method):
    works = getattr(MemoryCloud, method)
    poison = registry("dev-3")

    def failing(self, item):
        if item.key == poison:
            raise KeyError("thingArn")
        return works(self, item)

    monkeypatch.setattr(MemoryCloud, method, failing)
    limits = CloudLimits(items=4, parallel=1)
    async with Running(await manager.open(), hub).at_work(limits=limits) as running:
        await registered(manager, *(f"dev-{number}" for number in range(12)))
        for _ in range(60):
            await running.fleet.clock.advance(30)
            if len([key for key in hub.held if key.facet == "registry"]) == 11:
                break
        monkeypatch.setattr(MemoryCloud, method, works)
        await running.fleet.clock.advance(301)
        await running.caught_up()

    assert len([key for key in hub.held if key.facet == "registry"]) == 12


async def test_marks_beyond_those_that_are_known_in_memory_are_worked_off_beside_many_that_wait(
    manager, hub, monkeypatch
):
    monkeypatch.setattr(sender, "_KNOWN", 4)
    devices = [f"dev-{number:02d}" for number in range(40)]
    hub.throttle_entity(*map(registry, devices[:20]))
    await registered(manager, *devices)
    async with Running(await manager.open(), hub).at_work() as running:
        await running.until(lambda: {registry(device) for device in devices[20:]} <= hub.held.keys())
        assert not {registry(device) for device in devices[:20]} & hub.held.keys()
        hub.heal()
        await running.fleet.clock.advance(2)
        await running.caught_up()

    assert {registry(device) for device in devices} <= hub.held.keys()
    assert await running.sender.pending.waiting() == 0


async def test_many_changes_of_an_entity_are_few_writes(manager, hub):
    clock = (await manager.open()).clock
    async with Running(await manager.open(), hub, every_s=5.0).at_work() as running:
        await manager.register_device("dev-1", "sensor")
        for number in range(100):
            await manager.set_desired("dev-1", {"interval": number})
        await running.tracker.catch_up()
        await running.until(lambda: hub.writes[twin("dev-1")] == 1)
        sent_first = hub.body(twin("dev-1"))["desired"]["interval"]
        await manager.set_desired("dev-1", {"interval": 100})
        await running.tracker.catch_up()
        waiting = asyncio.create_task(running.sender.caught_up())
        await running.until(lambda: not running.sender.idle)
        assert hub.body(twin("dev-1"))["desired"]["interval"] == sent_first
        assert not waiting.done()

        await clock.advance(5.0)
        await waiting

        assert hub.body(twin("dev-1"))["desired"]["interval"] == 100
        assert hub.writes[twin("dev-1")] == 2


async def test_an_item_says_what_was_sent_last_where_its_hub_remembers(manager, hub):
    seen = []

    class Remembers(MemoryCloud):
        async def apply(self, items):
            seen.extend((item.key, item.last) for item in items)
            return await super().apply(items)

    running = Running(await manager.open(), hub)
    limits = CloudLimits(items=10, remembers=frozenset({"twin"}))
    async with running.at_work(Remembers, limits=limits):
        await manager.register_device("dev-1", "sensor")
        for number in range(2):
            await manager.set_desired("dev-1", {"interval": number})
            await running.caught_up()
        hub.edit(twin("dev-1"), {"desired": {"interval": 9}, "reported": {}})
        await manager.set_desired("dev-1", {"interval": 3})
        await running.caught_up()

    bodies = [last and last.desired for key, last in seen if key == twin("dev-1")]
    assert bodies == [None, {"interval": 0}, {"interval": 1}, {"interval": 9}]
    assert all(last is None for key, last in seen if key == registry("dev-1"))


async def test_a_hub_that_is_down_is_tried_with_one_entity(manager, hub):
    sizes = []

    class Counts(MemoryCloud):
        async def apply(self, items):
            sizes.append(len(items))
            return await super().apply(items)

    clock = (await manager.open()).clock
    for number in range(50):
        await manager.register_device(f"dev-{number}", "sensor")
    hub.go_down()
    running = Running(await manager.open(), hub)
    async with running.at_work(Counts, limits=CloudLimits(items=10, parallel=3)):
        await running.until(lambda: running.sender.state == "failing")
        for _ in range(3):
            tried = len(sizes)
            await clock.advance(60.0)
            await running.until(lambda tried=tried: len(sizes) > tried)
        assert set(sizes[3:]) == {1}

        hub.heal()
        await clock.advance(60.0)
        await running.until(lambda: len(hub.held) == 50)

    assert max(sizes) == 10
    assert sizes[-1] > 1


async def test_what_is_in_step_already_is_looked_at_in_batches_after_a_start(manager, hub):
    for number in range(30):
        await manager.register_device(f"dev-{number}", "sensor")
    async with Running(await manager.open(), hub).at_work() as running:
        await running.caught_up()
    fleet = await manager.open()
    again = Running(fleet, hub)
    commits, commit = [], fleet.storage.commit

    async def counted(change):
        commits.append(change)
        return await commit(change)

    fleet.storage.commit = counted
    async with again.at_work():
        await again.tracker.look_again()
        await again.until(lambda: again.tracker.snapshot is None)
        await again.caught_up()

    assert again.sender.counts["unchanged"] == 2 * 30, "each with its certificates, of which it has none"
    assert len(commits) < 15, "not one for each"


@pytest.mark.parametrize("error", [Unavailable("it does not answer"), KeyError("thingArn")])
async def test_an_entity_with_which_no_batch_ends_holds_up_no_other(manager, hub, error):
    class Odd(MemoryCloud):
        async def apply(self, items):
            if any(item.key.id == "dev-3" for item in items):
                raise error
            return await super().apply(items)

    running = Running(await manager.open(), hub)
    async with running.at_work(Odd, limits=CloudLimits(items=100, parallel=1)):
        await registered(manager, "first")
        await running.caught_up()
        running.sender.pause()
        await registered(manager, *(f"dev-{number}" for number in range(12)))
        await running.tracker.catch_up()
        running.sender.resume()
        async with asyncio.timeout(PATIENCE_S):
            while len(hub.held) < 12:
                await running.fleet.clock.advance(30.0)
                await asyncio.sleep(0.002)

    assert registry("dev-3") not in hub.held


async def test_what_went_while_the_feed_was_not_kept_is_removed(manager, hub):
    fleet = await manager.open()
    async with Running(fleet, hub, deletes=True).at_work() as running:
        await registered(manager, "dev-1", "dev-2")
        await running.caught_up()
    await manager.erase_device("dev-1")
    running = Running(fleet, hub, deletes=True)
    await fleet.storage.commit(Commit(cursors={running.tracker.name: await fleet.storage.position()}))
    await running.tracker.look_again()  # as it does itself where the feed was trimmed
    async with running.at_work():
        await running.caught_up()

    assert set(hub.held) == {registry("dev-2")}


async def test_a_mark_that_comes_while_an_entity_is_amended_is_in_the_store(manager, hub):
    fleet = await manager.open()
    sender = Running(fleet, hub).sender
    sender._all_known = True
    key, commit, marking = EntityKey("twin", "dev-1"), fleet.storage.commit, []

    async def slow(change):
        if not marking:
            marking.append(asyncio.create_task(sender.enqueue([key], Commit())))
            await asyncio.sleep(0)
        return await commit(change)

    fleet.storage.commit = slow
    await sender.amend(key, lambda kept: evolve(kept, paused="a trial"))
    await marking[0]

    assert (await sender.pending.page(None, 10), await sender.pending.waiting()) == (([key], None), 1)


async def test_a_hub_that_fails_before_the_feed_is_read_is_shown_as_failing(manager, hub):
    tracker = Running(await manager.open(), hub).tracker
    await tracker.start()
    tracker.show_hub("its opener called exit(3)", "Correct it")
    tracker._moved.clear()
    reading = asyncio.create_task(tracker.run())
    await tracker._moved.wait()
    state = tracker.status.state, tracker.status.error
    await end_tasks(reading)

    assert state == ("failing", "its opener called exit(3)")
