"""Devices change sides, to a hub and back: each command runs once, and a device that does not arrive stays."""

import asyncio
import json

import pytest
from click.testing import CliRunner

from fleetcore.cli.root import Root
from fleetcore.errors import NotFound, Refused, Unavailable
from fleetcore.interfaces.cloud import CloudCommand
from fleetcore.interfaces.protocol import EnrollRequest
from fleetcore.model.cutover import cutover_of
from fleetcore.model.mirror import EntityKey
from fleetcore.model.twin import OURS
from fleetcore.runtime.clock import SystemClock
from fleetcore.runtime.hub_reads import held_at
from fleetcore.testing.cutover_device import Mover, Side
from fleetcore.testing.flash import MemoryFlash
from fleetcore.testing.patience import until
from fleetcore.wire.identity import key_digest, make_csr, make_key

from .conftest import caught_up

SECTION = '[clouds.memory]\nmirror = ["registry", "twins", "certificates"]\nimports = true\npoll_s = 1'


class HubSide(Side):
    """The hub: a device writes its reported section there."""

    def __init__(self, hub, name):
        self.hub, self.key, self.reachable, self.came = hub, EntityKey("twin", name), True, 0

    async def offered(self):
        return cutover_of((self.hub.body(self.key) or {}).get("desired"))

    async def tell(self, said):
        body = self.hub.body(self.key) or {"desired": {}, "reported": {}}
        self.hub.edit(self.key, {**body, "reported": {**body["reported"], OURS: {"cutover": dict(said)}}})

    async def come(self, epoch, to, old):
        self.came += 1
        if not self.reachable:
            raise Unavailable("no answer")
        await self.tell({"epoch": epoch, "state": "arrived"})


class PlaneSide(Side):
    """This fleet: a device is connected by a session of the plane, and enrols with a new key."""

    def __init__(self, fleet, name):
        self.fleet, self.name, self.reachable, self.keys, self.came = fleet, name, True, {}, 0

    async def offered(self):
        return cutover_of((await self.fleet.twins.get(self.name)).desired.document)

    async def tell(self, said):
        await self.fleet.twins.report(self.name, {OURS: {"cutover": dict(said)}})

    async def come(self, epoch, to, old):
        self.came += 1
        if not self.reachable:
            raise Unavailable("no answer")
        key = self.keys.setdefault(epoch, make_key()[1])
        await old.tell({"epoch": epoch, "state": "ready", "key": key_digest(key)})
        if (await self.fleet.security.enroll(EnrollRequest(csr=make_csr(self.name, key)))).status != 201:
            raise Unavailable("not admitted yet")
        self.fleet.presence.opened(self.name)


def device(fleet, name, *, side="fleet", flash=None, visit_s=0.0, **hubs):
    """One that can speak to this fleet and to hubs."""
    sides = {"fleet": PlaneSide(fleet, name), **{mirror: HubSide(hub, name) for mirror, hub in hubs.items()}}
    mover = Mover(flash or MemoryFlash(), SystemClock(), sides, side=side, visit_s=visit_s, look_s=0.01)
    mover.sides = sides
    return mover


async def steps(fleet, operation, *movers):
    """Devices and the fleet take turns until the operation has ended."""

    async def over():
        for mover in movers:
            await mover.step()
        await fleet.operations.tick()
        await asyncio.sleep(0.02)  # tries are looks here, and there are 1000
        return (await fleet.operations.get(operation.id)).state != "running"

    await until(over)

    async def read():
        for mover in movers:
            if mover.is_trying:
                await mover.step()
        return not any(mover.is_trying for mover in movers)

    await until(read)
    return await fleet.operations.get(operation.id)


async def ticks(fleet, condition):
    """The fleet works until a condition holds."""

    async def met():
        await fleet.operations.tick()
        return await condition()

    await until(met)


@pytest.fixture
def certified(monkeypatch):
    """Every device has a certificate at the hub."""

    async def certified(mirrors, mirror, facet, devices):
        return list(devices) if facet == "certificate" else await held_at(mirrors, mirror, facet, devices)

    monkeypatch.setattr("fleetcore.runtime.app.held_at", certified)


