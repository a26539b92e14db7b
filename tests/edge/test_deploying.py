"""Functions reach gateways as entries of their desired state, by ordinary campaigns."""

import asyncio

import pytest

from fleetcore.errors import Conflict, NotFound, Refused
from fleetcore.model.firmware import CampaignState, ExecutionState
from fleetcore.model.rollout import FailureLimit, OnFailure, Retries, Rollout
from fleetcore.wire import messages
from tests.edge.kit import MODEL, module, released, state, wanted


async def test_a_function_is_deployed_by_an_entry_and_runs(fleet, signers, gateway):
    release = await released(fleet, signers)
    g1 = await gateway()

    await fleet.edge.deploy("vibration", "c", gateways=["g1"], config={"limit": 3})
    functions = await g1.poll()
    await g1.work()

    entry = functions["vibration"]
    assert (entry["version"], entry["sequence"], entry["sha256"]) == ("1.0.0", 1, release.sha256)
    assert (entry["config"], entry["execution"], entry["size"]) == ({"limit": 3}, "c:g1", 5000)
    assert [reply.error for reply in g1.replies] == [None] * 3
    assert await state(fleet, "g1") == "succeeded"
    assert (await fleet.campaigns.get("c")).state is CampaignState.SUCCEEDED
    (found,) = (await fleet.edge.functions("g1")).functions
    assert (found.in_sync, found.reported, found.usage["batches"]) == (True, "1.0.0", 7)


async def test_a_connected_gateway_is_told_by_its_desired_state_and_not_by_a_firmware_message(fleet, signers, gateway):
    await released(fleet, signers)
    g1 = await gateway()
    await fleet.edge.deploy("vibration", "c", gateways=["g1"])
    await fleet.plane.wait_idle()

    told = [g1.client._downlinks.get_nowait() for _ in range(g1.client._downlinks.qsize())]

    assert {downlink.type.name for downlink in told} == {"twin.desired"}
    assert told[-1].body["patch"]["functions"]["vibration"]["execution"] == "c:g1"
    assert await state(fleet, "g1") == "offered"


async def test_a_gateway_that_is_offline_gets_the_function_when_it_comes_back(fleet, signers, gateway, clock):
    await released(fleet, signers)
    g1 = await gateway(online=False)
    await fleet.edge.deploy("vibration", "c", gateways=["g1"])
    await fleet.plane.wait_idle()
    assert (await state(fleet, "g1"), await wanted(fleet, "g1")) == ("waiting", None)

    await clock.advance(40_000)
    await g1.connect(g1.token)
    await g1.work()

    assert await state(fleet, "g1") == "succeeded"


async def test_a_failure_puts_back_what_was_there_before(fleet, signers, gateway):
    for seq in (1, 2):
        await released(fleet, signers, seq=seq)
    g1 = await gateway()
    await fleet.edge.deploy("vibration:1", "first", gateways=["g1"], config={"limit": 3})
    await g1.work()
    g1.fails = "trapped"

    await fleet.edge.deploy("vibration:2", "c", gateways=["g1"], config={"limit": 9})
    await g1.work()

    assert (await state(fleet, "g1"), await wanted(fleet, "g1")) == ("failed", "1.0.0")
    functions = await g1.poll()
    assert functions["vibration"]["config"] == {"limit": 3}
    assert "execution" not in functions["vibration"]
    assert (await fleet.edge.functions("g1")).in_sync


async def test_a_failure_of_the_first_deployment_removes_the_function(fleet, signers, gateway):
    await released(fleet, signers)
    g1 = await gateway()
    g1.fails = "trapped"
    await fleet.edge.deploy("vibration", "c", gateways=["g1"])

    await g1.work()

    assert await g1.poll() == {}
    assert [event.type for event in await edge_events(fleet)] == ["edge.put_back"]


async def edge_events(fleet):
    return [
        event
        for entry in (await fleet.storage.feed(0, limit=10_000))
        for event in entry.events
        if event.type.startswith("edge.")
    ]


