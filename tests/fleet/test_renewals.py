"""New certificates in waves: who is asked when, what counts as done, and when it stops."""

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetcore.errors import Conflict, NotFound, Refused
from fleetcore.model.operation import OperationState
from fleetcore.rollout.waves import wave_sizes
from fleetcore.wire import messages
from fleetcore.wire.identity import make_csr, make_key
from fleetcore.wire.tls import der_of


async def enrol(fleet, *names, kind="sensor"):
    for name in names:
        await fleet.devices.register(name, kind)
        await fleet.security.issue(make_csr(name, make_key()[1]))


async def asked(fleet, operation):
    """The devices whose twin asks by this operation."""
    return {
        twin.device
        async for twin in fleet.twins.iterate()
        if twin.desired.document.get("fleetcore", {}).get("renew") == operation.id
    }


async def renew(fleet, device, *, connect=True):
    """What a device does that obeys; returns its certificate, DER."""
    reply = await fleet.security.renew(device, make_csr(device, make_key()[1]))
    der = der_of(reply.body["certificate"].encode())
    if connect:
        await fleet.security.identify(der)
    return der


async def ticks(fleet, operation, count=3):
    for _ in range(count):
        await fleet.operations.tick()
        fleet.clock.jump(1)
    return await fleet.operations.get(operation.id)


async def test_a_wave_begins_when_the_one_before_has_connected_with_new_certificates(fleet):
    names = [f"d{number}" for number in range(10)]
    await enrol(fleet, *names)
    operation = await fleet.renewals.start(where="type = 'sensor'", waves=["2", "50%"])
    seen = []

    for _ in range(3):
        await ticks(fleet, operation)
        wave = await asked(fleet, operation) - {name for one in seen for name in one}
        seen.append(wave)
        for name in wave:
            # A certificate that nobody has connected with may be lost on the way.
            der = await renew(fleet, name, connect=False)
            assert (await ticks(fleet, operation, 1)).state is OperationState.RUNNING
            await fleet.security.identify(der)
    ended = await ticks(fleet, operation)

    assert [len(one) for one in seen] == [2, 5, 3]
    assert set.union(*seen) == set(names)
    assert (ended.state, ended.done, ended.failed, ended.total) == (OperationState.SUCCEEDED, 10, 0, 10)
    assert {x509.load_der_x509_certificate(der).subject.rfc4514_string()} == {f"CN={name}"}


async def test_the_plan_says_whom_it_asks_and_a_changed_selection_is_refused(fleet):
    await enrol(fleet, "a", "b")
    await fleet.devices.register("bare", "sensor")
    plan = await fleet.renewals.plan(where="type = 'sensor'")
    assert (plan.count, sorted(plan.sample), plan.waves, plan.skipped) == (2, ["a", "b"], (1, 1), 1)

    await enrol(fleet, "c")

    with pytest.raises(Conflict) as changed:
        await fleet.renewals.start(where="type = 'sensor'", plan=plan.plan)
    assert changed.value.code == "plan_changed"
    with pytest.raises(Refused, match="3 devices are more than the cap of 2"):
        await fleet.renewals.start(where="type = 'sensor'", cap=2)
    for whom in ({}, {"where": "exists id", "devices": ("a",)}):
        with pytest.raises(Refused):
            await fleet.renewals.plan(**whom)
    with pytest.raises(NotFound):
        await fleet.renewals.plan(devices=("nobody",))


async def test_outdated_are_those_without_a_certificate_of_the_ca_that_signs(fleet):
    await enrol(fleet, "old", "new", "both")
    await fleet.security.rotation.renew_issuing(actor="ann")
    await renew(fleet, "new")
    await renew(fleet, "both", connect=False)

    plan = await fleet.renewals.plan(outdated=True)

    assert plan.sample == ("old",)


async def test_the_rate_is_kept_from_the_beginning_of_a_wave(fleet, clock):
    await enrol(fleet, *(f"d{number}" for number in range(8)))
    operation = await fleet.renewals.start(where="type = 'sensor'", waves=["100%"], rate_per_s=2.0)
    counts = []

    for _ in range(4):
        await ticks(fleet, operation)
        counts.append(len(await asked(fleet, operation)))
        clock.jump(997)

    assert counts == [1, 3, 5, 7]


async def test_who_does_not_come_in_time_has_failed_and_too_many_stop_it(fleet, clock):
    names = [f"d{number:02d}" for number in range(20)]
    await enrol(fleet, *names)
    operation = await fleet.renewals.start(where="type = 'sensor'", waves=["10", "10"], timeout_s=60, max_failed=0.2)
    await ticks(fleet, operation)
    first = await asked(fleet, operation)
    good = sorted(first)[:7]
    for name in good:
        await renew(fleet, name)
    assert (await ticks(fleet, operation)).done == 7
    clock.jump(61_000)

    stopped = await ticks(fleet, operation)

    assert (stopped.state, stopped.done, stopped.failed) == (OperationState.STOPPED, 10, 3)
    assert {one.about for one in stopped.failures} == first - set(good)
    assert {one.code for one in stopped.failures} == {"timed_out"}
    # Nobody else is asked, and who has not come is asked no more.
    assert await asked(fleet, operation) == set(good)