def going(manager, *devices, **more):
    """A cut-over to the hub; tries are plenty, since a try here is a look."""
    more = {"tries": 1000, "endpoint": "mqtts://hub.example:8883", "max_failed": 1.0, **more}
    return manager.start_cutover("memory", list(devices), **more)


def coming(manager, *devices, **more):
    """A cut-over to this fleet."""
    return manager.start_cutover("fleet", list(devices), **{"tries": 1000, "endpoint": "https://here.example", **more})


async def told(fleet, name):
    return cutover_of((await fleet.twins.get(name)).desired.document)


async def test_a_device_goes_to_a_hub_and_comes_back(served, hub, certified):
    async with served(SECTION) as manager:
        fleet = await manager.open()
        await manager.register_device("pump-1", "pump")
        fleet.presence.opened("pump-1")
        mover = device(fleet, "pump-1", memory=hub)
        await caught_up(manager)
        plan = await manager.plan_cutover("memory", ["pump-1", "pump-2"])
        first = await steps(fleet, await going(manager, "pump-1", reason="a move"), mover)
        fleet.presence.closed("pump-1")
        there = (mover.side, mover.confirmed, (await manager.get_device("pump-1")).home)
        command = await manager.send_command("pump-1", "blink")
        given = await fleet.commands.hand_out("pump-1")
        at_hub = await manager.count_devices("home = 'memory'")

        second = await steps(fleet, await coming(manager, "pump-1"), mover)
        home = await manager.get_device("pump-1")
        after = await fleet.commands.hand_out("pump-1")
        (listed,) = (await manager.list_cutovers()).items
        await fleet.wait_idle()
        rows = (await manager.list_audit(action="cutover.")).items

    assert {each.device: (each.action, each.reason) for each in plan} == {
        "pump-1": ("offer", ""),
        "pump-2": ("skip", "The device no longer exists"),
    }
    assert (first.state, there, first.result) == ("succeeded", ("memory", 1, "memory"), {"confirmed": 1})
    assert given == [], "what is for a device at the hub waits"
    assert at_hub.count == 1
    assert (second.state, home.home, mover.side, mover.confirmed) == ("succeeded", None, "fleet", 2)
    assert [each.id for each in after] == [command.id]
    assert (listed.epoch, listed.source, listed.target, listed.state) == (2, "memory", "fleet", "confirmed")
    assert listed.ended >= listed.offered
    assert sorted((each.action, each.object) for each in rows) == [
        *[("cutover.confirmed", "pump-1")] * 2,
        *[("cutover.offered", "pump-1")] * 2,
    ]


async def test_a_device_that_does_not_arrive_stays_and_says_why(served, hub, certified):
    async with served(SECTION) as manager:
        fleet = await manager.open()
        for name in ("pump-1", "pump-2"):
            await manager.register_device(name, "pump")
        mover = device(fleet, "pump-1", memory=hub)
        mover.sides["memory"].reachable = False
        late = await going(manager, "pump-2", timeout_s=0.2)
        over = [
            await steps(fleet, await going(manager, "pump-1", tries=3), mover),
            await steps(fleet, late),
        ]
        listed = {each.device: (each.state, each.reason) for each in (await manager.list_cutovers()).items}
        left = await told(fleet, "pump-1")
        homes = [(await manager.get_device(name)).home for name in ("pump-1", "pump-2")]

    assert mover.sides["memory"].came == 3
    assert [(each.state, each.failed) for each in over] == [("partly", 1)] * 2
    assert listed["pump-1"] == ("fell_back", "no answer")
    assert listed["pump-2"] == ("timed_out", "the device did not come in time")
    assert (left, homes, mover.side) == ({}, [None, None], "fleet")


async def test_a_hub_that_a_device_cannot_speak_to_is_no_place_to_go(served, hub, certified):
    async with served(SECTION) as manager:
        fleet = await manager.open()
        await manager.register_device("pump-1", "pump")
        over = await steps(fleet, await going(manager, "pump-1"), device(fleet, "pump-1"))

    assert (over.reasons, over.failures[0].reason) == ({"fell_back": 1}, "this device cannot use memory")


