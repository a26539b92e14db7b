"""Gateways: topology of any depth, capacity, placement, and the replacement of one by another."""

import pytest

from fleetcore.errors import Conflict, Refused, VersionConflict
from fleetcore.model.device import Lifecycle
from fleetcore.model.edge import Capacity
from fleetcore.testing.signers import START_MS
from fleetcore.wire import messages
from tests.edge.kit import MODEL, ROOM, released, state, wanted

READING = {"heat": 1.0}


async def chain(fleet, gateway, *, leaf="leaf"):
    """``top`` with ``middle`` below it, and a leaf below that."""
    top, middle = await gateway("top"), await gateway("middle")
    await fleet.edge.attach("top", "middle")
    await fleet.devices.register(leaf, "sensor")
    await fleet.edge.attach("middle", leaf)
    return top, middle


async def says(gateway, subject):
    reply = await gateway.client.send(messages.TELEMETRY, READING, subject=subject)
    return reply.error and reply.error["code"]


# --- topology --------------------------------------------------------------------------------------------------------


async def test_every_gateway_above_a_leaf_may_speak_for_it_and_no_other(fleet, gateway):
    top, middle = await chain(fleet, gateway)
    beside = await gateway("beside")

    assert await says(top, "leaf") is None
    assert await says(middle, "leaf") is None
    assert await says(top, "middle") is None
    assert await says(beside, "leaf") == "not_your_device"
    assert await says(middle, "top") == "not_your_device"


async def test_a_right_over_leaves_ends_when_a_gateway_in_between_moves(fleet, gateway):
    top, middle = await chain(fleet, gateway)
    beside = await gateway("beside")
    assert await says(top, "leaf") is None

    await fleet.edge.detach("middle")
    await fleet.edge.attach("beside", "middle")

    assert await says(top, "leaf") == "not_your_device"
    assert await says(middle, "leaf") is None
    assert await says(beside, "leaf") is None


async def test_a_leaf_is_reached_through_the_nearest_gateway_that_is_connected(fleet, gateway):
    top, middle = await chain(fleet, gateway)
    await fleet.plane.wait_idle()

    async def told(change):
        for each in (top, middle):
            if each.client is not None:
                while not each.client._downlinks.empty():
                    each.client._downlinks.get_nowait()
        await fleet.twins.desire("leaf", change)
        await fleet.plane.wait_idle()
        return [
            (each.name, downlink.gateway)
            for each in (top, middle)
            if each.client is not None
            for downlink in [each.client._downlinks.get_nowait() for _ in range(each.client._downlinks.qsize())]
            if downlink.subject == "leaf"
        ]

    assert await told({"a": 1}) == [("middle", "middle")]
    await middle.disconnect()
    assert await told({"a": 2}) == [("top", "top")]


async def test_a_gateway_that_comes_back_gets_what_waits_for_all_below_it(fleet, gateway):
    top, middle = await chain(fleet, gateway)
    await middle.disconnect()
    await top.disconnect()
    await fleet.twins.desire("leaf", {"a": 1})

    await top.connect(top.token)
    await fleet.plane.wait_idle()

    found = [top.client._downlinks.get_nowait() for _ in range(top.client._downlinks.qsize())]
    assert "leaf" in {downlink.subject for downlink in found}


async def test_a_cycle_is_refused_with_its_path(fleet, gateway):
    await chain(fleet, gateway)
    await gateway("low")
    await fleet.edge.attach("middle", "low")

    with pytest.raises(Refused) as attached:
        await fleet.edge.attach("low", "top")
    with pytest.raises(Refused) as changed:
        await fleet.devices.change("top", gateway="middle")

    assert (attached.value.code, changed.value.code) == ("topology_cycle", "topology_cycle")
    assert attached.value.ids["path"] == "top < low < middle < top"
    assert (await fleet.devices.get("top")).gateway is None


async def test_two_moves_that_would_make_a_cycle_together_do_not_both_happen(fleet, gateway):
    import asyncio

    for name in ("a", "b"):
        await gateway(name, online=False)

    done = await asyncio.gather(
        fleet.edge.attach("a", "b"), fleet.edge.attach("b", "a"), return_exceptions=True
    )  # fmt: skip

    assert sorted(type(each).__name__ for each in done) == ["Device", "Refused"]


async def test_a_gateway_below_another_announces_its_leaves(fleet, gateway):
    top, middle = await chain(fleet, gateway)
    await fleet.edge.register_gateway("middle", may_register=True)

    made = await middle.client.send(messages.LEAF_REGISTER, {"device": "new"})
    again = await top.client.send(messages.LEAF_REGISTER, {"device": "new"})

    assert (made.status, again.body["gateway"]) == (201, "middle")


