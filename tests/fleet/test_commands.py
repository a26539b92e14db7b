"""Commands in depth: superseding, preconditions, many at once with a plan, a rate, counts and a stop."""

import asyncio
import math

import pytest

from fleetcore import IoTFleetManager
from fleetcore.errors import Conflict, NotFound, Refused
from fleetcore.model.command import CommandState
from fleetcore.model.credential import LocalCredential
from fleetcore.model.device import Lifecycle
from fleetcore.model.operation import OperationState
from fleetcore.query.parse import QuerySyntaxError
from fleetcore.testing.patience import PATIENCE_S
from fleetcore.wire import messages


@pytest.fixture
async def devices(fleet):
    names = [f"d-{number}" for number in range(5)]
    for name in names:
        await fleet.devices.register(name, "sensor", tags=["odd"] if int(name[-1]) % 2 else [])
    return names


async def test_a_newer_command_takes_the_place_of_a_queued_one_in_one_commit(fleet, devices):
    old = await fleet.commands.send("d-0", "set-interval", {"s": 60}, supersede="interval")
    sent = await fleet.commands.send("d-0", "set-interval", {"s": 30}, supersede="interval", lane="b")
    other = await fleet.commands.send("d-0", "reboot", lane="c")

    await fleet.commands.hand_out("d-0")
    new = await fleet.commands.send("d-0", "set-interval", {"s": 10}, supersede="interval")
    newest = await fleet.commands.send("d-0", "set-interval", {"s": 5}, supersede="interval")

    assert (sent.supersedes, new.supersedes, newest.supersedes) == ((old.id,), (), (new.id,))
    last = [entry for entry in await fleet.storage.feed(0) if entry.events][-1]
    assert [(one.type, one.subject) for one in last.events] == [
        ("command.queued", newest.id),
        ("command.cancelled", new.id),
    ]
    states = {one.id: (one.state, one.code) for one in await fleet.commands.list("d-0")}
    assert states[old.id] == states[new.id] == (CommandState.CANCELLED, "superseded")
    # What a device may have already is not taken away.
    assert states[sent.id][0] is states[other.id][0] is CommandState.SENT


async def _connected(fleet, device):
    """What is handed to a device that listens from now on."""
    got = []
    session = await fleet.plane.authenticate(LocalCredential(device), protocol="test")
    fleet.plane.listen(session, got.append)
    await fleet.plane.wait_idle()
    return session, got


async def test_a_command_to_a_connected_device_is_queued_and_sent_in_one_commit(fleet, devices):
    _session, got = await _connected(fleet, "d-0")
    before = await fleet.storage.position()

    sent = await fleet.commands.send("d-0", "blink")

    assert (sent.state, sent.attempt, (await fleet.commands.get(sent.id)).state) == ("sent", 1, "sent")
    assert [one.body["id"] for one in got] == [sent.id]
    first = (await fleet.storage.feed(before))[0]
    assert [(one.type, one.subject) for one in first.events] == [("command.queued", sent.id), ("command.sent", sent.id)]


async def test_of_a_lane_a_connected_device_is_given_one_command_after_the_other(fleet, devices):
    _session, got = await _connected(fleet, "d-0")

    sent = await asyncio.gather(*(fleet.commands.send("d-0", "step", {"n": n}) for n in range(4)))
    order = sorted(sent, key=lambda command: command.sequence)
    await fleet.plane.wait_idle()
    assert [one.body["id"] for one in got] == [order[0].id]
    for number, command in enumerate(order, 1):
        await fleet.commands.result("d-0", command.id, messages.CommandResult(status="succeeded"))
        await fleet.plane.wait_idle()
        assert [one.body["id"] for one in got] == [each.id for each in order[: number + 1]]


async def test_a_command_with_a_precondition_or_to_a_device_that_may_not_have_it_is_not_sent_at_once(fleet, devices):
    _session, got = await _connected(fleet, "d-0")
    held = await fleet.commands.send("d-0", "update", precondition="reported.battery > 20", lane="a")
    await fleet.plane.wait_idle()
    await fleet.lifecycles.move("d-0", Lifecycle.QUARANTINED)
    quarantined = await fleet.commands.send("d-0", "blink", lane="b")
    await fleet.plane.wait_idle()

    assert got == []
    assert (await fleet.commands.get(held.id)).state is CommandState.CANCELLED
    assert (await fleet.commands.get(quarantined.id)).state is CommandState.QUEUED