async def test_a_cancelled_cut_over_takes_back_its_offers_and_the_keys_that_were_let_in(served, hub):
    async with served(SECTION) as manager:
        fleet = await manager.open()
        await manager.register_device("pump-1", "pump")
        await manager.update_device("pump-1", home="memory")
        away = await coming(manager, "pump-1")
        side = HubSide(hub, "pump-1")

        async def offered():
            return "to" in await side.offered()

        await ticks(fleet, offered)
        await side.tell({"epoch": 1, "state": "ready", "key": "a" * 64})
        await ticks(fleet, lambda: _key_id(manager))
        await manager.cancel_operation(away.id)
        (listed,) = (await manager.list_cutovers(operation=away.id)).items
        left = await _key_id(manager)

    assert (listed.state, left) == ("cancelled", None)


async def _key_id(manager):
    return (await manager.get_device("pump-1")).key_id


async def test_a_device_that_fell_back_is_not_confirmed_whatever_it_said_before(served, hub, certified):
    async with served(SECTION) as manager:
        fleet = await manager.open()
        await manager.register_device("pump-1", "pump")
        away = await going(manager, "pump-1")

        async def offered():
            return "to" in await told(fleet, "pump-1")

        await ticks(fleet, offered)
        here, there = PlaneSide(fleet, "pump-1"), HubSide(hub, "pump-1")
        await here.tell({"epoch": 1, "state": "fell_back", "reason": "late"})
        await there.tell({"epoch": 1, "state": "arrived"})
        over = await steps(fleet, away)
        home = (await manager.get_device("pump-1")).home

    assert (over.state, over.reasons, home) == ("partly", {"fell_back": 1}, None)


@pytest.mark.parametrize(
    ("side", "epoch"), [("fleet", 1), ("memory", True), ("memory", 1.0), ("memory", 2), ("memory", "1")]
)
async def test_a_device_arrives_by_its_word_at_the_new_side_and_of_this_epoch_alone(
    served, hub, certified, side, epoch
):
    async with served(SECTION) as manager:
        fleet = await manager.open()
        await manager.register_device("pump-1", "pump")
        away = await going(manager, "pump-1", timeout_s=2)

        async def offered():
            return "to" in await told(fleet, "pump-1")

        await ticks(fleet, offered)
        sides = {"fleet": PlaneSide(fleet, "pump-1"), "memory": HubSide(hub, "pump-1")}
        await sides[side].tell({"epoch": epoch, "state": "arrived"})
        over = await steps(fleet, away)
        home = (await manager.get_device("pump-1")).home

    assert (over.reasons, home) == ({"timed_out": 1}, None)


async def test_what_a_device_says_of_a_cut_over_on_one_side_is_not_carried_to_another(served, hub, certified):
    async with served(SECTION) as manager:
        fleet = await manager.open()
        await manager.register_device("pump-1", "pump")
        word = {"epoch": 1, "state": "arrived"}
        await fleet.twins.report("pump-1", {"rpm": 7, OURS: {"cutover": word, "agent": "1.2"}})
        await caught_up(manager)
        body = hub.body(EntityKey("twin", "pump-1"))
        differs = (await manager.list_mirror_drift("memory")).differences

    assert body["reported"] == {"rpm": 7, OURS: {"agent": "1.2"}}
    assert list(differs) == []


async def test_a_device_that_gave_up_as_it_was_confirmed_goes_all_the_same(served, hub, certified):
    async with served(SECTION) as manager:
        fleet = await manager.open()
        await manager.register_device("pump-1", "pump")
        mover = device(fleet, "pump-1", memory=hub)
        away = await going(manager, "pump-1", tries=1)

        async def offered():
            return "to" in await told(fleet, "pump-1")

        await ticks(fleet, offered)
        await mover.step()
        # What it reports at the hub is heard there; that it has gone back is lost with its connection.
        mover.sides["fleet"].tell = _lost
        with pytest.raises(Unavailable):
            await mover.step()

        async def over():
            await mover.sides["memory"].tell({"epoch": 1, "state": "arrived"})
            return (await manager.get_operation(away.id)).state == "succeeded"

        await ticks(fleet, over)
        gone_back = mover.side
        await mover.step()

    assert (gone_back, mover.side, mover.confirmed) == ("fleet", "memory", 1)