async def test_a_retry_is_another_offer(fleet, signers, gateway, clock):
    await released(fleet, signers)
    g1 = await gateway()
    g1.fails = "trapped"
    retried = Rollout(retries=Retries(times=1, wait_ms=60_000))
    await fleet.edge.deploy("vibration", "c", gateways=["g1"], rollout=retried)
    await g1.work()
    assert (await state(fleet, "g1"), await wanted(fleet, "g1")) == ("waiting", None)

    g1.fails = None
    await clock.advance(61)
    await fleet.campaigns.tick()
    functions = await g1.poll()
    await g1.work()

    assert functions["vibration"]["attempt"] == 2
    assert await state(fleet, "g1") == "succeeded"


@pytest.mark.parametrize("stops_at", ["accepted", "installing"])
async def test_an_abort_in_the_midst_of_an_installation_puts_back_what_was_there(fleet, signers, gateway, stops_at):
    for seq in (1, 2):
        await released(fleet, signers, seq=seq)
    g1 = await gateway()
    await fleet.edge.deploy("vibration:1", "first", gateways=["g1"])
    await g1.work()
    g1.stops_at = stops_at
    await fleet.edge.deploy("vibration:2", "c", gateways=["g1"])
    await g1.work()
    assert (await state(fleet, "g1"), await wanted(fleet, "g1")) == (stops_at, "2.0.0")

    await fleet.campaigns.abort("c", force=True)

    assert (await state(fleet, "g1"), await wanted(fleet, "g1")) == ("cancelled", "1.0.0")
    assert await fleet.updates._firmware("g1", 0) is None


async def test_a_rollback_without_a_release_gives_each_gateway_what_it_had(fleet, signers, gateway):
    for seq in (1, 2, 3):
        await released(fleet, signers, seq=seq)
    gateways = [await gateway(name) for name in ("g1", "g2", "g3")]
    await fleet.edge.deploy("vibration:1", "one", gateways=["g1"])
    await fleet.edge.deploy("vibration:2", "two", gateways=["g2"])
    for each in gateways:
        await each.work()
    await fleet.edge.deploy("vibration:3", "c", gateways=["g1", "g2", "g3"])
    for each in gateways:
        await each.work()
    assert [await wanted(fleet, each.name) for each in gateways] == ["3.0.0"] * 3

    await fleet.campaigns.roll_back("c")
    for each in gateways:
        await each.work()

    assert [await wanted(fleet, each.name) for each in gateways] == ["1.0.0", "2.0.0", None]
    assert [(await fleet.edge.functions(each.name)).in_sync for each in gateways] == [True] * 3
    assert (await fleet.campaigns.get("c")).state is CampaignState.ROLLED_BACK


async def test_a_rollback_to_a_release_is_a_campaign_of_its_own(fleet, signers, gateway):
    for seq in (1, 2):
        await released(fleet, signers, seq=seq)
    g1 = await gateway()
    await fleet.edge.deploy("vibration:2", "c", gateways=["g1"], rollback_to="vibration:1", config={"limit": 4})
    await g1.work()

    await fleet.campaigns.roll_back("c")
    await g1.work()

    assert (await state(fleet, "g1", "c-rollback"), await wanted(fleet, "g1")) == ("succeeded", "1.0.0")


async def test_too_many_failures_roll_back_by_themselves(fleet, signers, gateway):
    for seq in (1, 2):
        await released(fleet, signers, seq=seq)
    gateways = [await gateway(name) for name in ("g1", "g2")]
    await fleet.edge.deploy("vibration:1", "first", gateways=["g1", "g2"])
    for each in gateways:
        await each.work()
    stop = Rollout(failures=(FailureLimit(share=0.1, min_executed=2, action=OnFailure.ROLL_BACK),))
    await fleet.edge.deploy("vibration:2", "c", gateways=["g1", "g2"], rollout=stop)
    await gateways[0].work()
    gateways[1].fails = "trapped"
    await gateways[1].work()
    while fleet.campaigns._driven:
        await asyncio.sleep(0)

    assert (await fleet.campaigns.get("c")).state is CampaignState.ROLLED_BACK
    assert [await wanted(fleet, name) for name in ("g1", "g2")] == ["1.0.0", "1.0.0"]


