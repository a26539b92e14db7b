"""Devices change sides, to a hub and back: each command runs once, and a device that does not arrive stays."""

import asyncio

import pytest

from fleetcore.errors import Refused
from fleetcore.fleet.layers import OURS
from fleetcore.fleet.security.requests import spki_of
from fleetcore.interfaces.protocol import EnrollRequest
from fleetcore.model.mirror import EntityKey
from fleetcore.runtime.at_hubs import held_at
from fleetcore.testing.credentials import make_csr, make_key
from fleetcore.testing.patience import PATIENCE_S, until

from .conftest import caught_up

SECTION = '[clouds.memory]\nmirror = ["registry", "twins", "certificates"]\nimports = true\npoll_s = 1'


class Device:
    """One that follows offers: it tries the new side so often, and goes back by itself.

    Here it is connected by a session of the plane; at the hub it writes its reported section, as devices do.
    """

    def __init__(self, manager, fleet, hub, name, *, side, reachable=True, tries=None):
        self.manager, self.fleet, self.hub, self.name = manager, fleet, hub, name
        self.side, self.confirmed, self.reachable, self.tried = side, 0, reachable, 0

    def at_hub(self, **cutover):
        key = EntityKey("twin", self.name)
        body = self.hub.body(key) or {"desired": {}, "reported": {}}
        self.hub.edit(key, {**body, "reported": {**body["reported"], OURS: {"cutover": cutover}}})

    async def enrol(self, epoch):
        """With a new key, whose digest it tells on the side where it is known."""
        _, key = make_key()
        self.at_hub(epoch=epoch, state="ready", key=spki_of(key.public_key()))
        csr = make_csr(self.name, key)

        async def enrolled():
            return (await self.fleet.security.enroll(EnrollRequest(csr=csr))).status == 201

        await until(enrolled)

    async def desired(self, side):
        if side == "fleet":
            return (await self.manager.get_twin(self.name)).desired.get(OURS, {}).get("cutover", {})
        body = self.hub.body(EntityKey("twin", self.name)) or {"desired": {}}
        return body["desired"].get(OURS, {}).get("cutover", {})

    async def step(self):
        """Reads what is wanted where it is; goes, confirms or goes back."""
        offer = await self.desired(self.side)
        if offer.get("epoch", 0) <= self.confirmed or "to" not in offer:
            return
        there = offer["to"]["name"]
        for _ in range(offer["tries"]):
            self.tried += 1
            if not self.reachable:
                continue
            if there == "fleet":
                await self.enrol(offer["epoch"])
                self.fleet.presence.opened(self.name)
            async with asyncio.timeout(PATIENCE_S):
                while not (said := await self.desired(there)).get("confirmed"):
                    if there != "fleet":
                        self.at_hub(epoch=offer["epoch"], state="arrived")  # until it is heard
                    await asyncio.sleep(0.05)
            if said["epoch"] == offer["epoch"]:
                self.side, self.confirmed = there, offer["epoch"]
                if there != "fleet":
                    self.fleet.presence.closed(self.name)
                return
        back = {"epoch": offer["epoch"], "state": "fell_back", "reason": "no answer"}
        if self.side == "fleet":
            await self.fleet.twins.report(self.name, {OURS: {"cutover": back}})
        else:
            self.at_hub(**back)


async def ended(manager, operation):
    while (found := await manager.get_operation(operation.id)).state == "running":
        await asyncio.sleep(0.01)
    return found


@pytest.fixture
def certified(monkeypatch):
    """Every device has a certificate at the hub."""

    async def certified(mirrors, mirror, facet, devices):
        return list(devices) if facet == "certificate" else await held_at(mirrors, mirror, facet, devices)

    monkeypatch.setattr("fleetcore.runtime.app.held_at", certified)


async def test_a_device_goes_to_a_hub_and_comes_back(served, hub, certified):
    async with served(SECTION) as manager:
        fleet = await manager.open()
        await manager.register_device("pump-1", "pump")
        fleet.presence.opened("pump-1")
        device = Device(manager, fleet, hub, "pump-1", side="fleet")
        await caught_up(manager)
        plan = await manager.plan_cutover("memory", ["pump-1", "pump-2"])
        going = await manager.start_cutover("memory", ["pump-1"], endpoint="mqtts://hub.example:8883", reason="a move")
        await until(lambda: _offered(device, "fleet", 1))
        await device.step()
        first = await ended(manager, going)
        away = await manager.get_device("pump-1")
        command = await manager.send_command("pump-1", "blink")
        given = await fleet.commands.hand_out("pump-1")

        coming = await manager.start_cutover("fleet", ["pump-1"])
        await until(lambda: _offered(device, "memory", 2))
        await device.step()
        second = await ended(manager, coming)
        home = await manager.get_device("pump-1")
        after = await fleet.commands.hand_out("pump-1")
        (listed,) = (await manager.list_cutovers()).items

    assert [(each.action, each.reason) for each in plan] == [
        ("offer", ""),
        ("skip", "There is no such device any more"),
    ]
    assert (first.state, away.home, device.confirmed) == ("succeeded", "memory", 2)
    assert given == [], "what is for a device at the hub waits"
    assert (second.state, home.home) == ("succeeded", None)
    assert [each.id for each in after] == [command.id]
    assert (listed.epoch, listed.source, listed.target, listed.state) == (2, "memory", "fleet", "confirmed")


async def _offered(device, side, epoch):
    return (await device.desired(side)).get("epoch") == epoch and "to" in await device.desired(side)