async def _lost(_said):
    raise Unavailable("the connection broke")


@pytest.mark.parametrize("end", ["erase_device", "retire_device"])
async def test_a_device_that_goes_ends_its_cut_over_and_stops_no_other_operation(served, hub, certified, end):
    async with served(SECTION) as manager:
        fleet = await manager.open()
        for name in ("pump-1", "pump-2"):
            await manager.register_device(name, "pump")
        away = await going(manager, "pump-1", "pump-2", at_once=1, waves=["2"])
        await ticks(fleet, lambda: _any_open(fleet, away))
        (first,) = await fleet.cutovers.offers.open(away.id)
        other = {"pump-1": "pump-2", "pump-2": "pump-1"}[first.id]
        await getattr(manager, end)(first.id)
        mover = device(fleet, other, memory=hub)
        over = await steps(fleet, away, mover)
        left = await fleet.cutovers.offers.records.get(first.id)

    assert over.state in {"succeeded", "partly"}
    assert mover.side == "memory"
    assert left is None or left.state == "cancelled"


async def _any_open(fleet, operation):
    return await fleet.cutovers.offers.open(operation.id)


async def test_a_device_that_is_registered_again_is_offered_a_new_epoch(served, hub, certified):
    async with served(SECTION) as manager:
        fleet = await manager.open()
        await manager.register_device("pump-1", "pump")
        mover = device(fleet, "pump-1", memory=hub)
        await steps(fleet, await going(manager, "pump-1"), mover)
        await manager.erase_device("pump-1")
        await manager.register_device("pump-1", "pump")
        await manager.update_device("pump-1", home="memory")
        await caught_up(manager)
        over = await steps(fleet, await coming(manager, "pump-1"), mover)

    assert (over.state, mover.side, mover.confirmed) == ("succeeded", "fleet", 2)


async def test_those_that_cannot_be_cut_over_hold_up_no_other(served, hub, certified):
    async with served(SECTION) as manager:
        fleet = await manager.open()
        await manager.register_device("pump-1", "pump")
        names = [*(f"none-{number}" for number in range(2500)), "pump-1"]
        over = await steps(fleet, await going(manager, *names), device(fleet, "pump-1", memory=hub))

    assert (over.done, over.failed, over.result) == (2501, 2500, {"confirmed": 1})
    assert over.reasons == {"device_unknown": 2500}


async def test_a_device_has_one_cut_over_at_a_time(served, hub, certified):
    async with served(SECTION) as manager:
        fleet = await manager.open()
        await manager.register_device("pump-1", "pump")
        mover = device(fleet, "pump-1", memory=hub)
        both = [await going(manager, "pump-1"), await going(manager, "pump-1")]
        over = [await steps(fleet, each, mover) for each in both]

    assert sorted(each.state for each in over) == ["partly", "succeeded"]
    assert (mover.side, mover.confirmed) == ("memory", 1)


async def test_two_operations_that_reach_a_device_together_make_one_offer(served, hub, certified):
    async with served(SECTION) as manager:
        fleet = await manager.open()
        await manager.register_device("pump-1", "pump")
        offers = fleet.cutovers.offers
        operations = [await fleet.operations.start("none", ["pump-1"]) for _ in range(2)]
        made = await asyncio.gather(
            *(offers.make(each, "pump-1", "memory", timeout_s=60) for each in operations), return_exceptions=True
        )
        (listed,) = (await manager.list_cutovers()).items

    assert sorted(isinstance(each, Refused) for each in made) == [False, True]
    assert listed.epoch == 1