async def test_a_device_that_was_cut_off_meanwhile_is_given_the_command_again(fleet, devices, clock):
    session, got = await _connected(fleet, "d-0")
    sending = asyncio.ensure_future(fleet.commands.send("d-0", "blink"))
    await asyncio.sleep(0)
    session.end("replaced")
    sent = await sending
    await fleet.plane.wait_idle()

    await clock.advance(5)
    _session, again = await _connected(fleet, "d-0")

    assert [one.body["id"] for one in got] in ([], [sent.id])
    assert [one.body["id"] for one in again] == [sent.id]


async def test_of_many_that_supersede_at_once_one_is_left(fleet, devices):
    await asyncio.gather(*(fleet.commands.send("d-0", "x", {"n": n}, supersede="k") for n in range(20)))

    queued = [one for one in await fleet.commands.list("d-0") if one.state is CommandState.QUEUED]
    assert len(queued) == 1


async def test_a_precondition_is_looked_at_when_the_command_is_handed_out(fleet, devices):
    goes = await fleet.commands.send("d-0", "update", precondition="reported.battery > 20")
    stays = await fleet.commands.send("d-1", "update", precondition="reported.battery > 20")
    await fleet.twins.report("d-0", {"battery": 80})
    await fleet.twins.report("d-1", {"battery": 12})

    assert [one.id for one in await fleet.commands.hand_out("d-0")] == [goes.id]
    assert list(await fleet.commands.hand_out("d-1")) == []
    ended = await fleet.commands.get(stays.id)
    assert (ended.state, ended.code) == (CommandState.CANCELLED, "precondition_failed")
    await fleet.wait_idle()
    assert [one.reason for one in await fleet.audit.list(object=stays.id)][-1] == "reported.battery > 20 (12)"
    with pytest.raises(QuerySyntaxError):
        await fleet.commands.send("d-0", "update", precondition="battery >")


async def test_a_command_that_wants_no_answer_is_handed_out_once_and_frees_its_lane(fleet, devices):
    woken = []
    fleet.commands.on_queued(woken.append)
    first = await fleet.commands.send("d-0", "beep", respond="none")
    second = await fleet.commands.send("d-0", "beep", respond="none")
    woken.clear()

    assert [one.id for one in await fleet.commands.hand_out("d-0")] == [first.id]
    assert woken == ["d-0"]
    assert [one.id for one in await fleet.commands.hand_out("d-0")] == [second.id]
    assert list(await fleet.commands.hand_out("d-0", again=True)) == []
    states = [(one.state, one.code) for one in await fleet.commands.list("d-0")]
    assert states == [(CommandState.SUCCEEDED, "no_answer_asked")] * 2


async def test_a_bulk_command_reaches_exactly_whom_its_plan_said(fleet, devices):
    bulk = fleet.bulk_commands
    plan = await bulk.plan("blink", {"n": 3}, where="tags has 'odd'")
    assert (plan.count, plan.sample) == (2, ("d-1", "d-3"))

    operation = await bulk.send("blink", {"n": 3}, where="tags has 'odd'", plan=plan.plan, reason="try")
    await fleet.operations.tick()

    done = await fleet.operations.get(operation.id)
    assert (done.state, done.done, done.total, done.failed) == (OperationState.SUCCEEDED, 2, 2, 0)
    assert await bulk.counts(operation.id) == {"queued": 2}
    assert [one.name for one in await fleet.commands.list("d-3")] == ["blink"]
    await fleet.devices.change("d-0", tags=["odd"])
    with pytest.raises(Conflict, match="3 are selected now") as error:
        await bulk.send("blink", {"n": 3}, where="tags has 'odd'", plan=plan.plan)
    assert error.value.code == "plan_changed"


