"""CBOR as strict as JSON: plain data, bounded, no duplicates, no tags."""

from contextlib import suppress

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetcore.wire.strict_cbor import StrictCborError, dumps, loads

HOSTILE = {
    "duplicate key": "a2616101616102",
    "duplicate integer key": "a200010002",
    "depth 11": "81" * 11 + "01",
    "depth 100,000": "81" * 100_000 + "01",
    "depth of indefinite arrays": "9f" * 100_000,
    "2^64 - 1": "1bffffffffffffffff",
    "bignum": "c249010000000000000000",
    "time tag": "c11a514b67b0",
    "regular expression": "d82364612a2b2b",
    "shared reference": "d81c81d81d00",
    "decimal fraction with a huge exponent": "c4821a3b9aca0001",
    "self-described inside": "81d9d9f701",
    "self-described twice": "d9d9f7d9d9f701",
    "unknown tag": "d9999901",
    "undefined": "81f7",
    "simple value": "81f0",
    "trailing bytes": "0102",
    "truncated": "8201",
    "array of 2^64 - 1": "9bffffffffffffffff",
    "array of 2^36": "9b0000000fffffffff01",
    "text of 2^63": "7b7fffffffffffffff61",
    "bad UTF-8": "61ff",
    "NUL in text": "6100",
    "NUL in a key": "a1610001",
    "array as a key": "a1820101 02",
    "float as a key": "a1f97e0001",
    "truth value as a key": "a1f501",
    "break alone": "ff",
    "reserved length": "1c",
    "nothing": "",
}


@pytest.mark.parametrize("payload", HOSTILE.values(), ids=HOSTILE)
def test_hostile_cbor_is_refused_with_a_code_and_a_reason(payload):
    with pytest.raises(StrictCborError) as refusal:
        loads(bytes.fromhex(payload))

    assert refusal.value.code == "payload_unreadable"
    assert refusal.value.reason


def test_every_tag_is_refused_before_its_decoder_runs():
    for tag in [*range(1100), 43_000, 43_001, 55_799, 55_800, 2**16, 2**32, 2**64 - 1]:
        with pytest.raises(StrictCborError):
            loads(cbor2.dumps([cbor2.CBORTag(tag, [1, 2])]))


@pytest.mark.parametrize(
    ("payload", "value"),
    [
        ("d9d9f7a1617801", {"x": 1}),
        ("bf616101ff", {"a": 1}),
        ("7f61616162ff", "ab"),
        ("81" * 10 + "01", [[[[[[[[[[1]]]]]]]]]]),
        ("a100f93e00", {0: 1.5}),
        ("1b7fffffffffffffff", 2**63 - 1),
    ],
)
def test_unusual_cbor_is_read(payload, value):
    assert loads(bytes.fromhex(payload)) == value


plain = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False),
        st.text(st.characters(exclude_characters="\0", codec="utf-8")),
        st.binary(),
    ),
    lambda below: st.lists(below) | st.dictionaries(st.text(st.characters(min_codepoint=1, codec="utf-8")), below),
    max_leaves=8,
)


@given(plain)
def test_plain_data_comes_back_as_it_was_written(value):
    assert loads(dumps(value), depth=50) == value


@settings(max_examples=1000, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(payload):
    with suppress(StrictCborError):
        loads(payload)


def test_what_cbor_has_no_form_for_cannot_be_written():
    with pytest.raises(TypeError):
        dumps(object())