# --- capacity and placement ------------------------------------------------------------------------------------------


async def test_what_is_promised_counts_and_a_deployment_beyond_it_is_refused_with_figures(fleet, signers, gateway):
    await released(fleet, signers, name="big", resources={"memory_mib": 40, "cpu_percent": 50})
    await released(fleet, signers, name="other", resources={"memory_mib": 30, "cpu_percent": 10})
    g1 = await gateway()
    await fleet.edge.deploy("big", "c", gateways=["g1"])
    await g1.work()

    with pytest.raises(Refused) as refused:
        await fleet.edge.deploy("other", "d", gateways=["g1"])

    assert refused.value.code == "no_capacity"
    assert "it has 64 MiB of memory, and 70 would be promised" in str(refused.value)
    assert (await fleet.edge.resources("g1")).promised == Capacity(cpu_percent=50, memory_mib=40, disk_mib=1)


async def test_a_campaign_from_a_release_is_held_to_the_capacity_too(fleet, signers, gateway):
    release = await released(fleet, signers, resources={"memory_mib": 100})
    await gateway()

    with pytest.raises(Refused, match="it has 64 MiB of memory, and 100 would be promised"):
        await fleet.campaigns.create("c", release.release, ["g1"], manifest=release.image.manifest)


async def test_functions_that_open_campaigns_are_to_offer_count(fleet, signers, gateway):
    for name in ("a", "b"):
        await released(fleet, signers, name=name, resources={"memory_mib": 40})
    await gateway(online=False)
    await fleet.edge.deploy("a", "a", gateways=["g1"])

    with pytest.raises(Refused, match="80 would be promised"):
        await fleet.edge.deploy("b", "b", gateways=["g1"])


async def test_a_device_of_a_query_that_lacks_the_capacity_is_rejected_at_its_offer(fleet, signers, gateway):
    release = await released(fleet, signers, resources={"memory_mib": 40})
    g1, g2 = await gateway(), await gateway("g2", capacity=Capacity(cpu_percent=100, memory_mib=8, disk_mib=9))
    manifest = release.image.manifest
    await fleet.campaigns.create("c", release.release, where="type = 'gateway'", manifest=manifest)

    for each in (g1, g2):
        await each.work()

    assert (await state(fleet, "g1"), await state(fleet, "g2")) == ("succeeded", "rejected")
    execution = await fleet.campaigns.execution("c", "g2")
    assert execution.code == "no_capacity"
    assert "it has 8 MiB of memory, and 40 would be promised" in execution.reason


async def test_without_a_declared_capacity_the_report_of_the_gateway_counts(fleet, signers, gateway):
    await released(fleet, signers, resources={"memory_mib": 40})
    g1 = await gateway(capacity=None)
    with pytest.raises(Refused, match="how much memory_mib it has is not known"):
        await fleet.edge.deploy("vibration", "c", gateways=["g1"])

    resources = {"cpu_cores": 2, "memory_mib": 512, "disk_mib": 900, "engine": "wasmtime 50.0.1"}
    await g1.client.send(messages.TWIN_REPORT, {"resources": resources})

    await fleet.edge.deploy("vibration", "c", gateways=["g1"])
    found = await fleet.edge.resources("g1")
    assert found.capacity == Capacity(cpu_percent=200, memory_mib=512, disk_mib=900)
    assert found.reported["engine"] == "wasmtime 50.0.1"


async def test_a_capacity_below_the_promises_is_refused(fleet, signers, gateway):
    await released(fleet, signers, resources={"memory_mib": 40})
    g1 = await gateway()
    await fleet.edge.deploy("vibration", "c", gateways=["g1"])
    await g1.work()

    with pytest.raises(Refused, match="40 would be promised"):
        await fleet.edge.set_capacity("g1", Capacity(cpu_percent=100, memory_mib=39, disk_mib=10))
    with pytest.raises(Refused, match="40 would be promised"):
        await fleet.edge.register_gateway("g1", capacity=Capacity(cpu_percent=100, memory_mib=39, disk_mib=10))

    assert (await fleet.edge.set_capacity("g1", Capacity(memory_mib=40, cpu_percent=50, disk_mib=1))).capacity == (
        Capacity(memory_mib=40, cpu_percent=50, disk_mib=1)
    )


