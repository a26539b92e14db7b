"""A hub that only receives: what it took counts for what it has, it is never read, and answers say so."""

import asyncio

import pytest
from attrs import evolve

from fleetcore.interfaces.cloud import MirrorResult
from fleetcore.testing import memory_cloud
from fleetcore.testing.memory_cloud import MemoryCloud
from fleetcore.wire.records import to_plain

from .conftest import caught_up, registry, twin, until

ONLY = '[clouds.memory]\nmirror = ["registry", "twins"]\ndelete = true'


class Receiving(MemoryCloud):
    """The hub's memory is what a receiver has; nobody who only publishes can look at it."""

    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        self.limits = evolve(self.limits, readable=False)

    def _apply(self, item):
        wait_s = self.hub.turns_away(item.key)
        if wait_s is not None:
            return MirrorResult(state="throttled", retry_after_s=wait_s)
        self.hub.edit(item.key, None if item.body is None else to_plain(item.body), owner=self._owner)
        self.hub.writes[item.key] += 1
        return MirrorResult(state="done", remote_version=str(int(item.remote_version or 0) + 1))

    async def read(self, keys):
        raise AssertionError("a hub that only receives is read")

    async def entities(self, facet):
        raise AssertionError("a hub that only receives is listed")
        yield


@pytest.fixture(autouse=True)
def receiving(monkeypatch):
    monkeypatch.setattr(memory_cloud, "MemoryCloud", Receiving)


async def drift(manager):
    found, compared, cursor = set(), 0, None
    while True:
        part = await manager.list_mirror_drift("memory", after=cursor, limit=2)
        compared += part.compared
        found |= {(each.entity, each.state) for each in part.differences}
        cursor = part.next
        if cursor is None:
            return part.against, compared, found


async def test_drift_compares_with_what_was_taken_and_says_so(served, hub):
    async with served(ONLY) as manager:
        for number in range(3):
            await manager.register_device(f"dev-{number}", "sensor")
        await manager.set_desired("dev-0", {"interval": 60})
        await caught_up(manager)
        before = await drift(manager)
        await manager.pause_mirror("memory")
        await manager.set_desired("dev-0", {"interval": 30})
        await manager.erase_device("dev-1")
        await manager.register_device("dev-3", "sensor")
        changed = await drift(manager)
        await manager.resume_mirror("memory")
        await caught_up(manager)
        after = await drift(manager)

    assert before == ("sent", 4, set())
    assert changed == (
        "sent",
        4,
        {("twin/dev-0", "differs"), ("registry/dev-1", "extra"), ("registry/dev-3", "missing")},
    )
    assert after == ("sent", 4, set())
    assert set(hub.held) == {registry("dev-0"), registry("dev-2"), registry("dev-3"), twin("dev-0")}


async def test_what_the_hub_may_have_without_having_said_so_is_no_agreement(served, hub):
    async with served(ONLY) as manager:
        hub.lose_answers(1 << 30)
        await manager.register_device("dev-0", "sensor")
        await until(lambda: hub.writes[registry("dev-0")])
        lost = await drift(manager)
        hub.heal()
        await manager.resume_mirror("memory")
        await caught_up(manager)
        healed = await drift(manager)

    assert lost == ("sent", 1, {("registry/dev-0", "missing")})
    assert healed == ("sent", 1, set())


async def test_a_resynchronisation_sends_everything_again_over_a_restart_with_versions_that_grow(served, hub):
    async with served(ONLY) as manager:
        for number in range(3):
            await manager.register_device(f"dev-{number}", "sensor")
        await manager.set_desired("dev-0", {"interval": 60})  # on another page than registrations
        await caught_up(manager)
        await manager.pause_mirror("memory")
        await manager.resync_mirror("memory")
        await until_looked(manager)
    async with served(ONLY) as manager:
        await manager.resume_mirror("memory")
        await caught_up(manager)
        mirror = (await manager.open()).mirrors["memory"]
        kept = await mirror.sender.states.get_many([registry(f"dev-{number}") for number in range(3)])
        again = await drift(manager)

    assert [hub.writes[registry(f"dev-{number}")] for number in range(3)] == [2, 2, 2]
    assert hub.writes[twin("dev-0")] == 2
    assert {each.remote_version for each in kept.values()} == {"2"}
    assert again == ("sent", 4, set())


async def until_looked(manager):
    mirror = (await manager.open()).mirrors["memory"]
    await until(lambda: mirror.tracker.snapshot is None)


async def test_one_entity_is_sent_again_where_that_is_asked_for(served, hub):
    async with served(ONLY) as manager:
        await manager.register_device("dev-0", "sensor")
        await manager.register_device("dev-1", "sensor")
        await caught_up(manager)
        await manager.resync_mirror("memory", entity="registry/dev-0")
        await caught_up(manager)

    assert (hub.writes[registry("dev-0")], hub.writes[registry("dev-1")]) == (2, 1)


async def test_a_repair_finds_what_was_not_taken_and_keeps_versions(served, hub):
    async with served(ONLY) as manager:
        await manager.register_device("dev-0", "sensor")
        await caught_up(manager)
        mirror = (await manager.open()).mirrors["memory"]
        await mirror.sender.doubt([registry("dev-0")])
        started = await manager.apply_mirror("memory")
        async with asyncio.timeout(60):
            while (ended := await manager.get_operation(started.id)).state not in {"succeeded", "failed", "stopped"}:
                await asyncio.sleep(0.01)
        await caught_up(manager)
        kept = await mirror.sender.states.get(registry("dev-0"))

    assert dict(ended.result) == {"compared": 1, "missing": 1}
    assert (hub.writes[registry("dev-0")], kept.remote_version) == (2, "2")


async def test_a_direction_stops_such_a_mirror_with_a_remedy(served, hub):
    async with served('[clouds.memory]\nmirror = ["twins"]\ndirection = {desired = "in"}') as manager:
        mirror = (await manager.open()).mirrors["memory"]
        await until(lambda: mirror.error)
        shown = await manager.get_mirror("memory")

    assert "takes twins from a hub that only receives" in shown.error
    assert "Remove direction" in shown.error
    assert not hub.held