async def test_a_rollback_whose_module_was_removed_is_refused_before_the_start(fleet, signers, gateway, monkeypatch):
    for seq in (1, 2):
        await released(fleet, signers, seq=seq)
    g1 = await gateway()
    await fleet.edge.deploy("vibration:1", "first", gateways=["g1"])
    await g1.work()
    gone = (await fleet.releases.get("vibration:1")).sha256
    artifact = fleet.storage.artifact

    async def without(sha256):
        return None if sha256 == gone else await artifact(sha256)

    monkeypatch.setattr(fleet.storage, "artifact", without)
    with pytest.raises(Refused, match="its module is not stored") as before:
        await fleet.edge.deploy("vibration:2", "c", gateways=["g1"])
    with pytest.raises(Refused, match="is not stored"):
        await fleet.edge.deploy("vibration:2", "d", gateways=["g1"], rollback_to="vibration:1")

    assert before.value.code == "rollback_refused"
    assert await fleet.campaigns.records.get("c") is None


async def test_a_rollback_goes_to_no_release_below_the_least_seq_that_gateways_accept(fleet, signers, gateway):
    await released(fleet, signers, seq=1)
    await released(fleet, signers, seq=2, min_seq=2)
    await gateway()

    with pytest.raises(Refused, match="below seq 2"):
        await fleet.edge.deploy("vibration:2", "c", gateways=["g1"], rollback_to="vibration:1")


async def test_two_deployments_of_one_function_come_one_after_the_other(fleet, signers, gateway):
    for seq in (1, 2):
        await released(fleet, signers, seq=seq)
    g1 = await gateway()
    await asyncio.gather(
        fleet.edge.deploy("vibration:1", "a", gateways=["g1"]), fleet.edge.deploy("vibration:2", "b", gateways=["g1"])
    )

    await g1.work()
    await g1.work()

    assert {await state(fleet, "g1", name) for name in ("a", "b")} == {"succeeded"}
    assert await wanted(fleet, "g1") in ("1.0.0", "2.0.0")
    assert (await fleet.edge.functions("g1")).in_sync


async def test_an_offer_that_another_one_has_overtaken_does_not_come_back(fleet, signers, gateway):
    for seq in (1, 2):
        await released(fleet, signers, seq=seq)
    g1 = await gateway()
    await fleet.edge.deploy("vibration:1", "slow", gateways=["g1"])
    await g1.poll()
    await fleet.edge.deploy("vibration:2", "urgent", gateways=["g1"], rollout=Rollout(priority=9))
    await g1.poll()
    assert await wanted(fleet, "g1") == "2.0.0"

    await fleet.campaigns.abort("slow", force=True)
    await fleet.campaigns.abort("urgent", force=True)

    assert await wanted(fleet, "g1") is None


async def test_an_undeployed_function_is_removed_and_what_deploys_it_cancelled(fleet, signers, gateway):
    for seq in (1, 2):
        await released(fleet, signers, seq=seq)
    g1 = await gateway()
    await fleet.edge.deploy("vibration:1", "first", gateways=["g1"])
    await g1.work()
    await fleet.edge.deploy("vibration:2", "c", gateways=["g1"])
    await g1.poll()

    for _ in range(2):
        await fleet.edge.undeploy("vibration", "g1")

    assert await g1.poll() == {}
    assert (await fleet.campaigns.execution("c", "g1")).code == "undeployed"
    types = [event.type for event in await edge_events(fleet)]
    assert types == ["edge.put_back", "edge.undeployed"]


