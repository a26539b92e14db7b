"""Reports of several devices are one commit; what holds for one alone holds for each of them."""

from collections import Counter

import pytest

from fleetcore.errors import StorageError
from fleetcore.model.firmware import EXECUTION_ENDS, ExecutionState
from fleetcore.model.message import Accepted
from fleetcore.model.store import Commit
from fleetcore.runtime.recount import differences
from fleetcore.wire import messages

DEVICES = ("a", "b", "c")


@pytest.fixture
async def offered(fleet):
    for device in DEVICES:
        await fleet.devices.register(device, "sensor")
    await fleet.campaigns.create("c", "2.0.0", DEVICES, "https://example.com/fw", sha256="ab" * 32, size=10)
    for device in DEVICES:
        await fleet.updates.offer(device)
    return fleet


def reports(state, *devices):
    body = messages.FirmwareStatus(state=state, version="2.0.0")
    return [(device, messages.FirmwareStatus(state=state, execution=f"c:{device}", version=body.version))
            for device in devices]  # fmt: skip


async def states(fleet):
    executions = await fleet.campaigns.executions.get_many(f"c:{device}" for device in DEVICES)
    return [executions[f"c:{device}"].state.value for device in DEVICES]


def counting(fleet, monkeypatch):
    commits, commit = [], fleet.storage.commit

    async def counted(change):
        commits.append(change)
        return await commit(change)

    monkeypatch.setattr(fleet.storage, "commit", counted)
    return commits


async def test_reports_that_come_together_are_one_commit_with_an_event_of_each(offered, monkeypatch):
    commits = counting(offered, monkeypatch)

    outcomes = await offered.updates.statuses(reports("accepted", *DEVICES))

    (change,) = [change for change in commits if change.events]
    assert outcomes == [Accepted()] * 3
    assert [(event.type, event.actor, event.data["device"]) for event in change.events] == [
        ("execution.accepted", device, device) for device in DEVICES
    ]
    assert await states(offered) == ["accepted"] * 3
    assert await differences(offered.storage, (offered.campaigns.executions,)) == {}


async def test_each_of_them_is_judged_alone(offered):
    await offered.updates.statuses(reports("installing", "a"))

    outcomes = await offered.updates.statuses([
        *reports("accepted", "a", "b"), ("b", reports("accepted", "c")[0][1]), *reports("failed", "c"),
    ])  # fmt: skip

    assert [getattr(outcome, "code", "") for outcome in outcomes] == ["illegal_transition", "", "execution_unknown", ""]
    assert await states(offered) == ["installing", "accepted", "failed"]


async def test_two_reports_about_one_execution_are_two_steps(offered):
    outcomes = await offered.updates.statuses([*reports("accepted", "a"), *reports("succeeded", "a", "b", "c")])

    events = [event.type async for event in _events(offered)]
    assert outcomes == [Accepted()] * 4
    assert Counter(events)["execution.accepted"] == 1
    assert Counter(events)["execution.succeeded"] == 3
    assert (await offered.campaigns.get("c")).state.value == "succeeded"


async def _events(fleet):
    for entry in await fleet.storage.feed(0, 1000):
        for event in entry.events:
            yield event


async def test_another_writer_between_costs_a_repetition_and_nothing_else(offered):
    await offered.updates.statuses(reports("accepted", *DEVICES))
    stored = await offered.campaigns.executions.get("c:b")
    await offered.storage.commit(offered.campaigns.executions.changing(stored, stored))

    outcomes = await offered.updates.statuses(reports("succeeded", *DEVICES))

    assert outcomes == [Accepted()] * 3
    assert (await offered.campaigns.executions.get("c:b")).version == stored.version + 2
    assert (await offered.campaigns.counts("c")).states == {ExecutionState.SUCCEEDED: 3}


async def test_one_that_was_erased_meanwhile_is_unknown_and_the_others_are_stored(offered):
    await offered.updates.statuses(reports("accepted", *DEVICES))
    stored = await offered.campaigns.executions.get("c:b")
    await offered.storage.commit(offered.campaigns.executions.removing(stored))

    outcomes = await offered.updates.statuses(reports("downloading", *DEVICES))

    assert [getattr(outcome, "code", "") for outcome in outcomes] == ["", "execution_unknown", ""]
    assert (await offered.updates.status("b", reports("downloading", "b")[0][1])).code == "execution_unknown"


async def test_an_erased_device_is_not_in_memory_any_more(offered):
    await offered.updates.statuses(reports("accepted", *DEVICES))

    await offered.erasing.erase("b")

    assert await offered.updates.records.get_recent(["c:b"]) == {}


async def test_nothing_is_acknowledged_that_was_not_stored(offered, monkeypatch):
    before = await states(offered)

    async def fails(_change: Commit):
        raise StorageError("the disk has gone")

    monkeypatch.setattr(offered.storage, "commit", fails)
    with pytest.raises(StorageError):
        await offered.updates.statuses(reports("succeeded", *DEVICES))
    monkeypatch.undo()

    assert await states(offered) == before
    assert not set(before) & {state.value for state in EXECUTION_ENDS}
    assert await offered.updates.statuses(reports("succeeded", *DEVICES)) == [Accepted()] * 3