async def test_a_wave_begins_when_the_one_before_has_ended(served, hub, certified):
    async with served(SECTION) as manager:
        fleet = await manager.open()
        names = [f"pump-{number}" for number in range(6)]
        for name in names:
            await manager.register_device(name, "pump", {"site": "north"})
        plan = await manager.plan_cutover("memory", where="attributes.site = 'north'", waves=["1", "2"])
        away = await manager.start_cutover(
            "memory", where="attributes.site = 'north'", waves=["1", "2"], endpoint="mqtts://hub.example", tries=1000
        )
        waves = {}
        for each in plan:
            waves.setdefault(each.wave, set()).add(each.device)
        seen = []
        for wave in (1, 2, 3):

            async def whole(wave=wave):
                return len(await fleet.cutovers.offers.open(away.id)) == len(waves[wave])

            await ticks(fleet, whole)
            seen.append({each.id for each in await fleet.cutovers.offers.open(away.id)})
            movers = [device(fleet, name, memory=hub) for name in waves[wave]]

            async def moved(movers=movers):
                for mover in movers:
                    await mover.step()
                return all(mover.side == "memory" for mover in movers)

            await ticks(fleet, moved)
        over = await steps(fleet, away)

    assert [len(waves[wave]) for wave in (1, 2, 3)] == [1, 2, 3]
    assert seen == [waves[1], waves[2], waves[3]]
    assert (over.state, over.done) == ("succeeded", 6)


async def test_where_too_many_stay_no_more_are_offered_and_open_offers_are_taken_back(served, hub, certified):
    async with served(SECTION) as manager:
        fleet = await manager.open()
        names = [f"pump-{number}" for number in range(10)]
        for name in names:
            await manager.register_device(name, "pump")
        movers = [device(fleet, name, memory=hub) for name in names]
        for mover in movers:
            mover.sides["memory"].reachable = False
        broken = await going(manager, *names, tries=1, waves=["4"], at_once=2, max_failed=0.25)
        over = await steps(fleet, broken, *movers)
        offered = [name for name in names if await fleet.cutovers.offers.records.get(name)]
        left = [await told(fleet, name) for name in names]

    assert over.state == "stopped"
    assert 2 <= len(offered) <= 4, "not the second wave"
    assert left == [{}] * 10


async def test_a_paused_cut_over_follows_what_is_open_and_offers_nothing_more(served, hub, certified):
    async with served(SECTION) as manager:
        fleet = await manager.open()
        names = ["pump-1", "pump-2"]
        for name in names:
            await manager.register_device(name, "pump")
        movers = [device(fleet, name, memory=hub) for name in names]
        away = await going(manager, *names, at_once=1, waves=["2"])
        await ticks(fleet, lambda: _any_open(fleet, away))
        paused = await manager.pause_operation(away.id, reason="the weekend")

        async def one_moved():
            for mover in movers:
                await mover.step()
            return any(mover.side == "memory" for mover in movers)

        await ticks(fleet, one_moved)
        for _ in range(3):
            await fleet.operations.tick()
        held = await manager.get_operation(away.id)
        resumed = await manager.resume_operation(away.id)
        over = await steps(fleet, away, *movers)

    assert (paused.paused, resumed.paused) == ("the weekend", None)
    assert (held.state, held.done, held.result) == ("running", 1, {"confirmed": 1})
    assert (over.state, over.done) == ("succeeded", 2)


async def test_what_was_begun_by_a_server_that_was_killed_is_ended_by_the_next(served, hub, certified, monkeypatch):
    async def never(*_):
        raise asyncio.CancelledError

    async with served(SECTION) as manager:
        fleet = await manager.open()
        await manager.register_device("pump-1", "pump")
        monkeypatch.setattr(fleet.cutovers.offers, "_desire", never)
        away = await going(manager, "pump-1")
        await until(lambda: fleet.cutovers.offers.records.get("pump-1"))
    async with served(SECTION) as manager:
        fleet = await manager.open()
        over = await steps(fleet, away, device(fleet, "pump-1", memory=hub))
        (listed,) = (await manager.list_cutovers()).items

    assert (over.state, listed.epoch, listed.state) == ("succeeded", 1, "confirmed")


