"""Importing: the dry run says what the run does, a second run changes nothing, a crash repeats and loses nothing."""

import asyncio
import sys

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, example, given, settings

from fleetcore import IoTFleetManager
from fleetcore.errors import Conflict, NotFound, StorageError
from fleetcore.model.operation import OperationState
from fleetcore.testing import killed

ids = st.sampled_from(["a", "A", "b", "B", "gw", "GW", "there", "There", "no id"])
rows = st.lists(
    st.one_of(
        st.just(7),
        st.fixed_dictionaries({"name": st.just("no id at all")}),
        st.fixed_dictionaries(
            {"id": ids},
            optional={
                "type": st.sampled_from(["pump", "meter"]),
                "gateway": st.sampled_from(["a", "b", "gw", "there", "nobody"]),
                "attributes": st.sampled_from([{"n": 1}, {"n": 1.0}]),
                "colour": st.just("red"),
            },
        ),
    ),
    min_size=3,
    max_size=14,
)


def outcome(found):
    failures = sorted((failure.item, failure.about, failure.code) for failure in found.failures)
    return failures, dict(found.reasons), dict(found.result)


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@example([{"id": "a", "gateway": "gw"}, {"id": "gw", "gateway": "b"}, {"id": "b"}, {"id": "A"}], 1, 4)
@example([{"id": "a", "gateway": "b"}, {"id": "b", "gateway": "a"}, {"id": "a"}, {"id": "THERE"}], 2, 1)
@given(rows, st.integers(1, 5), st.integers(1, 4))
async def test_a_dry_run_says_what_the_run_does_and_a_second_run_changes_nothing(rows, part, other):
    with pytest.MonkeyPatch.context() as patch:
        async with IoTFleetManager() as manager:
            importing, operations = (await manager.open()).importing, (await manager.open()).operations
            await manager.register_device("there", "pump")
            patch.setattr("fleetcore.fleet.importing._PART", other)
            checked = await importing.check(rows)
            patch.setattr("fleetcore.fleet.importing._PART", part)
            ended = await operations.run((await importing.start(rows)).id)
            devices = await manager.list_devices()
            again = await operations.run((await importing.start(rows)).id)

            assert outcome(checked) == outcome(ended)
            assert (ended.total, ended.done) == (len(rows), len(rows))
            assert len(devices) == 1 + ended.result.get("registered", 0)
            assert outcome(again)[:2] == outcome(ended)[:2]
            assert again.result.keys() <= {"unchanged"}
            assert await manager.list_devices() == devices
            assert not [name for name in await _blobs(manager) if name.startswith("import/")]


async def _blobs(manager):
    storage = (await manager.open()).storage
    return await storage._engine.read(lambda db: [name for (name,) in db.execute("SELECT name FROM blobs")])


async def test_each_device_has_its_event_and_the_events_their_order(fleet):
    begun = await fleet.storage.position()
    rows = [{"id": f"d-{number}"} for number in range(5)]

    await fleet.operations.run((await fleet.importing.start(rows)).id)

    events = [event for entry in await fleet.storage.feed(begun) for event in entry.events]
    assert [event.subject for event in events if event.type == "device.registered"] == [row["id"] for row in rows]


async def test_rows_are_registered_while_others_still_come(fleet):
    operation = await fleet.importing.start([{"id": "a", "gateway": "z"}, {"id": "b"}], more=True)
    for _ in range(1000):
        if await fleet.devices.find("b") is not None:
            break
        await asyncio.sleep(0.01)
    under_way = await fleet.operations.get(operation.id)
    await fleet.importing.add(operation.id, [{"id": "z"}])
    ended = await fleet.operations.run(operation.id)

    assert (under_way.state, under_way.done, under_way.total) == (OperationState.RUNNING, 1, 2)
    assert (ended.state, ended.done, ended.result) == (OperationState.SUCCEEDED, 3, {"registered": 3})
    assert (await fleet.devices.get("a")).gateway == "z"
    with pytest.raises(Conflict):
        await fleet.importing.add(operation.id, [{"id": "late"}])


async def test_a_cancelled_import_lets_go_of_its_rows(fleet, monkeypatch):
    monkeypatch.setattr("fleetcore.fleet.importing._PART", 1)
    operation = await fleet.importing.start([{"id": "a", "gateway": "nobody"}, {"id": "b"}], more=True)

    await fleet.operations.cancel(operation.id)

    found = await fleet.storage._engine.read(lambda db: db.execute("SELECT count(*) FROM blobs WHERE name LIKE 'im%'"))
    assert found.fetchone() == (0,)


