"""The fast path takes nothing that the steps would treat otherwise, and leaves the rest untouched."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetcore.builtin.json_codec import JsonCodec
from fleetcore.interfaces.provider import Limits
from fleetcore.model.device import Lifecycle
from fleetcore.model.telemetry import Series, SeriesKind
from fleetcore.pipeline import fast_path
from fleetcore.pipeline.columns import Columns
from fleetcore.pipeline.decode import Codecs, decode
from fleetcore.pipeline.message import Message
from fleetcore.pipeline.validate import validate
from fleetcore.wire.messages import STATUS
from fleetcore.wire.strict_json import dumps

from .conftest import NOW, Devices

METRICS = {"a": 1, "b": 2, "c/d": 3}


class Catalog:
    def series(self, index):
        return Series(index=index, device="d", metric=str(index), unit=None, kind=SeriesKind.NUMBER)


def taken(*deliveries):
    columns = Columns()
    simple, rest = fast_path.take(list(deliveries), columns, {}, 100)
    return simple, rest, columns


@pytest.fixture
def known(devices):
    return devices.add("d", metrics=METRICS)


def test_a_message_in_order_goes_into_the_columns_at_once(known, delivery):
    simple, rest, columns = taken(delivery({"time": NOW - 1, "values": {"a": 1, "b": 2.5}}))

    assert (len(simple), rest, columns.counts) == (1, [], [2])
    assert columns.finish()[0].value.tolist() == [1.0, 2.5]


@pytest.mark.parametrize(
    "more",
    [
        {"body": {"new": 1}},
        {"body": {"a": "text"}},
        {"body": {"a": {"b": 1}}},
        {"body": {}},
        {"body": {"values": {}}},
        {"body": {"time": NOW + 1, "values": {"a": 1}}},
        {"body": {"time": "2026-01-31T12:00:00Z", "values": {"a": 1}}},
        {"body": {"values": {"a": 1}, "id": "m"}},
        {"body": {"values": {"a": 1}, "ts": NOW}},
        {"body": {"a": 1}, "id": "m"},
        {"body": {"a": 1}, "content_type": "application/cbor"},
        {"body": {"a": 1}, "row": STATUS},
        {"body": b'{"a": 1}' + b" " * 100},
    ],
)
def test_anything_else_is_left_and_nothing_of_it_is_touched(known, delivery, more):
    made = delivery(more.pop("body"), **more)

    simple, rest, columns = taken(made)

    assert (simple, rest) == ([], [made])
    assert (columns.series, columns.counts, known.tokens) == ([], [], 1000.0)


@pytest.mark.parametrize("lifecycle", [Lifecycle.SUSPENDED, Lifecycle.RETIRED, Lifecycle.REGISTERED])
def test_a_device_that_is_not_in_good_standing_is_left(devices, delivery, lifecycle):
    devices.add("d", lifecycle, metrics=METRICS)

    assert taken(delivery({"a": 1}))[0] == []


def test_an_empty_bucket_is_left(devices, delivery):
    devices.add("d", tokens=0.5, metrics=METRICS)

    assert taken(delivery({"a": 1}))[0] == []


values = st.dictionaries(
    st.sampled_from([*METRICS]),
    st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, width=32),
    min_size=1,
)
bodies = st.one_of(
    values,
    st.fixed_dictionaries({"values": values}, optional={"time": st.integers(10**11, NOW)}),
    st.tuples(values, st.integers(10**11, NOW)).map(lambda pair: {**pair[0], "time": pair[1]}),
)


@given(bodies)
def test_both_ways_fill_the_same_columns(body):
    devices = Devices()
    devices.add("d", metrics=METRICS)
    from fleetcore.model.message import Inbound
    from fleetcore.wire.messages import TELEMETRY

    made = (devices.session("d"), Inbound(type=TELEMETRY, subject="d", payload=dumps(body)), lambda _: None, NOW)
    simple, _, columns = taken(made)
    message, other = Message(made, devices.states["d"]), Columns()

    validate(other, 0, message, decode(Codecs([JsonCodec()]), message), Catalog(), Limits())

    if simple:
        quickly, _, _ = columns.finish()
        slowly, _, _ = other.finish()
        for name in ("series", "time", "received", "value", "quality", "seq"):
            assert getattr(quickly, name).tolist() == getattr(slowly, name).tolist(), name