async def test_a_device_that_does_not_arrive_stays_and_says_why(served, hub, certified):
    async with served(SECTION) as manager:
        fleet = await manager.open()
        for name in ("pump-1", "pump-2"):
            await manager.register_device(name, "pump")
        device = Device(manager, fleet, hub, "pump-1", side="fleet", reachable=False)
        late = await manager.start_cutover("memory", ["pump-2"], endpoint="mqtts://hub.example", timeout_s=0.5)
        going = await manager.start_cutover("memory", ["pump-1"], endpoint="mqtts://hub.example", tries=3)
        await until(lambda: _offered(device, "fleet", 1))
        await device.step()
        over = [await ended(manager, each) for each in (going, late)]
        listed = {each.device: (each.state, each.reason) for each in (await manager.list_cutovers()).items}
        left = await device.desired("fleet")
        homes = [(await manager.get_device(name)).home for name in ("pump-1", "pump-2")]

    assert device.tried == 3
    assert [(each.state, each.failed) for each in over] == [("partly", 1)] * 2
    assert listed["pump-1"] == ("fell_back", "no answer")
    assert listed["pump-2"] == ("timed_out", "the device has not come in time")
    assert (left, homes) == ({}, [None, None])


async def test_a_cancelled_cut_over_takes_back_its_offers_and_the_keys_that_were_let_in(served, hub):
    async with served(SECTION) as manager:
        fleet = await manager.open()
        await manager.register_device("pump-1", "pump")
        await manager.update_device("pump-1", home="memory")
        coming = await manager.start_cutover("fleet", ["pump-1"])
        device = Device(manager, fleet, hub, "pump-1", side="memory")
        await until(lambda: _offered(device, "memory", 1))
        device.at_hub(epoch=1, state="ready", key="a" * 64)
        await until(lambda: _key_id(manager))
        await manager.cancel_operation(coming.id)
        (listed,) = (await manager.list_cutovers(operation=coming.id)).items
        left = await _key_id(manager)

    assert (listed.state, left) == ("cancelled", None)


async def _key_id(manager):
    return (await manager.get_device("pump-1")).key_id


async def test_a_device_that_fell_back_is_not_confirmed_whatever_it_said_before(served, hub, certified):
    async with served(SECTION) as manager:
        fleet = await manager.open()
        await manager.register_device("pump-1", "pump")
        device = Device(manager, fleet, hub, "pump-1", side="fleet")
        going = await manager.start_cutover("memory", ["pump-1"], endpoint="mqtts://hub.example")
        await until(lambda: _offered(device, "fleet", 1))
        await fleet.twins.report("pump-1", {OURS: {"cutover": {"epoch": 1, "state": "fell_back", "reason": "late"}}})
        device.at_hub(epoch=1, state="arrived")
        over = await ended(manager, going)
        home = (await manager.get_device("pump-1")).home

    assert (over.state, over.reasons, home) == ("partly", {"fell_back": 1}, None)


@pytest.mark.parametrize("end", ["erase_device", "retire_device"])
async def test_a_device_that_goes_ends_its_cut_over_and_stops_no_other_operation(served, hub, certified, end):
    async with served(SECTION) as manager:
        fleet = await manager.open()
        for name in ("pump-1", "pump-2"):
            await manager.register_device(name, "pump")
        going = await manager.start_cutover("memory", ["pump-1", "pump-2"], endpoint="mqtts://hub.example", at_once=1)
        await until(lambda: _kept(fleet))
        await getattr(manager, end)("pump-1")
        device = Device(manager, fleet, hub, "pump-2", side="fleet")
        await until(lambda: _offered(device, "fleet", 1))
        await device.step()
        over = await ended(manager, going)
        left = await _kept(fleet)

    assert over.state in {"succeeded", "partly"}
    assert device.side == "memory"
    assert left is None or left.state == "cancelled"


async def test_those_that_cannot_be_cut_over_hold_up_no_other(served, hub, certified):
    async with served(SECTION) as manager:
        await manager.register_device("pump-1", "pump")
        going = await manager.start_cutover(
            "memory", [*(f"none-{number}" for number in range(2500)), "pump-1"], endpoint="mqtts://hub.example",
            timeout_s=0.5,
        )  # fmt: skip
        over = await ended(manager, going)

    assert (over.done, over.failed) == (2501, 2501)
    assert over.reasons["device_unknown"] > 0


async def test_what_was_begun_by_a_server_that_was_killed_is_ended_by_the_next(served, hub, certified, monkeypatch):
    async def never(*_):
        raise asyncio.CancelledError

    async with served(SECTION) as manager:
        fleet = await manager.open()
        await manager.register_device("pump-1", "pump")
        monkeypatch.setattr(fleet.cutovers, "_desire", never)
        going = await manager.start_cutover("memory", ["pump-1"], endpoint="mqtts://hub.example:8883")
        await until(lambda: _kept(fleet))
    async with served(SECTION) as manager:
        fleet = await manager.open()
        device = Device(manager, fleet, hub, "pump-1", side="fleet")
        await until(lambda: _offered(device, "fleet", 1))
        await device.step()
        over = await ended(manager, going)
        (listed,) = (await manager.list_cutovers()).items

    assert (over.state, listed.epoch, listed.state) == ("succeeded", 1, "confirmed")


async def _kept(fleet):
    return await fleet.cutovers.records.get("pump-1")


async def test_a_hub_without_an_endpoint_or_a_certificate_is_told(served, hub):
    async with served(SECTION) as manager:
        await manager.register_device("pump-1", "pump")
        with pytest.raises(Refused, match="endpoint"):
            await manager.start_cutover("memory", ["pump-1"])
        (plan,) = await manager.plan_cutover("memory", ["pump-1"])

    assert plan.reason.startswith("The hub has no certificate of the device")