async def test_a_dry_run_in_parts_is_one_dry_run_and_stores_nothing(fleet):
    begun = await fleet.storage.position()

    name, _ = await fleet.importing.check_part([{"id": "leaf", "gateway": "gw"}, {"id": "x"}], of=None, more=True)
    _, found = await fleet.importing.check_part([{"id": "gw"}, {"id": "X"}], of=name, more=False)

    assert (found.result, dict(found.reasons)) == ({"registered": 3}, {"already_exists": 1})
    assert await fleet.storage.position() == begun
    with pytest.raises(NotFound):
        await fleet.importing.check_part([], of=name, more=False)


SCRIPT = """
import asyncio, sys
from fleetcore import IoTFleetManager

async def main():
    async with IoTFleetManager(sys.argv[1]) as manager:
        rows = [{"id": f"d-{number:05d}", "gateway": f"d-{(number + 7) % 20000:05d}" if number % 3 else None}
                for number in range(20000)]
        operation = await manager.import_devices(rows[:10000], more=True)
        print(operation.id, flush=True)
        await manager.import_devices(rows[10000:], operation=operation.id)
        while True:
            found = await manager.get_operation(operation["id"])
            print(found["done"], flush=True)
            await asyncio.sleep(0.02)

asyncio.run(main())
"""


async def test_an_import_goes_on_after_kill_9_where_it_was(tmp_path):
    async with IoTFleetManager(tmp_path / "data"):
        pass
    operation, *_ = killed(
        [sys.executable, "-c", SCRIPT, tmp_path / "data"],
        after=lambda lines: len(lines) > 1 and int(lines[-1]) >= 3000,
    )

    async with IoTFleetManager(tmp_path / "data") as manager:
        cut_off = await manager.get_operation(operation)
        there = len([row async for row in manager.iter_device_rows()])
        ended = await manager.run_operation(operation)
        fleet = await manager.open()
        await fleet.wait_idle()
        rows = [row async for _, row in fleet.audit.rows() if row.action == "device.registered"]

    assert 3000 <= cut_off["result"]["registered"] < 20000
    assert there == cut_off["result"]["registered"]
    assert ended["result"] == {"registered": 20000}
    assert len({row.object for row in rows}) == len(rows) == 20000


# --- a part that is judged while the one before it is written -------------------------------------------------------


async def ended(fleet, rows):
    """The operation that imports the rows, turn by turn."""
    operation = await fleet.importing.start(rows)
    for _ in range(60):
        if operation.state is not OperationState.RUNNING:
            break
        await fleet.operations.turn(operation.id)
        operation = await fleet.operations.get(operation.id)
    return operation


async def test_a_gateway_that_is_erased_before_its_leaves_are_registered_is_missed(monkeypatch):
    monkeypatch.setattr("fleetcore.fleet.importing._PART", 4)
    async with IoTFleetManager() as manager:
        fleet = await manager.open()
        await fleet.devices.register("g", "gateway")
        rows = [{"id": f"a{number}", "type": "s"} for number in range(4)]
        rows += [{"id": f"b{number}", "type": "s", "gateway": "g"} for number in range(4)]
        register, calls = fleet.importing._register, []

        async def late(operation, progress, allowed):
            calls.append(progress)
            if len(calls) == 2:
                await fleet.erasing.erase("g")
            return await register(operation, progress, allowed)

        monkeypatch.setattr(fleet.importing, "_register", late)
        operation = await ended(fleet, rows)

        assert (operation.failed, await fleet.devices.find("b0")) == (4, None)


async def test_an_error_while_looking_ahead_is_none_of_the_part_that_was_stored(monkeypatch):
    monkeypatch.setattr("fleetcore.fleet.importing._PART", 4)
    async with IoTFleetManager() as manager:
        fleet = await manager.open()
        told, failed, blob = [], [], fleet.storage.blob
        fleet.devices.on_change(lambda device: told.append(device.id))

        async def broken(name):
            if name.endswith("/1") and not failed:
                failed.append(name)
                raise StorageError("once")
            return await blob(name)

        monkeypatch.setattr(fleet.storage, "blob", broken)
        operation = await ended(fleet, [{"id": f"a{number}", "type": "s"} for number in range(8)])

        assert (operation.state, len(failed)) == (OperationState.SUCCEEDED, 1)
        assert sorted(told) == [f"a{number}" for number in range(8)]