async def test_a_gateway_of_an_earlier_release_stays_readable(fleet):
    section = {"capabilities": {"cpu": 2}, "may_register": True}
    await fleet.devices.register("old", "gateway", attributes={"gateway": section})

    (found,) = await fleet.edge.gateways()

    assert (found.capabilities, found.may_register, found.labels, found.capacity) == ({"cpu": 2}, True, {}, Capacity())


async def test_placement_takes_the_gateways_with_the_most_room_and_says_why_others_do_not_fit(fleet, signers, gateway):
    await released(fleet, signers, resources={"memory_mib": 10})
    await gateway("small", capacity=Capacity(cpu_percent=100, memory_mib=8, disk_mib=9))
    for name, memory in (("mid", 40), ("large", 400)):
        await gateway(name, capacity=Capacity(cpu_percent=400, memory_mib=memory, disk_mib=100))
    await fleet.devices.register("plain", "gateway", attributes={"gateway": {"capacity": {"memory_mib": 99}}})
    new = await gateway("new")
    await new.client.send(messages.TWIN_REPORT, {"resources": {"abi": 1}})

    placement = await fleet.edge.place("vibration", copies=2)
    with pytest.raises(Refused) as refused:
        await fleet.edge.place("vibration", copies=9)

    assert [each.gateway for each in placement.chosen] == ["large", "new"]
    reasons = {each.gateway: each.reasons for each in placement.others}
    assert reasons["mid"] == []
    assert reasons["small"] == ["it has 8 MiB of memory, and 10 would be promised"]
    assert reasons["plain"][0] == "it has no model"
    assert "fits 3 of 5 gateways, and 9 are wanted" in str(refused.value)


async def test_placement_respects_labels_and_the_abi(fleet, signers, gateway):
    from fleetcore.model.edge import Function

    await released(fleet, signers, function=Function(abi=2, metrics=("*",)))
    a, b = await gateway("a", labels={"hall": "north"}), await gateway("b", labels={"hall": "south"})
    await b.client.send(messages.TWIN_REPORT, {"resources": {"abi": 2}})

    with pytest.raises(Refused, match="a: its engine runs ABI 1, and the function needs 2"):
        await fleet.edge.place("vibration", where="attributes.gateway.labels.hall = 'north'")
    placement = await fleet.edge.place("vibration", where="attributes.gateway.labels.hall = 'south'")

    assert [each.gateway for each in placement.chosen] == ["b"]
    assert a.name == "a"


async def test_nothing_fits_where_there_is_no_gateway(fleet, signers):
    await released(fleet, signers)

    with pytest.raises(Refused, match="fits 0 of 0 gateways"):
        await fleet.edge.deploy("vibration", "c")


# --- in sync ---------------------------------------------------------------------------------------------------------


async def test_a_gateway_that_runs_something_else_is_seen(fleet, signers, gateway, clock):
    await released(fleet, signers)
    g1 = await gateway()
    await fleet.edge.deploy("vibration", "c", gateways=["g1"])
    await g1.work()
    healthy = await fleet.health.device("g1")
    await clock.advance(60)
    g1.running, g1.digests = {"rogue": "9"}, {"rogue": "ab"}
    await g1.report()
    await clock.advance(600)

    found = await fleet.edge.functions("g1")
    why = await fleet.diagnosis.why("g1")
    health = await fleet.health.device("g1")

    assert not found.in_sync
    assert found.why == [
        "function rogue: it runs 9, and is not to run it",
        "function vibration: it is to run 1.0.0, and reports nothing about it",
    ]
    assert found.since == START_MS
    assert "function rogue: it runs 9, and is not to run it, for 10 min" in why.findings
    assert (healthy.parts["convergence"], health.parts["convergence"]) == (1.0, 0.0)


async def test_a_gateway_whose_function_fails_says_so(fleet, signers, gateway):
    await released(fleet, signers)
    g1 = await gateway()
    await fleet.edge.deploy("vibration", "c", gateways=["g1"])
    await g1.work()
    failed = {"state": "failed", "code": "trapped", "reason": "unreachable"}
    await g1.client.send(messages.TWIN_REPORT, {"functions": {"vibration": failed}})

    (found,) = (await fleet.edge.functions("g1")).functions

    assert found.why == "it is to run 1.0.0, and 1.0.0 has failed (trapped: unreachable)"


# --- replacement -----------------------------------------------------------------------------------------------------


