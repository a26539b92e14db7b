"""The plan of a campaign: simulated in a process of its own, from its present state on."""

import pytest

from fleetcore.errors import Conflict
from fleetcore.fleet import plans
from fleetcore.model.firmware import CampaignState, FirmwareImage
from fleetcore.model.rollout import HealthGate, Rate, Rollout

IMAGE = {"sha256": "ab" * 32, "size": 1000}


async def held(fleet, count, **rollout):
    names = [f"d-{number:03d}" for number in range(count)]
    for name in names:
        await fleet.devices.register(name, "sensor")
    url = "https://example.com/fw"
    return await fleet.campaigns.create("c", "2.0.0", names, url, **IMAGE, rollout=Rollout(**rollout), hold=True)


@pytest.fixture(params=["one by one", "on arrays"])
def simulated(request, monkeypatch):
    """Small campaigns are simulated device by device, large ones on arrays."""
    if request.param == "on arrays":
        monkeypatch.setattr(plans, "CROWD", 1)


@pytest.mark.usefixtures("simulated")
async def test_a_held_campaign_is_planned_before_it_begins(manager, fleet):
    made = await held(fleet, 40, waves=("1", "25%"), wave_soak_ms=3_600_000)
    assert (made.state, made.code) == (CampaignState.PAUSED, "held")
    assert await fleet.updates.offer("d-000") is None

    plan = await manager.plan_campaign("c", fetch_s=10, install_s=60)

    assert (plan["state"], plan["counts"]) == ("succeeded", {"succeeded": 40})
    assert (plan["courses"], plan["offers"], plan["bytes"]) == (50, 40, 40_000)
    assert len(plan["waves"]) == 3
    assert plan["waves"][1] > 3600
    assert plan["duration_p10_s"] <= plan["duration_s"] <= plan["duration_p90_s"]
    times = [point["at_s"] for point in plan["points"]]
    assert times == sorted(times)
    # Nothing was changed.
    assert (await fleet.campaigns.get("c")).state is CampaignState.PAUSED
    assert (await fleet.campaigns.resume("c")).state is CampaignState.RUNNING


@pytest.mark.usefixtures("simulated")
async def test_a_plan_names_the_devices_that_never_get_an_offer(manager, fleet):
    await held(fleet, 3)
    await fleet.twins.report("d-001", {"firmware": {"version": "9.0.0"}})

    plan = await manager.plan_campaign("c")

    assert plan["refused"] == {"rollback_refused": 1}
    assert plan["refused_devices"] == {"d-001": "rollback_refused"}
    assert plan["counts"] == {"succeeded": 2}


@pytest.mark.usefixtures("simulated")
async def test_a_plan_says_that_a_campaign_would_stop(manager, fleet):
    await held(fleet, 100, waves=("10",))

    plan = await manager.plan_campaign("c", fails=1.0)

    assert (plan["state"], plan["states"]) == ("paused", {"paused": 50})
    assert plan["reason"] == "0 of 10 devices of wave 1 succeeded; 95 % have to"


@pytest.mark.usefixtures("simulated")
async def test_a_running_campaign_is_planned_from_where_it_is(manager, fleet):
    await held(fleet, 30, rate=Rate(per_minute=10))
    whole = await manager.plan_campaign("c", fetch_s=1, install_s=1)
    await fleet.campaigns.resume("c")
    async for execution in fleet.campaigns.executions.iterate(ref=("placed", "c")):
        assert await fleet.updates.offer(execution.device) is not None

    rest = await manager.plan_campaign("c", fetch_s=1, install_s=1)

    assert (whole["offers"], rest["offers"]) == (30, 20)


async def test_a_plan_says_which_devices_could_not_be_rolled_back(manager, fleet):
    await held(fleet, 3)
    await fleet.twins.report("d-001", {"firmware": {"version": "9.0.0"}})

    assert (await manager.plan_campaign("c"))["not_rolled_back"] == {"no_rollback": 2}


async def test_a_way_back_that_devices_accept_leaves_none_stuck(manager, fleet):
    names = [(await fleet.devices.register(f"d-{number}", "sensor")).id for number in range(3)]
    before = FirmwareImage(release="1.0.0", url="https://example.com/1", sha256="cd" * 32, size=9)
    await fleet.campaigns.create("c", "2.0.0", names, "https://example.com/fw", **IMAGE, rollback=before, hold=True)

    assert (await manager.plan_campaign("c"))["not_rolled_back"] == {}


async def test_a_plan_waits_for_the_window_of_a_gate_and_does_not_let_it_stop(manager, fleet):
    await held(fleet, 20, waves=("2",), gate=HealthGate(window_ms=3_600_000))

    plan = await manager.plan_campaign("c", fetch_s=1, install_s=1)

    assert plan["state"] == "succeeded"
    assert plan["waves"][1] > 3600


async def test_what_has_ended_has_no_plan(manager, fleet):
    await held(fleet, 1)
    await fleet.campaigns.abort("c")

    with pytest.raises(Conflict, match="is aborted: nothing is left to plan"):
        await manager.plan_campaign("c")