async def test_a_device_goes_from_hub_to_hub(served, hubs, certified):
    other = SECTION.replace("memory", "other", 1) + '\nkind = "memory"\nhub = "other"'
    async with served(SECTION, other) as manager:
        fleet = await manager.open()
        await manager.register_device("pump-1", "pump")
        await manager.update_device("pump-1", home="memory")
        await caught_up(manager)
        await caught_up(manager, "other")
        mover = device(fleet, "pump-1", side="memory", memory=hubs["hub"], other=hubs["other"])
        away = await manager.start_cutover("other", ["pump-1"], endpoint="mqtts://other.example", tries=1000)
        over = await steps(fleet, away, mover)
        home = (await manager.get_device("pump-1")).home
        kept = mover.sides["fleet"].came

    assert (over.state, home, mover.side, kept) == ("succeeded", "other", "other", 0)


async def test_a_command_given_at_the_hub_before_the_device_came_home_was_heard_there(served, hub):
    section = SECTION + '\ncommands = ["*"]'
    async with served(section) as manager:
        fleet = await manager.open()
        await manager.register_device("pump-1", "pump")
        await manager.update_device("pump-1", home="memory")
        await caught_up(manager)
        mover = device(fleet, "pump-1", side="memory", memory=hub)
        before = fleet.clock.now_ms() - 1
        await steps(fleet, await coming(manager, "pump-1"), mover)
        after = fleet.clock.now_ms() + 1
        hub.events += [
            CloudCommand(id="c1", device="pump-1", name="blink", given=before),
            CloudCommand(id="c2", device="pump-1", name="reboot", given=after),
        ]
        inbox = fleet.mirrors["memory"].inbox
        await until(lambda: inbox.counts["commands"] + inbox.counts["refused"] == 2)
        queued = [each.name for each in await manager.list_device_commands("pump-1")]

    assert queued == ["reboot"]
    assert "receives it there" in inbox.refused[0][3]


async def test_a_command_given_at_the_hub_before_the_device_reads_that_it_is_home_is_heard_there(served, hub):
    async with served(SECTION + '\ncommands = ["*"]') as manager:
        fleet = await manager.open()
        await manager.register_device("pump-1", "pump")
        await manager.update_device("pump-1", home="memory")
        await caught_up(manager)
        mover = device(fleet, "pump-1", side="memory", memory=hub)
        offered, here = mover.sides["fleet"].offered, mover.sides["fleet"]
        here.offered = _nothing
        away = await coming(manager, "pump-1")

        async def confirmed():
            await mover.step()
            return await _has_ended(fleet, away)

        await ticks(fleet, confirmed)
        side, between = mover.side, fleet.clock.now_ms() + 1
        await until(lambda: _later(fleet, between))
        here.offered = offered
        await steps(fleet, away, mover)
        hub.events.append(CloudCommand(id="c1", device="pump-1", name="blink", given=between))
        inbox = fleet.mirrors["memory"].inbox
        await until(lambda: inbox.counts["commands"] + inbox.counts["refused"])

    assert (side, mover.side) == ("memory", "fleet")
    assert "receives it there" in inbox.refused[0][3]


async def _nothing():
    return {}


async def _later(fleet, than):
    return fleet.clock.now_ms() > than


async def test_what_a_device_reports_at_its_hub_comes_in_without_an_import(served, hub):
    async with served('[clouds.memory]\nmirror = ["registry", "twins"]\npoll_s = 1') as manager:
        for name in ("pump-1", "pump-2"):
            await manager.register_device(name, "pump")
            await manager.set_desired(name, {"interval": 9})
        await manager.update_device("pump-1", home="memory")
        await caught_up(manager)
        for name in ("pump-1", "pump-2"):
            hub.edit(EntityKey("twin", name), {"desired": {"interval": 9}, "reported": {"battery": 0.4}})

        async def heard():
            return (await manager.get_twin("pump-1")).reported == {"battery": 0.4}

        await until(heard)
        other = await manager.get_twin("pump-2")

    assert other.reported == {}, "the fleet speaks for what is connected to it"