async def prepared(fleet, signers, gateway):
    """``old`` below ``top``, with two leaves, a function and a campaign under way; and ``new``, a blank one."""
    await released(fleet, signers)
    await released(fleet, signers, name="slow")
    await gateway("top")
    old = await gateway("old", labels={"hall": "north"})
    await fleet.edge.attach("top", "old")
    for leaf in ("l1", "l2"):
        await fleet.devices.register(leaf, "sensor", gateway="old")
    await fleet.edge.deploy("vibration", "c", gateways=["old"], config={"limit": 3})
    await old.work()
    await fleet.edge.deploy("slow", "s", gateways=["old"])
    await old.poll()
    return old, await gateway("new", capacity=None)


async def test_a_replacement_takes_over_leaves_functions_labels_capacity_and_place(fleet, signers, gateway):
    old, new = await prepared(fleet, signers, gateway)

    done = await fleet.edge.replace("old", "new")
    await new.work()

    assert (done.leaves, done.functions) == (2, ["vibration"])
    found = fleet.edge.gateway(await fleet.devices.get("new"))
    assert (found.labels, found.capacity, found.device.gateway) == ({"hall": "north"}, ROOM, "top")
    assert [leaf.id for leaf in await fleet.edge.leaves("new")] == ["l1", "l2"]
    assert (await fleet.edge.functions("new")).in_sync
    assert (await new.poll())["vibration"]["config"] == {"limit": 3}
    assert (await fleet.devices.get("old")).lifecycle is Lifecycle.SUSPENDED
    assert (await fleet.twins.get("old")).desired.document.get("functions") is None
    assert (await fleet.campaigns.execution("s", "old")).code == "replaced"
    assert await says(new, "l1") is None
    assert old.name == "old"


async def test_a_replacement_may_be_repeated_and_is_made_once(fleet, signers, gateway):
    await prepared(fleet, signers, gateway)
    await fleet.edge.replace("old", "new")

    again = await fleet.edge.replace("old", "new", retire=True)
    with pytest.raises(Conflict, match="'new' has replaced 'old'"):
        await fleet.edge.replace("old", "top")

    assert (again.leaves, again.functions) == (2, ["vibration"])
    assert (await fleet.devices.get("old")).lifecycle is Lifecycle.RETIRED


@pytest.mark.parametrize("place", ["leaf of old", "above old", "below a leaf of old"])
async def test_a_replacement_from_among_the_relatives_makes_no_cycle(fleet, signers, gateway, place):
    await gateway("old")
    await gateway("new", capacity=None)
    await gateway("other")
    if place == "leaf of old":
        await fleet.edge.attach("old", "new")
    elif place == "above old":
        await fleet.edge.attach("new", "old")
    else:
        await fleet.edge.attach("old", "other")
        await fleet.edge.attach("other", "new")
    await fleet.devices.register("l1", "sensor", gateway="old")

    await fleet.edge.replace("old", "new")

    assert [each.id for each in await fleet.devices.path(await fleet.devices.get("l1"))] == ["new"]
    assert (await fleet.devices.get("new")).gateway is None


async def test_a_replacement_that_cannot_run_the_functions_is_refused(fleet, signers, gateway):
    await prepared(fleet, signers, gateway)
    await fleet.devices.change("new", model="other")
    with pytest.raises(Refused, match="vibration is for G-1, and 'new' is a other") as model:
        await fleet.edge.replace("old", "new")
    await fleet.devices.change("new", model=MODEL)
    await fleet.twins.report("new", {"resources": {"memory_mib": 4}})

    with pytest.raises(Refused, match="it has 4 MiB of memory, and 16 would be promised"):
        await fleet.edge.replace("old", "new")

    assert model.value.code == "model_mismatch"
    assert len(await fleet.edge.leaves("old")) == 2


async def test_a_crash_before_the_commit_of_a_replacement_leaves_all_as_it_was(fleet, signers, gateway, monkeypatch):
    await prepared(fleet, signers, gateway)
    commit = fleet.storage.commit
    crashed = []

    async def crashing(change):
        if any(event.type == "edge.replaced" for event in change.events):
            crashed.append(change)
            raise VersionConflict("another writer came first") if len(crashed) == 1 else RuntimeError("crash")
        return await commit(change)

    monkeypatch.setattr(fleet.storage, "commit", crashing)
    with pytest.raises(RuntimeError, match="crash"):
        await fleet.edge.replace("old", "new")
    assert (len(await fleet.edge.leaves("old")), await wanted(fleet, "new")) == (2, None)
    monkeypatch.undo()

    done = await fleet.edge.replace("old", "new")

    assert (done.leaves, await wanted(fleet, "new")) == (2, "1.0.0")