async def test_some_failures_are_borne(fleet, clock):
    names = [f"d{number:02d}" for number in range(20)]
    await enrol(fleet, *names)
    operation = await fleet.renewals.start(where="type = 'sensor'", waves=["10", "10"], timeout_s=60, max_failed=0.2)
    for wave in range(2):
        await ticks(fleet, operation)
        waiting = sorted(await asked(fleet, operation))
        known = {record.device for record in await fleet.security.inventory() if record.how == "renewal"}
        for name in [name for name in waiting if name not in known][: 9 if wave == 0 else None]:
            await renew(fleet, name)
        await ticks(fleet, operation)
        clock.jump(61_000)
    ended = await ticks(fleet, operation, 5)

    assert (ended.state, ended.done, ended.failed) == (OperationState.PARTLY, 20, 1)


async def test_a_device_that_refuses_has_failed_at_once(fleet):
    await enrol(fleet, "a")
    operation = await fleet.renewals.reissue("a")
    await ticks(fleet, operation)
    version = (await fleet.twins.get("a")).desired.version

    await fleet.twins.acknowledge("a", messages.TwinAck(version=version, refused={"/fleetcore/renew": "no key store"}))

    ended = await ticks(fleet, operation)
    assert (ended.failures[0].code, ended.state) == ("rejected", OperationState.PARTLY)


async def test_a_device_that_is_gone_has_failed(fleet):
    await enrol(fleet, "a", "b")
    operation = await fleet.renewals.start(devices=("a", "b"), waves=["100%"], max_failed=1.0)
    await fleet.devices.move("a", "retired")

    await ticks(fleet, operation)
    await renew(fleet, "b")
    ended = await ticks(fleet, operation)

    assert [(one.about, one.code) for one in ended.failures] == [("a", "device_unknown")]


async def test_a_certificate_from_before_the_asking_does_not_count(fleet, clock):
    await enrol(fleet, "a")
    await renew(fleet, "a")
    clock.jump(1)
    operation = await fleet.renewals.reissue("a")

    assert (await ticks(fleet, operation)).state is OperationState.RUNNING


async def test_after_a_crash_the_wave_under_way_is_judged_anew(fleet, clock):
    names = [f"d{number}" for number in range(6)]
    await enrol(fleet, *names)
    operation = await fleet.renewals.start(where="type = 'sensor'", waves=["50%"], timeout_s=60, max_failed=1.0)
    await ticks(fleet, operation)
    first = sorted(await asked(fleet, operation))
    await renew(fleet, first[0])
    clock.jump(61_000)
    before = await ticks(fleet, operation)
    await renew(fleet, min(await asked(fleet, operation) - set(first)))

    fleet.renewals._waves.clear()  # what a crash forgets
    after = await ticks(fleet, operation)

    assert (before.done, before.failed) == (3, 2)
    assert (after.done, after.failed, len(after.failures)) == (4, 2, 2)


async def test_cancelling_asks_nobody_more_and_takes_the_asking_back(manager, fleet):
    await enrol(fleet, "a", "b", "c")
    operation = await fleet.renewals.start(where="type = 'sensor'", waves=["2"])
    await ticks(fleet, operation)
    (first, _) = sorted(await asked(fleet, operation))
    await renew(fleet, first)
    await fleet.twins.report(first, {"fleetcore": {"renew": operation.id}})

    ended = await manager.cancel_operation(operation.id)

    assert ended["state"] == "cancelled"
    assert await asked(fleet, operation) == {first}


async def test_a_device_without_a_certificate_cannot_be_asked_for_another(manager, fleet):
    await fleet.devices.register("bare", "sensor")

    with pytest.raises(Conflict, match="no valid certificate"):
        await manager.reissue_certificate("bare")


async def test_nobody_but_the_fleet_says_whom_a_device_trusts(manager, fleet):
    await enrol(fleet, "a")
    operation = await fleet.renewals.reissue("a")
    await ticks(fleet, operation)

    for write in (
        lambda: manager.set_desired("a", {"fleetcore": {"trust": {"ca": "evil"}}}),
        lambda: manager.set_desired("a", {"fleetcore": None}),
        lambda: manager.set_layer("all", {"fleetcore": {}}),
        lambda: manager.provision_device("a", {"fleetcore": {}}),
    ):
        with pytest.raises(Refused, match="the fleet's own"):
            await write()
    await fleet.twins.desire("a", {"led": True}, replace=True)
    assert (await fleet.twins.get("a")).desired.document == {"led": True, "fleetcore": {"renew": operation.id}}


@settings(deadline=None)
@given(
    count=st.integers(0, 500),
    waves=st.lists(
        st.one_of(st.integers(1, 600).map(str), st.floats(0.1, 100).map(lambda share: f"{share:.2f}%")), max_size=6
    ),
)
def test_waves_hold_everybody_once_and_none_is_empty(count, waves):
    sizes = wave_sizes(waves, count)

    assert sum(sizes) == count
    assert all(size > 0 for size in sizes)


@pytest.mark.parametrize("wave", ["0", "-1", "0%", "101%", "x", "", "%", "1.5", "nan%"])
def test_what_is_no_wave_is_refused(wave):
    with pytest.raises(Refused, match="not a wave"):
        wave_sizes([wave], 10)
