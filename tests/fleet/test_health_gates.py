"""The health gate of a campaign: a fleet whose devices get better, worse or silent with a new version."""

import asyncio

import pytest

from fleetcore import IoTFleetManager
from fleetcore.errors import NotFound, Refused
from fleetcore.model.anomaly import Anomaly
from fleetcore.model.firmware import CampaignState, ExecutionState, FirmwareImage
from fleetcore.model.gate import Matching, Verdict
from fleetcore.model.kinds import Severity
from fleetcore.model.rollout import HealthGate, OnFailure, Rollout, TimeLimits
from fleetcore.runtime.recount import differences
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
        await self.fleet.anomalies.add([found])

    async def start(self, gate=GATE, waves=WAVES, **more):
        rollout = Rollout(waves=waves, gate=gate, **more)
        url = "https://example.com/fw"
        await self.fleet.campaigns.create("c", "2.0.0", self.names, url, **IMAGE, rollout=rollout, rollback=BEFORE)

    async def update(self, then=None, state="succeeded", only=100):
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
                if len(found) == only:
                    break
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
    assert {each.matching for each in found} <= {Matching.SITE, Matching.MODEL}


async def test_a_metric_that_moves_pauses_it(plant):
    await plant.start(METERED)
    await plant.update(plant.hotter)
    await plant.passes(10)

    paused = await plant.campaign()
    assert (paused.state, paused.code) == (CampaignState.PAUSED, "health_gate")
    found = await plant.observations()
    assert {each.rules for each in found} == {("metric",)}
    assert found[0].reasons[0].startswith("temperature changed by +")


async def test_alerts_pause_it(plant):
    await plant.start()
    updated = await plant.update()
    await plant.passes(2)
    for device in updated:
        await plant.alarm(device)
    await plant.passes(8)

    paused = await plant.campaign()
    assert (paused.state, paused.code) == (CampaignState.PAUSED, "health_gate")
    assert {each.rules for each in await plant.observations()} == {("alert",)}


async def test_what_also_happens_to_the_others_stops_nothing(plant):
    await plant.start(METERED)
    await plant.update()
    plant.hotter.update(plant.names)  # a hot day
    await plant.passes(10)

    assert (await plant.campaign()).wave == 2


async def test_a_device_in_trouble_before_its_update_and_such_controls_are_left_out(plant):
    for device in plant.names[:20]:
        await plant.alarm(device)
    await plant.passes(2)
    await plant.start()
    updated = await plant.update()
    await plant.passes(10)

    for each in await plant.observations():
        troubled = each.device in plant.names[:20]
        assert (each.verdict is Verdict.UNCOMPARED) is troubled
        assert not {control.device for control in each.controls} & set(plant.names[:20])
    assert len(updated) == 3


async def test_an_update_that_fails_counts_as_bad(plant):
    await plant.start(waves=("6",), min_succeeded=0.1)
    good = (await plant.update(only=1))[0]
    await plant.update(state="failed")
    await plant.passes(10)

    paused = await plant.campaign()
    assert (paused.state, paused.code) == (CampaignState.PAUSED, "health_gate")
    bad = [each for each in await plant.observations() if each.device != good]
    assert [each.rules for each in bad] == [("update",)] * 5


async def test_a_resume_accepts_the_evidence_and_later_evidence_stops_it_again(plant):
    await plant.start()
    await plant.update(plant.mute)
    await plant.passes(10)
    await plant.fleet.campaigns.resume("c", actor="ann")
    resumed = await plant.campaign()
    assert (resumed.state, resumed.gate_score.log_e, resumed.gate_score.number) == (CampaignState.RUNNING, 0.0, 3)

    await plant.passes(2)
    await plant.update(plant.mute)
    await plant.passes(10)

    paused = await plant.campaign()
    assert (paused.state, paused.code, paused.wave) == (CampaignState.PAUSED, "health_gate", 2)


async def test_an_operators_pause_keeps_the_evidence(plant):
    await plant.start()
    await plant.update(plant.mute)
    await plant.fleet.campaigns.pause("c")
    await plant.passes(10)
    assert (await plant.campaign()).code is None

    await plant.fleet.campaigns.resume("c")

    assert (await plant.campaign()).code == "health_gate"


async def test_it_rolls_back_and_reaches_every_updated_device(plant):
    await plant.start(HealthGate(window_ms=8 * MIN, action=OnFailure.ROLL_BACK), waves=("6",))
    updated = await plant.update(plant.mute)
    await plant.passes(10)

    stopped = await plant.campaign()
    assert (stopped.state, stopped.code) == (CampaignState.ROLLED_BACK, "health_gate")
    assert sorted((await plant.campaign("c-rollback")).targets) == sorted(updated)
    assert sorted(await plant.update()) == sorted(updated)
    assert (await plant.campaign("c-rollback")).state is CampaignState.SUCCEEDED


async def test_a_gate_that_rolls_back_needs_a_version_to_go_back_to(plant):
    with pytest.raises(Refused, match="needs a version to roll back to"):
        await plant.fleet.campaigns.create(
            "d", "2.0.0", plant.names, "https://example.com/fw", **IMAGE,
            rollout=Rollout(gate=HealthGate(action=OnFailure.ROLL_BACK)),
        )  # fmt: skip


