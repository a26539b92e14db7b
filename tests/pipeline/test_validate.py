"""Validate: which readings reach the columns, and the code of those that do not."""

import pytest

from fleetcore.builtin.json_codec import JsonCodec
from fleetcore.interfaces.codec import Decoded, DecodedReading
from fleetcore.interfaces.provider import Limits
from fleetcore.model.device import Lifecycle
from fleetcore.model.telemetry import NO_SEQ, Quality, Series, SeriesKind
from fleetcore.pipeline.acknowledge import marks_of, outcome_of
from fleetcore.pipeline.columns import Columns
from fleetcore.pipeline.decode import Codecs, decode
from fleetcore.pipeline.message import answer_of
from fleetcore.pipeline.validate import validate
from fleetcore.wire.replies import problem

from .conftest import NOW

DAY = 86_400_000


class Catalog:
    """Series 1 is in celsius, series 2 has no unit."""

    def series(self, index):
        unit = {1: "celsius"}.get(index)
        return Series(index=index, device="d", metric="t", unit=unit, kind=SeriesKind.NUMBER)


def through(message, *readings, limits=None):
    columns = Columns()
    numbered = [
        DecodedReading(**{"index": i, "metric": "t", "value": 1.0, **reading}) for i, reading in enumerate(readings)
    ]
    validate(columns, 0, message, Decoded(numbered), Catalog(), limits or Limits())
    return columns.finish()


@pytest.fixture
def sent(message, devices):
    devices.add("d", metrics={"t": 1, "plain": 2})
    return message({})


def codes(message):
    return [point.code for point in message.refused or ()]


@pytest.mark.parametrize(
    ("reading", "code"),
    [
        ({"time": NOW + 600_001}, "time_in_future"),
        ({"time": NOW // 1000}, "time_unit"),
        ({"time": NOW * 1000}, "time_unit"),
        ({"time": "yesterday"}, "time_invalid"),
        ({"time": NOW, "age_ms": 5}, "time_ambiguous"),
        ({"age_ms": -1}, "time_out_of_range"),
        ({"age_ms": 367 * DAY}, "time_out_of_range"),
        ({"metric": "new"}, "too_many_metrics"),
        ({"metric": "bad name"}, "metric_name_invalid"),
        ({"unit": "metres"}, "unit_mismatch"),
        ({"metric": "plain", "unit": "celsius"}, "unit_mismatch"),
        ({"subject": "stranger"}, "not_your_device"),
    ],
)
def test_what_is_wrong_with_a_reading_refuses_that_reading_alone(sent, reading, code):
    batch, _, _ = through(sent, reading, {"time": NOW}, limits=Limits(metrics=2))

    assert codes(sent) == [code]
    assert (sent.count, batch.time.tolist()) == (1, [NOW])


@pytest.mark.parametrize("time", [NOW + 600_000, 10**11, "2026-01-31T12:00:00Z"])
def test_times_at_the_edges_are_taken(sent, time):
    through(sent, {"time": time})

    assert (sent.count, codes(sent)) == (1, [])


def test_an_age_counts_back_from_the_receipt(sent):
    batch, _, _ = through(sent, {"age_ms": 1500})

    assert batch.time.tolist() == [NOW - 1500]


def test_a_reading_without_a_time_has_that_of_its_receipt_and_says_so(sent):
    batch, _, _ = through(sent, {}, {"time": NOW - 5})

    assert batch.time.tolist() == [NOW, NOW - 5]
    assert [bool(quality & Quality.SERVER_TIME) for quality in batch.quality] == [True, False]


def test_a_value_is_converted_to_the_unit_of_its_series(sent):
    batch, _, _ = through(sent, {"value": 212.0, "unit": "fahrenheit"})

    assert batch.value.tolist() == pytest.approx([100.0])


def test_numbers_and_texts_part_and_keep_their_sequence(sent):
    batch, texts, owner = through(sent, {"value": True, "seq": 4}, {"value": "open", "seq": 5}, {"value": -0.0})

    assert (batch.value.tolist(), batch.seq.tolist(), owner.tolist()) == ([1.0, 0.0], [4, NO_SEQ], [0, 0])
    assert [(text.value, text.seq) for text in texts] == [("open", 5)]


def test_readings_of_a_quarantined_device_are_marked(message, devices):
    devices.add("q", Lifecycle.QUARANTINED, metrics={"t": 1})
    batch, _, _ = through(message({}, "q"), {"time": NOW})

    assert batch.quality[0] & Quality.QUARANTINED


def test_a_blocked_leaf_refuses_its_readings_and_not_its_neighbours(message, devices):
    devices.add("gw", metrics={"t": 1})
    made = message({}, "gw")
    made.others["leaf"] = devices.add("leaf", Lifecycle.SUSPENDED, gateway="gw", metrics={"t": 2})

    through(made, {"subject": "leaf"}, {"subject": "gw"})

    assert (made.count, codes(made)) == (1, ["device_suspended"])


@pytest.mark.parametrize(
    ("reading", "said"),
    [
        ({"time": NOW // 1000}, "is seconds: send milliseconds"),
        ({"time": NOW + 3_600_000}, "3600 s ahead of the server's clock; at most 600 s are accepted"),
        ({"time": "yesterday"}, "RFC 3339 with an offset"),
        ({"time": NOW, "age_ms": 5}, "send only one of them"),
        ({"age_ms": -1}, "milliseconds from 0 to 366 days, not -1"),
        ({"metric": "a b"}, "1-64 characters of A-Z"),
        ({"metric": "third"}, "at most 2 metrics, and 'third' would be one more"),
        ({"unit": "V"}, "stored in 'celsius', and 'V' does not convert to it"),
        ({"metric": "plain", "unit": "V"}, "without a unit"),
    ],
)
def test_each_refusal_says_what_is_wrong_and_what_is_right(sent, reading, said):
    through(sent, reading, limits=Limits(metrics=2))

    (refused,) = sent.refused
    assert said in refused.reason
    outcome = outcome_of(sent, Limits(metrics=2))
    assert refused.reason in outcome.reason
    (told,) = problem(outcome)["rejected"]
    assert told["detail"] == refused.reason


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (b'{"AM2301": {"Temperature": 21.5}}', "an object is not a value: send its members under separate names"),
        (b'{"a": [1]}', "a list is not a value"),
        (b'{"a": null}', "leave the reading out"),
        (b'{"a": 9007199254740993}', "beyond 2^53"),
        (b'{"v": 230.1}', "'v' is reserved"),
        (b"[5]", "each entry of the list must be an object"),
    ],
)
def test_what_a_format_refuses_has_a_sentence_too(message, devices, payload, said):
    devices.add("d", metrics={"t": 1})
    sent = message(payload)

    decode(Codecs([JsonCodec()]), sent)

    (refused,) = sent.refused
    assert said in refused.reason


def test_a_mark_keeps_the_reasons_for_the_repeat(sent):
    through(sent, {"time": NOW}, {"time": NOW // 1000})
    sent.id = "m1"
    outcome = outcome_of(sent, Limits())

    (mark,) = marks_of(sent, outcome, NOW)

    assert answer_of(mark).refused == outcome.refused
