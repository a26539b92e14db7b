"""What a gateway promises never exceeds its capacity, whatever the order of deployments and of their ends."""

import asyncio

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleetcore import IoTFleetManager
from fleetcore.errors import FleetError
from fleetcore.model.edge import Capacity, entries, lacking
from fleetcore.model.firmware import EXECUTION_ENDS
from fleetcore.testing.clock import MovableClock
from fleetcore.testing.signers import START_MS, Signers
from fleetcore.wire import messages
from tests.edge.kit import MODEL, released

SIGNERS = Signers()
NAMES, SEQS, GATEWAYS = ("a", "b", "c"), (1, 2), ("g1", "g2")
#: Function and seq → the memory that it needs; a version may need more or less than the one before.
MEMORY = {("a", 1): 10, ("a", 2): 30, ("b", 1): 30, ("b", 2): 10, ("c", 1): 25, ("c", 2): 25}

functions, seqs, gateways = st.sampled_from(NAMES), st.sampled_from(SEQS), st.sampled_from(GATEWAYS)
numbers = st.integers(0, 5)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("deploy"), functions, seqs, gateways),
        st.tuples(st.just("by query"), functions, seqs),
        st.tuples(st.just("undeploy"), functions, gateways),
        st.tuples(st.just("fetch"), gateways),
        st.tuples(st.just("say"), gateways, st.sampled_from(["accepted", "succeeded", "failed"])),
        st.tuples(st.just("run"), gateways),
        st.tuples(st.just("abort"), numbers),
        st.tuples(st.just("roll back"), numbers),
        st.tuples(st.just("capacity"), gateways, st.integers(20, 70)),
        st.tuples(st.just("replace"), gateways, gateways),
    ),
    max_size=14,
)  # fmt: skip


async def does(fleet, step, made):
    match step:
        case "deploy", name, seq, gateway:
            made.append(f"c{len(made)}")
            await fleet.edge.deploy(f"{name}:{seq}", made[-1], gateways=[gateway])
        case "by query", name, seq:
            made.append(f"c{len(made)}")
            release = await fleet.releases.get(f"{name}:{seq}")
            await fleet.campaigns.create(
                made[-1], release.release, where="type = 'gateway'", manifest=release.image.manifest,
                allow_downgrade=True,
            )  # fmt: skip
        case "undeploy", name, gateway:
            await fleet.edge.undeploy(name, gateway)
        case "fetch", gateway:
            await fleet.updates.offer(gateway)
        case "say", gateway, state:
            for entry in entries((await fleet.twins.get(gateway)).desired.document).values():
                if "execution" in entry:
                    body = messages.FirmwareStatus(
                        execution=entry["execution"], state=state, version=entry["version"], code="x"
                    )
                    await fleet.updates.status(gateway, body)
        case "run", gateway:
            await does(fleet, ("fetch", gateway), made)
            await does(fleet, ("say", gateway, "succeeded"), made)
        case "abort", number:
            await fleet.campaigns.abort(f"c{number}", force=True)
        case "roll back", number:
            await fleet.campaigns.roll_back(f"c{number}")
        case "capacity", gateway, memory:
            await fleet.edge.set_capacity(gateway, Capacity(cpu_percent=100, memory_mib=memory, disk_mib=10))
        case "replace", old, new:
            await fleet.edge.replace(old, new)


async def told(steps):
    refused = 0
    async with IoTFleetManager(clock=MovableClock(START_MS)) as manager:
        fleet = await manager.open()
        await manager.set_firmware_root(SIGNERS.trust())
        for (name, seq), memory in MEMORY.items():
            await released(fleet, SIGNERS, name=name, seq=seq, resources={"memory_mib": memory, "cpu_percent": 5})
        for gateway in GATEWAYS:
            capacity = Capacity(cpu_percent=100, memory_mib=45, disk_mib=10)
            await fleet.edge.register_gateway(gateway, capacity=capacity, model=MODEL)
        made = []
        for step in steps:
            try:
                await does(fleet, step, made)
            except FleetError:
                refused += 1
            for gateway in GATEWAYS:
                found = await fleet.edge.resources(gateway)
                problems = lacking(found.capacity, found.promised)
                assert problems == [], (step, gateway, problems)
        for campaign in made:
            try:
                await fleet.campaigns.abort(campaign, force=True)
            except FleetError:
                continue
        executions = {each.id: each async for each in fleet.campaigns.executions.iterate()}
        assert not [offer for offer in await fleet.functions.records.find() if offer.open]
        for gateway in GATEWAYS:
            for entry in entries((await fleet.twins.get(gateway)).desired.document).values():
                execution = executions.get(str(entry.get("execution")))
                assert execution is None or execution.state not in EXECUTION_ENDS or execution.state == "succeeded"
    return refused


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(STEPS)
def test_promises_never_exceed_the_capacity(steps):
    asyncio.run(told(steps))


def test_the_steps_reach_what_they_are_for():
    steps = [
        ("deploy", "a", 1, "g1"), ("fetch", "g1"), ("say", "g1", "succeeded"), ("deploy", "b", 1, "g1"), ("fetch", "g1"),
        ("deploy", "c", 1, "g1"), ("capacity", "g1", 39), ("say", "g1", "failed"), ("capacity", "g1", 39),
        ("replace", "g1", "g2"),
    ]  # fmt: skip

    assert asyncio.run(told(steps)) == 2