async def test_a_retired_gateway_leaves_its_campaigns_and_gets_no_more_functions(fleet, manager, signers, gateway):
    await released(fleet, signers)
    g1 = await gateway()
    g1.stops_at = "accepted"
    await fleet.edge.deploy("vibration", "c", gateways=["g1"])
    await g1.work()

    await manager.retire_device("g1")

    assert (await state(fleet, "g1"), await wanted(fleet, "g1")) == ("cancelled", None)
    with pytest.raises(Refused, match="it is retired"):
        await fleet.edge.deploy("vibration", "d", gateways=["g1"])


async def test_an_erased_gateway_leaves_nothing_of_its_functions(fleet, manager, signers, gateway):
    await released(fleet, signers)
    g1 = await gateway()
    await fleet.edge.deploy("vibration", "c", gateways=["g1"])
    await g1.work()

    await manager.erase_device("g1")

    assert await fleet.functions.records.find() == []


async def test_a_gateway_downloads_the_modules_that_its_desired_state_names_and_no_others(fleet, signers, gateway):
    first, second = [await released(fleet, signers, seq=seq) for seq in (1, 2)]
    g1, g2 = await gateway(), await gateway("g2")
    await fleet.edge.deploy("vibration:1", "c", gateways=["g1"])
    await g1.work()

    assert b"".join([piece async for piece in g1.client.artifact(first.sha256)]) == module("1")
    for client, sha256 in ((g1.client, second.sha256), (g2.client, first.sha256)):
        with pytest.raises(NotFound):
            _ = [piece async for piece in client.artifact(sha256)]


async def test_operators_do_not_set_the_functions_of_gateways_by_hand(fleet, gateway):
    await gateway()

    with pytest.raises(Refused, match="edge deploy"):
        await fleet.twins.desire("g1", {"functions": {"vibration": {"version": "1"}}})
    await fleet.devices.register("d", "sensor")
    await fleet.twins.desire("d", {"functions": {"light": True}})


async def test_replacing_desired_state_keeps_the_functions(fleet, signers, gateway):
    await released(fleet, signers)
    g1 = await gateway()
    await fleet.edge.deploy("vibration", "c", gateways=["g1"])
    await g1.work()

    await fleet.twins.desire("g1", {"interval": 5}, replace=True)

    assert await wanted(fleet, "g1") == "1.0.0"


async def test_a_report_for_an_offer_that_was_taken_back_is_refused(fleet, signers, gateway):
    await released(fleet, signers)
    g1 = await gateway()
    g1.stops_at = "accepted"
    await fleet.edge.deploy("vibration", "c", gateways=["g1"])
    await g1.work()
    await fleet.campaigns.abort("c", force=True)

    reply = await g1.client.send(messages.FIRMWARE_STATUS, {"execution": "c:g1", "state": "installing"})

    assert reply.error["code"] == "illegal_transition"


async def test_a_function_that_goes_back_after_it_succeeded_is_reverted(fleet, signers, gateway, clock):
    for seq in (1, 2):
        await released(fleet, signers, seq=seq)
    g1 = await gateway()
    for seq, name in ((1, "first"), (2, "c")):
        await fleet.edge.deploy(f"vibration:{seq}", name, gateways=["g1"])
        await g1.work()
        await clock.advance(1)

    await g1.client.send(messages.TWIN_REPORT, {"functions": {"vibration": {"batches": 9}}})
    assert await state(fleet, "g1") == "succeeded"
    await g1.client.send(messages.TWIN_REPORT, {"functions": {"vibration": {"version": "1.0.0"}}})

    execution = await fleet.campaigns.execution("c", "g1")
    assert execution.state is ExecutionState.REVERTED
    assert await wanted(fleet, "g1") == "1.0.0"


