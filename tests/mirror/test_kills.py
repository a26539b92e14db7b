"""A mirror that goes both ways, killed at each of its steps: both sides come to the same, and no change is lost."""

import asyncio
import functools

import pytest

from fleetcore import IoTFleetManager
from fleetcore.fleet.mirrors import Entities
from fleetcore.interfaces.waits import end_tasks
from fleetcore.model.mirror import FACETS, EntityKey
from fleetcore.pipeline.mirror.change_tracker import ChangeTracker
from fleetcore.pipeline.mirror.hub import Hub
from fleetcore.pipeline.mirror.reconciling import Reconciling, Way
from fleetcore.pipeline.mirror.sender import StateSender
from fleetcore.pipeline.mirror.walk import Walk
from fleetcore.testing.clock import MovableClock
from fleetcore.testing.memory_cloud import MemoryCloud, MemoryHub
from fleetcore.testing.patience import PATIENCE_S

TWIN = EntityKey("twin", "dev-1")
WHERE = ("a call arrives", "a call was done", "before a commit", "after a commit")


class Death:
    """Stops what reaches a place for the n-th time, for ever; ``came`` says that it did."""

    def __init__(self, where="", number=0):
        self.where, self.left, self.came = where, number, asyncio.Event()

    async def at(self, where):
        if where != self.where:
            return
        if self.left:
            self.left -= 1
            return
        self.came.set()
        await asyncio.Event().wait()


class Mortal(MemoryCloud):
    death = Death()

    async def apply(self, items):
        await self.death.at("a call arrives")
        results = await super().apply(items)
        await self.death.at("a call was done")
        return results

    async def read(self, keys):
        await self.death.at("a call arrives")
        found = await super().read(keys)
        await self.death.at("a call was done")
        return found


async def run(fleet, hub, death, *, deletes=True):
    """A mirror works until it is in step, or killed."""
    parts = (fleet.storage, fleet.devices, fleet.twins, fleet.groups, fleet.campaigns)
    entities = Entities(*parts, certificates=fleet.security.letting_in, mirror="hub")
    reconciling = Reconciling(
        {"twin": Way(direction="both", wins="cloud")},
        entities.body,
        entities.taker("mirror/hub"),
        homed=entities.at_hub,
        report=functools.partial(fleet.twins.take_report, actor="mirror/hub"),
    )
    sender = StateSender("hub", fleet.storage, fleet.clock, entities.bodies, reconciling=reconciling, deletes=deletes)
    tracker = ChangeTracker(sender, Walk(frozenset(FACETS), entities.page), fleet.storage, fleet.clock)
    await tracker.start()
    await tracker.look_again()  # the hub is polled
    cloud = Mortal(hub)
    cloud.death = death
    commit = fleet.storage.commit

    async def mortal(change):
        await death.at("before a commit")
        done = await commit(change)
        await death.at("after a commit")
        return done

    fleet.storage.commit = mortal
    tasks = [asyncio.create_task(each) for each in (tracker.run(), sender.run(Hub("hub", cloud, timeout_s=60.0)))]

    async def in_step():
        while not (
            tracker.snapshot is None and tracker.status.position == await fleet.storage.position() and sender.idle
        ):
            await asyncio.sleep(0)

    ends = [asyncio.create_task(in_step()), asyncio.create_task(death.came.wait())]
    try:
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.wait((*ends, *tasks), return_when=asyncio.FIRST_COMPLETED)
        for failed in (task for task in tasks if task.done()):
            failed.result()
    finally:
        await end_tasks(*tasks, *ends)
        fleet.storage.commit = commit
    return sender


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("where", WHERE)
async def test_both_sides_come_to_the_same_wherever_it_is_killed(where, number):
    hub = MemoryHub()
    async with IoTFleetManager(clock=MovableClock()) as manager:
        fleet = await manager.open()
        await manager.register_device("dev-1", "sensor")
        await manager.set_desired("dev-1", {"ours": 1, "theirs": 1})
        await run(fleet, hub, Death())
        assert hub.body(TWIN)["desired"] == {"ours": 1, "theirs": 1}

        await manager.set_desired("dev-1", {"ours": 2})
        hub.edit(TWIN, {"desired": {"ours": 1, "theirs": 2}, "reported": {}})
        await run(fleet, hub, Death(where, number))
        await manager.set_desired("dev-1", {"ours": 3})
        sender = await run(fleet, hub, Death())

        assert (await manager.get_twin("dev-1")).desired == {"ours": 3, "theirs": 2}
        assert hub.body(TWIN)["desired"] == {"ours": 3, "theirs": 2}
        assert await sender.pending.waiting() == 0
        writes = hub.writes.total()
        await run(fleet, hub, Death())
        assert hub.writes.total() == writes, "in step is at rest"


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("where", WHERE)
async def test_what_is_erased_is_gone_at_the_hub_wherever_it_is_killed(where, number):
    hub = MemoryHub()
    async with IoTFleetManager(clock=MovableClock()) as manager:
        fleet = await manager.open()
        await manager.register_device("dev-1", "sensor")
        await manager.set_desired("dev-1", {"ours": 1})
        await run(fleet, hub, Death(where, number))
        await manager.erase_device("dev-1")
        await run(fleet, hub, Death(where, number))
        await run(fleet, hub, Death())

        assert not hub.held

        # A tombstone stays one: what another makes of that name is not ours, and is left alone.
        hub.edit(EntityKey("registry", "dev-1"), {"type": "theirs", "lifecycle": "active"}, owner="another")
        sender = await run(fleet, hub, Death())
        assert hub.body(EntityKey("registry", "dev-1")) == {"type": "theirs", "lifecycle": "active"}
        assert await sender.pending.waiting() == 0