async def test_a_device_that_does_not_come_back_counts_as_bad(plant):
    await plant.start(waves=("4",), limits=TimeLimits(return_ms=4 * MIN))
    await plant.update(plant.mute, state="rebooting")
    await plant.passes(6)
    assert {each.state async for each in plant.fleet.campaigns.executions.iterate(ref=("campaign", "c"))} == {
        ExecutionState.UNKNOWN, ExecutionState.WAITING,
    }  # fmt: skip
    await plant.passes(10)

    assert (await plant.campaign()).code == "health_gate"
    assert {each.rules for each in await plant.observations()} == {("update", "silent")}


async def test_controls_are_of_the_same_site_where_there_are_enough_and_used_once(plant):
    await plant.start()
    await plant.update()
    await plant.passes(10)

    used = [control.device for each in await plant.observations() for control in each.controls]
    assert len(used) == len(set(used)) == 21
    for each in await plant.observations():
        if each.matching is Matching.SITE:
            sites = {int(name[2:]) % 2 for name in (each.device, *(control.device for control in each.controls))}
            assert len(sites) == 1


async def test_a_control_serves_no_other_device_at_the_same_time(manager, fleet, clock):
    plant = Plant(manager, fleet, clock, count=5)
    await plant.register()
    await plant.passes(10)
    await plant.start(waves=("3",))
    await plant.update()
    await plant.passes(10)

    observed = await plant.observations()
    assert sorted(len(each.controls) for each in observed) == [0, 1, 1]
    assert len({control.device for each in observed for control in each.controls}) == 2


async def test_a_silent_control_was_dead_before_and_is_none(plant):
    await plant.start()
    dead = set(plant.names[::2])
    plant.mute.update(dead)
    await plant.passes(20)
    await plant.update()
    await plant.passes(10)

    assert not {control.device for each in await plant.observations() for control in each.controls} & dead


async def test_without_controls_a_device_is_compared_with_its_own_days_before(manager, fleet, clock):
    plant = Plant(manager, fleet, clock, count=4)
    await plant.register()
    for _ in range(3):
        await plant.passes(30)
        clock.jump((24 * 3600 - 30 * 60) * 1000)
    await plant.passes(12)
    await plant.start(METERED, waves=())
    await plant.update(plant.hotter)
    await plant.passes(12)

    observed = await plant.observations()
    assert {each.matching for each in observed} == {Matching.HISTORY}
    assert {len(each.controls) for each in observed} == {3}
    assert {control.rules for each in observed for control in each.controls} == {()}


async def test_without_controls_and_history_nothing_is_compared_and_nothing_stops(manager, fleet, clock):
    plant = Plant(manager, fleet, clock, count=4)
    await plant.register()
    await plant.passes(10)
    await plant.start(waves=())
    await plant.update(plant.mute)
    await plant.passes(10)

    assert {each.verdict for each in await plant.observations()} == {Verdict.UNCOMPARED}
    assert (await plant.campaign()).state is CampaignState.SUCCEEDED


async def test_an_erased_device_is_in_no_evidence(plant):
    await plant.start()
    updated = await plant.update()
    await plant.passes(10)
    stays = next(each for each in await plant.observations() if each.device != updated[0])
    control = stays.controls[0].device

    await plant.fleet.erasing.erase(control)
    await plant.fleet.erasing.erase(updated[0])

    found = await plant.observations()
    assert len(found) == 2
    assert updated[0] not in {each.device for each in found}
    assert control not in {each.device for one in found for each in one.controls}
    assert await differences(plant.fleet.storage, plant.fleet.counted) == {}


async def test_the_evidence_is_shown(plant):
    await plant.start()
    updated = await plant.update(plant.mute)
    await plant.passes(10)

    told = await plant.manager.get_campaign_evidence("c")

    (wave,) = told.waves
    assert (wave.wave, wave.updated, wave.updated_bad, wave.controls, wave.controls_bad) == (1, 3, 3, 21, 0)
    assert [(each.rule, each.updated, each.controls) for each in told.rules] == [("silent", 3, 0)]
    assert sorted(each.device for each in told.worst) == sorted(updated)
    assert told.worst[0].reasons == ["it was not heard in the second half of its window"]
    assert [each.judged for each in told.points] == [1, 2, 3]
    assert told.e_value == told.limit == 25.0
    assert told.summary == (await plant.campaign()).reason


async def test_a_campaign_without_a_gate_has_no_evidence(plant):
    await plant.start(None)
    with pytest.raises(NotFound, match="has no health gate"):
        await plant.manager.get_campaign_evidence("c")


@pytest.mark.parametrize("restart_after", [1, 2, 3])
def test_a_restart_gives_the_same_verdict(tmp_path, restart_after):
    async def part(folder, clock, plant_state, minutes, *, begin):
        async with IoTFleetManager(folder, clock=clock) as manager:
            fleet = await manager.open()
            plant = Plant(manager, fleet, clock)
            plant.mute |= plant_state
            if begin:
                await plant.register()
                await plant.passes(10)
                await plant.start()
                plant_state |= set(await plant.update(plant.mute))
            await plant.passes(minutes)
            return await plant.campaign(), await plant.observations()

    async def act(folder, *parts):
        clock, mute = MovableClock(), set()
        for number, minutes in enumerate(parts):
            campaign, observed = await part(folder, clock, mute, minutes, begin=not number)
        return campaign.state, campaign.reason, [(each.device, each.verdict, each.e_value) for each in observed]

    whole = asyncio.run(act(tmp_path / "whole", 10))
    cut = asyncio.run(act(tmp_path / "cut", 2 * restart_after, 10 - 2 * restart_after))

    assert whole[0] is CampaignState.PAUSED
    assert cut == whole