async def test_firmware_and_functions_of_a_gateway_come_one_after_the_other(fleet, signers, gateway):
    await released(fleet, signers)
    g1 = await gateway()
    image = b"gateway firmware"
    await fleet.campaigns.add_artifact(image)
    envelope = signers.manifest(image, models=(MODEL,))
    await fleet.campaigns.create("a", "2.0.0", ["g1"], sha256=None, manifest=envelope)
    await fleet.edge.deploy("vibration", "c", gateways=["g1"])

    assert await g1.poll() == {}
    offer = (await fleet.updates.offer("g1"))["offer"]
    await g1.client.send(
        messages.FIRMWARE_STATUS, {"execution": offer["execution"], "state": "succeeded", "version": "2.0.0"}
    )
    await g1.work()

    assert await state(fleet, "g1") == "succeeded"


async def test_a_function_may_need_another_one_first(fleet, signers, gateway):
    from fleetcore.wire.manifest import Required

    await released(fleet, signers, name="base")
    needs = (Required(component="function.base", name="base", seq=1),)
    await released(fleet, signers, requires=needs)
    g1 = await gateway()

    await fleet.edge.deploy("vibration", "c", gateways=["g1"])
    await g1.work()
    await g1.work()

    assert [await wanted(fleet, "g1", name) for name in ("base", "vibration")] == ["1.0.0", "1.0.0"]
    assert await state(fleet, "g1") == "succeeded"


async def test_a_function_needs_a_function_for_its_configuration(fleet, gateway):
    await gateway()

    with pytest.raises(NotFound, match="No function 'vibration' is released"):
        await fleet.edge.deploy("vibration", "c", gateways=["g1"])


async def test_a_name_of_a_campaign_is_used_once(fleet, signers, gateway):
    await released(fleet, signers)
    await gateway()
    await fleet.edge.deploy("vibration", "c", gateways=["g1"])

    with pytest.raises(Conflict, match="exists already"):
        await fleet.edge.deploy("vibration", "c", gateways=["g1"])


async def test_a_function_that_a_gateway_still_runs_and_is_not_to_run_is_deployed_again(fleet, signers, gateway):
    await released(fleet, signers)
    g1 = await gateway()
    await fleet.edge.deploy("vibration", "c", gateways=["g1"])
    await g1.work()
    await fleet.edge.undeploy("vibration", "g1")

    await fleet.edge.deploy("vibration", "again", gateways=["g1"])
    await g1.poll()

    assert (await state(fleet, "g1", "again"), await wanted(fleet, "g1")) == ("offered", "1.0.0")


async def test_what_a_gateway_runs_is_not_deployed_again_unless_its_configuration_changes(fleet, signers, gateway):
    await released(fleet, signers)
    g1 = await gateway()
    await fleet.edge.deploy("vibration", "c", gateways=["g1"], config={"limit": 3})
    await g1.work()

    for campaign, config in (("same", None), ("equal", {"limit": 3}), ("other", {"limit": 4})):
        await fleet.edge.deploy("vibration", campaign, gateways=["g1"], config=config)
        await g1.poll()

    assert [await state(fleet, "g1", name) for name in ("same", "equal", "other")] == ["skipped", "skipped", "offered"]
    assert g1.desired["functions"]["vibration"]["config"] == {"limit": 4}


async def test_a_function_that_fails_while_it_soaks_is_put_back(fleet, signers, gateway, clock):
    for seq in (1, 2):
        await released(fleet, signers, seq=seq)
    g1 = await gateway()
    await fleet.edge.deploy("vibration:1", "first", gateways=["g1"])
    await g1.work()
    await fleet.edge.deploy("vibration:2", "c", gateways=["g1"], rollout=Rollout(soak_ms=600_000))
    await g1.work()
    assert await state(fleet, "g1") == "rebooting"

    await clock.advance(60)
    await g1.client.send(messages.TWIN_REPORT, {"functions": {"vibration": {"state": "failed", "code": "trapped"}}})

    assert (await state(fleet, "g1"), await wanted(fleet, "g1")) == ("reverted", "1.0.0")