async def test_a_side_that_nothing_is_known_of_is_told(served, hub):
    async with served(SECTION) as manager:
        await manager.register_device("pump-1", "pump")
        with pytest.raises(Refused, match="endpoint of a hub"):
            await manager.start_cutover("memory", ["pump-1"])
        with pytest.raises(Refused, match="endpoint of this fleet"):
            await manager.start_cutover("fleet", ["pump-1"])
        with pytest.raises(Refused, match="by a query or by their ids"):
            await manager.plan_cutover("memory")
        with pytest.raises(NotFound, match="no mirror 'aws'"):
            await manager.update_device("pump-1", home="aws")
        (plan,) = await manager.plan_cutover("memory", ["pump-1"])

    assert plan.reason.startswith("The hub has no certificate of the device")


async def test_a_device_whose_mirror_is_gone_is_told_and_can_come_home(served, hub, tmp_path):
    async with served(SECTION) as manager:
        await manager.register_device("pump-1", "pump")
        await manager.update_device("pump-1", home="memory")
    async with served("") as manager:
        pass
    words = ["doctor", "--data", str(tmp_path), "--output", "json"]
    told = await asyncio.to_thread(CliRunner().invoke, Root(), words)
    async with served("") as manager:
        await manager.update_device("pump-1", home=None)
        left = await manager.count_devices("exists home")

    (said,) = [each for each in json.loads(told.stdout) if each["what"] == "home"]
    assert said["detail"] == "The mirror of their hub is not configured: pump-1 (1 in all)"
    assert "--no-home" in said["remedy"]
    assert left.count == 0


async def test_a_first_wave_that_fails_is_the_last(served, hub, certified):
    async with served(SECTION) as manager:
        fleet = await manager.open()
        names = [f"pump-{number}" for number in range(40)]
        for name in names:
            await manager.register_device(name, "pump")
        movers = [device(fleet, name, memory=hub) for name in names]
        for mover in movers:
            mover.sides["memory"].reachable = False
        broken = await going(manager, *names, tries=1, waves=["1", "50%"], max_failed=0.05)
        over = await steps(fleet, broken, *movers)
        offered = [name for name in names if await fleet.cutovers.offers.records.get(name)]

    assert (over.state, len(offered)) == ("stopped", 1)


async def test_devices_that_cannot_be_cut_over_are_no_wave_that_tries_anything(served, hub, certified):
    async with served(SECTION) as manager:
        fleet = await manager.open()
        names = [f"pump-{number}" for number in range(6)]
        for name in names:
            await manager.register_device(name, "pump")
        first = next(each.device for each in await manager.plan_cutover("memory", names))
        await manager.retire_device(first)
        plan = await manager.plan_cutover("memory", names, waves=["1"])
        away = await going(manager, *names, waves=["1"])
        await ticks(fleet, lambda: _any_open(fleet, away))
        await fleet.operations.tick()
        open_ = await fleet.cutovers.offers.open(away.id)

    assert [(each.wave, each.action) for each in plan] == [(1, "offer"), *[(2, "offer")] * 4, (3, "skip")]
    assert [each.id for each in open_] == [plan[0].device]


async def test_a_cut_over_that_is_cancelled_while_it_makes_offers_leaves_none_open(served, hub, certified):
    async with served(SECTION) as manager:
        fleet = await manager.open()
        names = [f"pump-{number}" for number in range(20)]
        for name in names:
            await manager.register_device(name, "pump")
        away = await going(manager, *names, waves=["20"], at_once=20)
        make, made, cancelling = fleet.cutovers.offers.make, [], []

        async def and_cancel(*args, **more):
            await make(*args, **more)
            made.append(args)
            if len(made) == 5:
                cancelling.append(asyncio.create_task(manager.cancel_operation(away.id)))
                await until(lambda: _has_ended(fleet, away))

        fleet.cutovers.offers.make = and_cancel
        await ticks(fleet, lambda: _has_ended(fleet, away))
        ended = await cancelling[0]
        left = await fleet.cutovers.offers.open(away.id)
        offers = [await told(fleet, name) for name in names]

    assert (left, offers) == ([], [{}] * 20)
    assert (ended.state, ended.result) == ("cancelled", {"cancelled": len(made)})
    assert 5 <= len(made) < 20


