"""The short cut reads the simplest messages exactly as the full decoder does, or steps aside."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetcore.wire.readings import RESERVED, decode_quick
from fleetcore.wire.strict_json import StrictJsonError, loads


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (
            b'{"time":1760000000000,"values":{"t1":25.5,"door":true,"n1":3}}',
            (1760000000000, {"t1": 25.5, "door": True, "n1": 3}),
        ),
        (b'{"values": {"t1": 25.5}, "time": "2026-01-01T00:00:00+01:00"}', ("2026-01-01T00:00:00+01:00", {"t1": 25.5})),
        (b'{"values":{"a/b.c":-1}}', (None, {"a/b.c": -1})),
        (b'{"temperature": 25.5, "door_open": true}', (None, {"temperature": 25.5, "door_open": True})),
        (b'{"time": 5, "temperature": 25.5}', (5, {"temperature": 25.5})),
        (b"{}", (None, {})),
    ],
)
def test_the_simplest_forms_are_read(payload, message):
    got = decode_quick(payload)

    assert got == message
    assert [type(value) for value in got[1].values()] == [type(value) for value in message[1].values()]


@pytest.mark.parametrize(
    "payload",
    [
        b'{"values":{"a":1},"id":"x"}',
        b'{"values":{"a":1},"seq":1}',
        b'{"values":{"a":1},"age_ms":1}',
        b'{"values":{"a":"text"}}',
        b'{"values":{"a":null}}',
        b'{"values":{"a":{"b":1}}}',
        b'{"values":{"a":1,"a":2}}',
        b'{"time":1,"time":2,"values":{"a":1}}',
        b'{"time":1,"values":{"a":1},"values":{"b":2}}',
        b'{"time":null,"values":{"a":1}}',
        b'{"time":1.5,"values":{"a":1}}',
        b'{"time":true,"a":1}',
        b'{"values":{"a":9223372036854775808}}',
        b'{"a":-9223372036854775809}',
        b'{"a\\u0000":1}',
        b'{"a":1e999}',
        b'{"a":NaN}',
        b'{"a":1,"a":2}',
        b'{"a" :1,"a" :2,"b":3}',
        b'{"time":"::","a":1,"a":2}',
        b'{"metric":"a","value":1}',
        b'{"v":1}',
        b'[{"a":1}]',
        b"3",
        b"",
        b"\xff",
        b"[" * 100_000,
        b'{"values":' * 10_000,
    ],
)
def test_everything_else_is_left_to_the_full_decoder(payload):
    assert decode_quick(payload) is None


names = st.sampled_from(["a", "b", "temperature", "time", "values", "v", "id", "a:b", "\0"])
values = st.one_of(st.booleans(), st.integers(-(2**64), 2**64), st.floats(), st.just("2026-01-01T00:00:00Z"))


@settings(max_examples=1000, deadline=None)
@given(st.lists(st.tuples(names, values | st.lists(st.tuples(names, values), max_size=3)), max_size=4))
def test_what_the_short_cut_reads_passes_the_strict_gate_with_the_same_values(pairs):
    def write(value):
        if isinstance(value, list):
            return "{" + ",".join(f"{json.dumps(key)}: {write(below)}" for key, below in value) + "}"
        return json.dumps(value)

    payload = write(pairs).encode()
    quick = decode_quick(payload)
    if quick is None:
        return

    try:
        document = loads(payload)
    except StrictJsonError as error:
        pytest.fail(f"{payload!r}: {error.reason}")
    time = document.pop("time", None)
    assert quick == (time, document.get("values", document))
    assert "values" in document or RESERVED.isdisjoint(quick[1])
