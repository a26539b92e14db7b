"""Store: one commit for a batch, series for new metrics, the first answer for a repeat."""

import pytest

from fleetcore.interfaces.codec import Decoded, DecodedReading
from fleetcore.interfaces.provider import Limits
from fleetcore.model.message import Accepted
from fleetcore.model.telemetry import Tally
from fleetcore.pipeline.columns import Columns
from fleetcore.pipeline.message import Envelope
from fleetcore.pipeline.store import Store
from fleetcore.pipeline.validate import validate

from .conftest import NOW

LIMITS = Limits(metrics=3)


@pytest.fixture
def store(storage, clock):
    return Store(storage, clock, LIMITS)


def decoded(*metrics, value=1.0, **more):
    return Decoded([DecodedReading(i, metric, value, time=NOW - i, **more) for i, metric in enumerate(metrics)])


async def commit(store, storage, *pairs):
    """The steps from validate on, for (message, readings) pairs."""
    messages = [message for message, _ in pairs]
    assert store.later(messages) == []
    await store.repeats(messages)
    fresh = [(i, *pair) for i, pair in enumerate(pairs) if pair[0].answer is None]
    await store.intern([(message, readings) for _, message, readings in fresh])
    columns = Columns()
    for i, message, readings in fresh:
        validate(columns, i, message, readings, storage.catalog, LIMITS)
    await store.commit(columns, messages)
    return [message.answer for message in messages]


async def test_all_readings_of_a_batch_are_one_commit(store, storage, message):
    before = await storage.position()

    answers = await commit(store, storage, (message({}), decoded("a", "b")), (message({}, "e"), decoded("a")))

    assert answers == [Accepted(stored=2), Accepted(stored=1)]
    assert await storage.position() == before + 1
    assert store.tally == Tally(stored=3)


async def test_new_metrics_get_series_up_to_the_limit(store, storage, message):
    (answer,) = await commit(store, storage, (message({}), decoded("a", "b", "c", "d")))

    assert (answer.stored, [(point.index, point.code) for point in answer.refused]) == (3, [(3, "too_many_metrics")])
    assert [series.metric for series in await storage.series_of("d")] == ["a", "b", "c"]


async def test_a_message_of_which_nothing_is_stored_is_refused_with_each_reading(store, storage, message):
    (answer,) = await commit(store, storage, (message({}), decoded("bad name", "worse name")))

    assert (answer.code, [point.index for point in answer.refused]) == ("metric_name_invalid", [0, 1])
    assert await storage.position() == 0
    assert store.tally == Tally(refused=2)


async def test_a_repeated_id_gets_its_first_answer_and_stores_nothing(store, storage, message):
    (first,) = await commit(store, storage, (message({}, id="m1"), decoded("a", "bad name")))
    position = await storage.position()

    (second,) = await commit(store, storage, (message({}, id="m1"), decoded("a", "b", "c")))

    assert second == first
    assert await storage.position() == position
    assert store.tally == Tally(stored=1, refused=2, duplicates=1)
    assert store.reasons == {"metric_name_invalid": 2}


async def test_of_two_with_one_id_in_a_batch_the_second_waits_for_the_first(store, message):
    first, second, other = message({}, id="m1"), message({}, id="m1"), message({}, "e", id="m1")

    assert store.later([first, second, other]) == [second]


async def test_the_same_id_of_another_device_is_another(store, storage, message):
    await commit(store, storage, *((message({}, device, id="m1"), decoded("a")) for device in ("d", "e")))

    assert store.tally == Tally(stored=2)


async def test_a_value_that_is_not_finite_is_refused_and_the_rest_is_stored(store, storage, message):
    pair = message({}), Decoded([DecodedReading(0, "a", float("nan")), DecodedReading(1, "b", 2.0)])

    (answer,) = await commit(store, storage, pair)

    assert (answer.stored, [point.code for point in answer.refused]) == (1, ["number_not_finite"])


async def test_each_envelope_of_a_list_has_its_own_id(store, storage, message):
    def envelopes(*pairs):
        readings = [DecodedReading(i, metric, 1.0, time=NOW - i, id=name) for i, (name, metric) in enumerate(pairs)]
        made = message({})
        made.envelopes = {i: Envelope(name, i) for i, (name, _) in enumerate(pairs)}
        return made, Decoded(readings)

    first = await commit(store, storage, envelopes(("e1", "a"), ("e2", "bad name")))
    position = await storage.position()
    again = await commit(store, storage, envelopes(("e1", "a"), ("e2", "b"), ("e1", "a")))

    assert [(answer.stored, [(p.index, p.code) for p in answer.refused]) for answer in (*first, *again)] == [
        (1, [(1, "metric_name_invalid")]),
        (3, []),  # what was refused before is new; e1 is there
    ]
    assert await storage.position() == position + 1
    assert store.tally == Tally(stored=2, refused=1, duplicates=2)


@pytest.mark.parametrize("form", ["message", "envelope"])
async def test_an_id_means_the_same_whether_a_message_has_it_or_an_envelope(store, storage, message, form):
    def as_message(*metrics):
        return message({}, id="x"), decoded(*metrics)

    def as_envelope(*metrics):
        made = message({})
        made.envelopes = {0: Envelope("x", 0)}
        return made, Decoded([DecodedReading(0, metric, 1.0, time=NOW, id="x") for metric in metrics])

    before, after = (as_message, as_envelope) if form == "message" else (as_envelope, as_message)
    await commit(store, storage, before("a", "no name"))
    position = await storage.position()
    (again,) = await commit(store, storage, after("b", "c"))

    assert (again.stored, [point.code for point in again.refused]) == (1, ["metric_name_invalid"])
    assert await storage.position() == position


async def test_of_two_envelopes_of_one_id_in_a_message_the_second_is_stored_where_the_first_was_not(
    store, storage, message
):
    made = message({})
    made.envelopes = {0: Envelope("e", 0), 1: Envelope("e", 1), 2: Envelope("e", 2)}
    readings = [DecodedReading(i, metric, 1.0, time=NOW, id="e") for i, metric in enumerate(("no name", "a", "b"))]

    (answer,) = await commit(store, storage, (made, Decoded(readings)))

    assert (answer.stored, [(point.index, point.code) for point in answer.refused]) == (2, [(0, "metric_name_invalid")])
    assert store.tally == Tally(stored=1, refused=1, duplicates=1)
    assert [
        series.metric for series in await storage.series_of("d") if await storage.latest([series.index]) != [None]
    ] == ["a"]


async def test_a_message_whose_own_id_is_its_envelopes_is_stored(store, storage, message):
    made = message({}, id="h1")
    made.envelopes = {0: Envelope("h1", 0)}

    (answer,) = await commit(store, storage, (made, Decoded([DecodedReading(0, "a", 1.0, time=NOW, id="h1")])))

    assert (answer.stored, store.tally) == (1, Tally(stored=1))