async def test_what_a_bulk_command_cannot_be_is_said_before_anything_is_sent(fleet, devices):
    bulk = fleet.bulk_commands
    with pytest.raises(Refused, match="cap of 2"):
        await bulk.send("x", where="type = 'sensor'", cap=2)
    with pytest.raises(Refused, match="not both"):
        await bulk.send("x")
    with pytest.raises(Refused, match="no option colour"):
        await bulk.send("x", devices=["d-0"], colour="red")
    with pytest.raises(Refused, match="1-128"):
        await bulk.send("", devices=["d-0"])
    with pytest.raises(NotFound):
        await bulk.send("x", devices=["d-0", "ghost"])
    with pytest.raises(Refused, match="rate"):
        await bulk.send("x", devices=["d-0"], rate_per_s=0)
    assert await fleet.commands.list() == []


async def test_a_rate_holds_in_every_second_and_a_stop_ends_what_is_queued(fleet, devices, clock):
    operation = await fleet.bulk_commands.send("x", devices=devices, rate_per_s=2)
    sent = []
    for _ in range(3):
        await fleet.operations.tick()
        sent.append((await fleet.operations.get(operation.id)).done)
        clock._monotonic_s += 0.5

    assert sent == [1, 2, 3]
    ended = await fleet.operations.cancel(operation.id, reason="enough")
    clock._monotonic_s += 5
    await fleet.operations.tick()
    assert (ended.state, ended.done) == (OperationState.CANCELLED, 3)
    assert await fleet.bulk_commands.counts(operation.id) == {"cancelled": 3}
    assert len(await fleet.commands.list()) == 3


async def test_an_operation_that_ended_cannot_be_stopped(fleet, devices):
    operation = await fleet.bulk_commands.send("x", devices=devices)
    await fleet.operations.run(operation.id)

    with pytest.raises(Conflict) as error:
        await fleet.operations.cancel(operation.id)
    assert error.value.code == "illegal_transition"


async def test_a_step_that_is_repeated_after_a_crash_sends_nothing_twice(tmp_path):
    async with IoTFleetManager(tmp_path) as manager:
        fleet = await manager.open()
        names = [f"d-{number}" for number in range(10)]
        for name in names:
            await fleet.devices.register(name, "sensor")
        operation = await fleet.bulk_commands.send("x", devices=names)
        # Sent, and the crash comes before it is kept how far it was.
        await fleet.bulk_commands._send(operation, names[:6])

    async with IoTFleetManager(tmp_path) as manager:
        fleet = await manager.open()
        done = await fleet.operations.run(operation.id)
        assert (done.state, done.done) == (OperationState.SUCCEEDED, 10)
        assert [len(await fleet.commands.list(name)) for name in names] == [1] * 10


def nested(depth):
    return {"a": nested(depth - 1)} if depth else 1


@pytest.mark.parametrize(
    "args", [{"x": "y" * 65_536}, nested(11), {"x": [math.inf]}, {"x": 2**53}, {"x": object()}, {"x": "\ud800"}]
)
async def test_arguments_that_a_device_could_not_read_are_refused_before_anything_is_kept(fleet, devices, args):
    with pytest.raises(Refused):
        await fleet.commands.send("d-0", "x", args)
    with pytest.raises(Refused):
        await fleet.bulk_commands.plan("x", args, devices=devices)

    assert await fleet.commands.list() == []


async def test_a_key_that_came_with_another_command_is_refused(fleet, devices):
    first = await fleet.commands.send("d-0", "x", {"n": (1, 2)}, idempotency_key="k")

    again = await fleet.commands.send("d-0", "x", {"n": [1, 2]}, idempotency_key="k")
    with pytest.raises(Refused, match="another command") as name:
        await fleet.commands.send("d-0", "y", {"n": [1, 2]}, idempotency_key="k")
    with pytest.raises(Refused, match="another command"):
        await fleet.commands.send("d-0", "x", {"n": [2]}, idempotency_key="k")

    assert again.id == first.id
    assert name.value.code == "idempotency_mismatch"