async def _has_ended(fleet, operation):
    return (await fleet.operations.get(operation.id)).state != "running"


async def test_a_server_that_was_killed_while_it_cancelled_takes_back_the_offers_later(
    served, hub, certified, monkeypatch
):
    async def killed(*_):
        raise asyncio.CancelledError

    async with served(SECTION) as manager:
        fleet = await manager.open()
        await manager.register_device("pump-1", "pump")
        away = await going(manager, "pump-1")
        await ticks(fleet, lambda: _any_open(fleet, away))
        monkeypatch.setattr(fleet.cutovers.offers, "end", killed)
        with pytest.raises(asyncio.CancelledError):
            await fleet.operations.cancel(away.id)
    async with served(SECTION) as manager:
        fleet = await manager.open()

        async def none_open():
            return not await fleet.cutovers.offers.open(away.id)

        await ticks(fleet, none_open)
        left = await told(fleet, "pump-1")

    assert left == {}


async def test_an_offer_for_which_a_twin_has_no_room_holds_up_no_other(served, hub, certified):
    async with served(SECTION) as manager:
        fleet = await manager.open()
        for name in ("pump-1", "pump-2"):
            await manager.register_device(name, "pump")
        await manager.set_desired("pump-1", {"note": "x" * 7_000})
        mover = device(fleet, "pump-2", memory=hub)
        over = await steps(fleet, await going(manager, "pump-1", "pump-2", roots="r" * 60_000, waves=["2"]), mover)

    assert (over.state, over.result, mover.side) == ("partly", {"cancelled": 1, "confirmed": 1}, "memory")
    assert [(each.about, each.reason) for each in over.failures] == [
        ("pump-1", "The section would be longer than 65536 bytes")
    ]


async def test_of_a_reason_that_a_device_gives_a_line_is_kept(served, hub, certified):
    async with served(SECTION) as manager:
        fleet = await manager.open()
        await manager.register_device("pump-1", "pump")
        away = await going(manager, "pump-1")
        await ticks(fleet, lambda: _any_open(fleet, away))
        said = {"epoch": 1, "state": "fell_back", "reason": "no\nroute" + "x" * 50_000}
        await PlaneSide(fleet, "pump-1").tell(said)
        over = await steps(fleet, away)

    assert over.failures[0].reason == "no route" + "x" * 248 + "…"


async def test_leaves_move_with_their_gateway(served, hub, certified):
    async with served(SECTION + '\ncommands = ["*"]') as manager:
        fleet = await manager.open()
        await manager.register_device("gate", "gateway")
        await fleet.devices.register("leaf", "meter", gateway="gate")
        mover = device(fleet, "gate", memory=hub)
        await steps(fleet, await going(manager, "gate"), mover)
        await caught_up(manager)
        away = (await manager.get_device("leaf")).home
        before = fleet.clock.now_ms() - 1
        await steps(fleet, await coming(manager, "gate"), mover)
        home = (await manager.get_device("leaf")).home
        hub.events.append(CloudCommand(id="c1", device="leaf", name="blink", given=before))
        inbox = fleet.mirrors["memory"].inbox
        await until(lambda: inbox.counts["commands"] + inbox.counts["refused"])

    assert (away, home) == ("memory", None)
    assert "receives it there" in inbox.refused[0][3]


async def test_a_key_that_could_enrol_before_can_again_where_the_device_stays(served, hub):
    async with served(SECTION) as manager:
        fleet = await manager.open()
        await fleet.devices.register("pump-1", "pump", key_id="b" * 64)
        await manager.update_device("pump-1", home="memory")
        away = await coming(manager, "pump-1")
        side = HubSide(hub, "pump-1")
        await ticks(fleet, lambda: _any_open(fleet, away))
        await caught_up(manager)
        for key in ("a" * 64, "c" * 64):
            await side.tell({"epoch": 1, "state": "ready", "key": key})

            async def let_in(key=key):
                return await _key_id(manager) == key

            await ticks(fleet, let_in)
        await manager.cancel_operation(away.id)
        left = await _key_id(manager)

    assert left == "b" * 64
