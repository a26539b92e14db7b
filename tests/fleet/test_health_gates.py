"""The health gate of a campaign: a fleet whose devices get better, worse or silent with a new version."""

import pytest

from fleetcore import IoTFleetManager
from fleetcore.errors import Refused
from fleetcore.model.anomaly import Anomaly
from fleetcore.model.firmware import CampaignState, ExecutionState, FirmwareImage
from fleetcore.model.gate import Matching, Verdict
from fleetcore.model.kinds import Severity
from fleetcore.model.rollout import HealthGate, OnFailure, Rollout
from fleetcore.model.store import Commit
from fleetcore.testing.clock import MovableClock
from fleetcore.wire import messages

IMAGE = {"sha256": "ab" * 32, "size": 10}
BEFORE = FirmwareImage(release="1.0.0", url="https://example.com/1", sha256="cd" * 32, size=9)
MIN = 60_000
GATE = HealthGate(window_ms=8 * MIN)
METERED = HealthGate(window_ms=8 * MIN, metrics=("temperature",))
WAVES = ("3", "50%")


class Plant:
    """Devices that send a temperature every two minutes; some behave otherwise once they are updated."""

    def __init__(self, manager, fleet, clock, count=24, sites=("north", "south")):
        self.manager, self.fleet, self.clock = manager, fleet, clock
        self.names = [f"d-{number:03d}" for number in range(count)]
        self.sites = sites
        self.updated, self.hotter, self.mute, self.alarmed = set(), set(), set(), set()
        self._minutes = 0

    async def register(self):
        for at, name in enumerate(self.names):
            if await self.fleet.devices.find(name) is None:
                where = {"site": self.sites[at % len(self.sites)]} if self.sites else {}
                await self.fleet.devices.register(name, "sensor", model="m1", attributes=where)

    async def passes(self, minutes):
        """Time passes: devices send, and the fleet does what is due."""
        for _ in range(minutes // 2):
            await self.clock.advance(120)
            self._minutes += 1
            for at, name in enumerate(self.names):
                if name in self.mute:
                    continue
                noise = (self._minutes * 7 + at * 13) % 10 / 50
                value = 20.0 + at % 5 + noise + (8.0 if name in self.hotter else 0.0)
                await self.manager.collect_telemetry(name, "temperature", value, "Cel")
            await self.manager.wait_idle()
            await self.fleet.campaigns.tick()

    async def alarm(self, device):
        found = Anomaly(
            id=f"a-{device}-{self.clock.now_ms()}", detector="x", device=device, metric="temperature",
            time=self.clock.now_ms(), observed=1.0, expected=None, score=1.0, severity=Severity.WARNING,
            explanation="too hot", found=self.clock.now_ms(),
        )  # fmt: skip
        await self.fleet.storage.commit(Commit(puts=self.fleet.anomalies.puts([found])))

    async def start(self, gate=GATE, waves=WAVES, **more):
        rollout = Rollout(waves=waves, gate=gate, **more)
        url = "https://example.com/fw"
        await self.fleet.campaigns.create(
            "c", "2.0.0", self.names, url, **IMAGE, rollout=rollout, rollback=BEFORE
        )

    async def update(self, then=None, state="succeeded"):
        """The devices with a place update, and then do what a function says; returns their names."""
        found = []
        for name in self.names:
            offer = await self.fleet.updates.offer(name)
            if offer is not None:
                body = messages.FirmwareStatus(
                    execution=offer["offer"]["execution"], state=state, version=offer["offer"]["version"],
                )  # fmt: skip
                await self.fleet.updates.status(name, body)
                found.append(name)
                self.updated.add(name)
                if then is not None:
                    then.add(name)
        return found

    async def campaign(self, name="c"):
        return await self.fleet.campaigns.get(name)

    async def observations(self):
        return await self.fleet.health_gates.records.find(ref=("campaign", "c"))


@pytest.fixture
async def plant(manager, fleet, clock):
    made = Plant(manager, fleet, clock)
    await made.register()
    await made.passes(10)
    return made


async def test_without_a_difference_the_campaign_goes_on_to_its_end(plant):
    await plant.start(METERED)
    for _ in range(4):
        await plant.update()
        await plant.passes(10)

    ended = await plant.campaign()
    assert (ended.state, ended.reason) == (CampaignState.SUCCEEDED, "24 of 24 devices updated")
    observed = await plant.observations()
    assert len(observed) == 24
    assert {each.verdict for each in observed} <= {Verdict.GOOD, Verdict.UNCOMPARED}
    assert all(each.rules == () for each in observed)


async def test_a_wave_waits_for_the_devices_that_are_observed(plant):
    await plant.start()
    assert len(await plant.update()) == 3

    await plant.passes(6)
    assert (await plant.campaign()).wave == 1
    await plant.passes(2)
    assert (await plant.campaign()).wave == 2


async def test_silence_pauses_it(plant):
    await plant.start()
    updated = await plant.update(plant.mute)
    await plant.passes(10)

    paused = await plant.campaign()
    assert (paused.state, paused.code) == (CampaignState.PAUSED, "health_gate")
    assert paused.reason.startswith("3 of 3 updated devices are bad, and 0 of 21 comparable ones: e-value ")
    found = await plant.observations()
    assert sorted(each.device for each in found) == sorted(updated)
    assert {each.rules for each in found} == {("silent",)}
    assert {each.matching for each in found} == {Matching.SITE}


async def test_a_metric_that_moves_pauses_it(plant):
    await plant.start(METERED)
    await plant.update(plant.hotter)
    await plant.passes(10)

    paused = await plant.campaign()
    assert (paused.state, paused.code) == (CampaignState.PAUSED, "health_gate")
    found = await plant.observations()
    assert {each.rules for each in found} == {("metric",)}
    assert found[0].reasons[0].startswith("temperature changed by +")
