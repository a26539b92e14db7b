"""The path as a whole: every message has one outcome, whatever fails."""

import pytest

from fleetcore.builtin.json_codec import JsonCodec
from fleetcore.interfaces.provider import Limits
from fleetcore.model.message import Accepted
from fleetcore.model.store import SeriesRequest
from fleetcore.model.telemetry import SeriesKind
from fleetcore.pipeline.decode import Codecs
from fleetcore.pipeline.handlers import Handlers
from fleetcore.pipeline.path import DataPath
from fleetcore.pipeline.refusals import Refusals
from fleetcore.testing.faults import faulty
from fleetcore.wire.messages import COMMAND_RESULT, FIRMWARE_STATUS, STATUS, TWIN_ACK

from .conftest import NOW


@pytest.fixture
def handled():
    return []


@pytest.fixture
async def path(storage, devices, clock, handled):
    store, disk = faulty(storage)
    handlers = Handlers(10)

    async def handle(request, body):
        handled.append(type(body).__name__)
        return Accepted()

    handlers.add({STATUS: handle, TWIN_ACK: handle, COMMAND_RESULT: handle})
    made = DataPath(store, Codecs([JsonCodec()]), devices, handlers, clock, Limits(), Refusals(lambda *_: None))
    made.disk = disk
    return made


async def test_a_mixed_batch_gives_each_message_its_outcome(path, delivery, outcomes, handled):
    await path.process(
        [
            delivery({"time": NOW, "values": {"heat": 1}}),
            delivery({"state": "online"}, row=STATUS),
            delivery(b"rubbish"),
            delivery({"heat": 2}, "e"),
        ]
    )

    assert sorted(getattr(outcome, "code", f"stored {getattr(outcome, 'stored', 0)}") for outcome in outcomes) == [
        "payload_unreadable", "stored 0", "stored 1", "stored 1",
    ]  # fmt: skip
    assert handled == ["Status"]
    assert (path.accepted, path.rejected) == (3, {"payload_unreadable": 1})


async def test_a_full_disk_refuses_for_now_and_nothing_is_half_stored(path, delivery, outcomes):
    path.disk.fill(1)
    batch = [delivery({"time": NOW, "values": {"heat": n}}) for n in range(3)]

    await path.process(batch)
    refused = [outcome.code for outcome in outcomes]
    await path.process(batch)

    assert refused == ["storage_full"] * 3
    assert [type(outcome) for outcome in outcomes[3:]] == [Accepted] * 3


async def test_an_error_of_ours_costs_only_the_message_that_meets_it(path, delivery, outcomes, monkeypatch, caplog):
    from fleetcore.pipeline import path as module

    validate = module.validate

    def broken(columns, place, message, *more):
        if message.owner == "bad":
            raise ZeroDivisionError
        validate(columns, place, message, *more)

    monkeypatch.setattr(module, "validate", broken)

    await path.process([delivery({"heat": 1}), delivery({"heat": 2}, "bad"), delivery({"heat": 3}, "e")])

    assert [getattr(outcome, "code", outcome) for outcome in outcomes] == [
        Accepted(stored=1), "internal", Accepted(stored=1)
    ]  # fmt: skip


async def test_other_uplinks_of_a_device_are_handled_in_their_order(path, delivery, handled):
    rows = [(STATUS, {"state": "online"}), (TWIN_ACK, {"version": 0}), (STATUS, {"state": "offline"})]

    await path.process([delivery(body, row=row) for row, body in rows])

    assert handled == ["Status", "TwinAck", "Status"]


async def test_one_device_waits_for_no_other(path, delivery, handled):
    results = [delivery({"status": "running"}, device, row=COMMAND_RESULT, target="c") for device in "dede"]

    await path.process(results)

    assert handled == ["CommandResult"] * 4


async def test_of_messages_with_one_id_in_a_batch_the_first_that_is_stored_counts(path, delivery, outcomes, storage):
    early, good = {"time": NOW + 10**9, "values": {"heat": 1}}, {"time": NOW, "values": {"heat": 2}}

    await path.process([delivery(early, id="m"), delivery(good, id="m"), delivery(good, id="m")])

    assert [getattr(outcome, "code", outcome) for outcome in outcomes] == [
        "time_in_future", Accepted(stored=1), Accepted(stored=1)
    ]  # fmt: skip
    assert (path.tally.stored, path.tally.duplicates, path.tally.refused) == (1, 1, 1)


async def test_a_leaf_that_is_moved_away_while_its_batch_fails_is_answered(
    path, delivery, outcomes, devices, monkeypatch
):
    from fleetcore.pipeline import path as module

    devices.add("gw", metrics={"heat": 1})
    devices.add("leaf", gateway="gw", metrics={"heat": 2})
    session = devices.session("gw")
    session.subjects["leaf"] = devices.states["leaf"]
    validate = module.validate

    def broken(columns, place, message, *more):
        session.subjects.pop("leaf", None)
        if message.owner == "bad":
            raise ZeroDivisionError
        validate(columns, place, message, *more)

    monkeypatch.setattr(module, "validate", broken)

    await path.process([delivery({"heat": 1}, "gw", subject="leaf", session=session), delivery({"heat": 2}, "bad")])

    assert [outcome.code for outcome in outcomes] == ["not_your_device", "internal"]


async def test_readings_of_one_device_keep_their_order_past_the_quick_lane(path, delivery, outcomes, devices, storage):
    (series,) = await storage.intern([SeriesRequest("d", "heat", None, SeriesKind.NUMBER)])
    devices.add("d", metrics={"heat": series.index})

    await path.process([delivery({"heat": 1}, id="m"), delivery({"heat": 2})])

    values = [value async for piece in storage.read(series.index, 0, 1 << 45) for value in piece.value.tolist()]
    assert values == [1.0, 2.0]


async def test_messages_of_a_type_that_is_handled_jointly_are_one_call_and_a_devices_stay_in_order(
    path, delivery, outcomes
):
    calls = []

    async def together(some):
        calls.append([(request.subject, body.state) for request, body in some])
        return [Accepted(stored=len(some))] * len(some)

    path._handlers.add_joint({FIRMWARE_STATUS: together})
    said = [("d", "accepted"), ("e", "accepted"), ("d", "downloading")]

    await path.process([delivery({"state": state}, device, row=FIRMWARE_STATUS) for device, state in said])

    assert calls == [[("d", "accepted"), ("e", "accepted")], [("d", "downloading")]]
    assert outcomes == [Accepted(stored=2), Accepted(stored=2), Accepted(stored=1)]


async def test_an_invalid_message_and_an_error_of_ours_cost_only_their_own_message(path, delivery, outcomes, caplog):
    async def together(some):
        if any(body.execution == "bad" for _, body in some):
            raise ZeroDivisionError
        return [Accepted(stored=1)] * len(some)

    path._handlers.add_joint({FIRMWARE_STATUS: together})
    bodies = [{"state": "accepted"}, {"state": "nonsense"}, {"state": "accepted", "execution": "bad"}]

    await path.process(
        [delivery(body, device, row=FIRMWARE_STATUS) for body, device in zip(bodies, ("d", "e", "bad"), strict=True)]
    )

    assert [getattr(outcome, "code", outcome) for outcome in outcomes] == [
        Accepted(stored=1), "schema_invalid", "internal"
    ]  # fmt: skip
