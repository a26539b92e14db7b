"""Devices change sides, to a hub and back: each command runs once, and a device that does not arrive stays."""

import asyncio

import pytest

from fleetcore.errors import Refused
from fleetcore.fleet.layers import OURS
from fleetcore.model.mirror import EntityKey
from fleetcore.runtime.at_hubs import held_at
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
                assert offer["token"].startswith("fc_enr_")
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


async def test_a_cancelled_cut_over_takes_back_its_offers_and_their_tokens(served, hub):
    async with served(SECTION) as manager:
        fleet = await manager.open()
        await manager.register_device("pump-1", "pump")
        await manager.update_device("pump-1", home="memory")
        coming = await manager.start_cutover("fleet", ["pump-1"])
        await until(lambda: _desired(manager))
        await manager.cancel_operation(coming.id)
        (token,) = await fleet.security.enrollment_tokens()
        (listed,) = (await manager.list_cutovers(operation=coming.id)).items

    assert (listed.state, token.revoked) == ("cancelled", True)


async def _desired(manager):
    return "token" in (await manager.get_twin("pump-1")).desired.get(OURS, {}).get("cutover", {})


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