async def test_a_key_that_comes_again_does_not_supersede_its_own_command(fleet):
    first = await fleet.commands.send("d-0", "x", supersede="s", idempotency_key="k")

    async with asyncio.timeout(PATIENCE_S):
        again = await fleet.commands.send("d-0", "x", supersede="s", idempotency_key="k")

    assert (again.id, again.state) == (first.id, "queued")


async def test_a_retired_device_gets_no_commands(fleet, devices):
    await fleet.lifecycles.move("d-0", Lifecycle.RETIRED)

    with pytest.raises(Conflict) as caught:
        await fleet.commands.send("d-0", "x")

    assert caught.value.code == "illegal_transition"


async def test_what_was_not_delivered_in_time_is_not_sent_again_and_ends_with_its_result_time(fleet, devices, clock):
    command = await fleet.commands.send("d-0", "x", deliver_within_s=60, result_within_s=600)
    assert [one.id for one in await fleet.commands.hand_out("d-0")] == [command.id]

    clock.jump(61_000)

    assert list(await fleet.commands.hand_out("d-0", again=True)) == []
    assert list(await fleet.commands.snapshot("d-0")) == []
    clock.jump(600_000)
    await fleet.commands.tick()
    assert (await fleet.commands.get(command.id)).state is CommandState.TIMED_OUT


async def test_who_asked_a_device_to_stop_is_in_the_log_once(fleet, devices):
    command = await fleet.commands.send("d-0", "x")
    await fleet.commands.hand_out("d-0")

    await fleet.commands.cancel(command.id, actor="ann", reason="wrong door")
    await fleet.commands.cancel(command.id, actor="bob")

    await fleet.wait_idle()
    rows = [(one.actor, one.reason) for one in await fleet.audit.list(object=command.id) if "cancel" in one.action]
    assert rows == [("ann", "wrong door")]


async def test_what_has_ended_otherwise_cannot_be_cancelled(fleet, devices):
    done = await fleet.commands.send("d-0", "x")
    await fleet.commands.hand_out("d-0")
    await fleet.commands.result("d-0", done.id, messages.CommandResult(status="succeeded"))
    gone = await fleet.commands.send("d-1", "x")
    await fleet.commands.cancel(gone.id)

    with pytest.raises(Conflict) as caught:
        await fleet.commands.cancel(done.id)

    assert caught.value.code == "illegal_transition"
    assert (await fleet.commands.cancel(gone.id)).state is CommandState.CANCELLED


async def test_a_snapshot_says_that_there_are_more_than_it_shows(fleet, devices):
    session = await fleet.plane.authenticate(LocalCredential("d-0"), protocol="test", lasting=False)
    for number in range(12):
        await fleet.commands.send("d-0", "blink", lane=f"lane-{number}")

    shown = await fleet.plane.wait(session, "d-0", messages.COMMAND)
    pending = await fleet.plane.pending(session, "d-0")
    for command in shown["commands"][:2]:
        await fleet.commands.result("d-0", command["id"], messages.CommandResult(status="succeeded"))
    rest = await fleet.plane.wait(session, "d-0", messages.COMMAND)

    assert (len(shown["commands"]), shown["more"], pending["commands"]) == (10, True, 12)
    assert (len(rest["commands"]), rest["more"]) == (10, False)


async def test_a_command_that_waits_in_its_lane_counts_as_more(fleet, devices):
    session = await fleet.plane.authenticate(LocalCredential("d-0"), protocol="test", lasting=False)
    for _ in range(2):
        await fleet.commands.send("d-0", "blink")

    shown = await fleet.plane.wait(session, "d-0", messages.COMMAND)

    assert (len(shown["commands"]), shown["more"]) == (1, True)


async def test_a_command_that_was_sent_a_moment_ago_is_not_sent_again_to_a_device_that_comes_back(fleet, clock):
    await fleet.devices.register("d-0", "sensor")
    command = await fleet.commands.send("d-0", "beep")
    first = await fleet.commands.hand_out("d-0")
    at_once = await fleet.commands.hand_out("d-0", again=True)
    await clock.advance(1.0)
    later = await fleet.commands.hand_out("d-0", again=True)

    assert [[each.id for each in given] for given in (first, at_once, later)] == [[command.id], [], [command.id]]
