"""The strict gate: everything that SECURITY asks to be refused is refused, and nothing else."""

import json
import math
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetcore.wire import strict_json
from fleetcore.wire.strict_json import StrictJsonError, dumps, loads

HOSTILE = {
    "NaN": b'{"a": NaN}',
    "Infinity": b"[Infinity]",
    "minus Infinity": b"[-Infinity]",
    "1e999": b"[1e999]",
    "depth 11": b"[" * 11 + b"]" * 11,
    "depth 11 of objects": b'{"a":' * 11 + b"1" + b"}" * 11,
    "depth 100,000": b"[" * 100_000 + b"]" * 100_000,
    "depth 100,000 unclosed": b"[" * 100_000,
    "depth beside brackets in text": b'["]]]]]]]]]]]]",' + b"[" * 11 + b"]" * 12,
    "duplicate key": b'{"a": 1, "a": 2}',
    "duplicate key below": b'{"a": [{"b": {"c": 1, "c": 2}}]}',
    "duplicate key, spelled otherwise": b'{"a": 1, "\\u0061": 2}',
    "duplicate key, white space making up for it": b'{"a" :1, "a" :2, "b":":", "c":":"}',
    "duplicate key, text making up for it": b'{"a" :1, "a":2, "b":3}',
    "5,000-digit integer": b"9" * 5000,
    "2^64": b"18446744073709551616",
    "2^63": b"[9223372036854775808]",
    "-2^63-1": b'{"a": -9223372036854775809}',
    "lone surrogate": b'"\\ud800"',
    "lone low surrogate": b'"\\udc00"',
    "NUL in a key": b'{"a\\u0000b": 1}',
    "NUL in text": b'["\\u0000"]',
    "NUL as a byte": b'"\x00"',
    "byte order mark": b"\xef\xbb\xbf{}",
    "bad UTF-8": b'"\xff"',
    "surrogate in UTF-8": b'"\xed\xa0\x80"',
    "trailing bytes": b"{} {}",
    "trailing NUL": b"{}\x00",
    "nothing": b"",
    "leading zero": b"[01]",
    "comment": b"[1 /* one */]",
    "trailing comma": b"[1,]",
    "single quotes": b"{'a': 1}",
}


@pytest.mark.parametrize("payload", HOSTILE.values(), ids=HOSTILE)
def test_hostile_json_is_refused_with_a_code_and_a_reason(payload):
    with pytest.raises(StrictJsonError) as refusal:
        loads(payload)

    assert refusal.value.code == "payload_unreadable"
    assert refusal.value.reason


def test_too_deep_names_the_limit():
    with pytest.raises(StrictJsonError) as refusal:
        loads(b"[[[]]]", depth=2)

    assert refusal.value.limit == 2


@pytest.mark.parametrize(
    ("payload", "value"),
    [
        (b"[" * 10 + b"]" * 10, [[[[[[[[[[]]]]]]]]]]),
        (b'["[[[[[[[[[[[[[[{{{{{"]', ["[[[[[[[[[[[[[[{{{{{"]),
        (b"[" + b"{}," * 20 + b"[[]]]", [*[{}] * 20, [[]]]),
        (b"[9223372036854775807, -9223372036854775808]", [2**63 - 1, -(2**63)]),
        (b"[0.12345678901234567890123]", [0.12345678901234568]),
        (b'{"a":{"x":1},"b":{"x":1}}', {"a": {"x": 1}, "b": {"x": 1}}),
        (b'{"a":"\\":\\"", "b" : ":"}', {"a": '":"', "b": ":"}),
        (b'"\\u005cu0000"', "\\u0000"),
        (b'"\\ud83c\\udf21"', "\U0001f321"),
        (b' \t\r\n{"a"\n:\t1} ', {"a": 1}),
        (b"-0", 0),
    ],
)
def test_unusual_json_is_read(payload, value):
    assert loads(payload) == value


def oracle(text: str, depth: int) -> object:
    """The same strictness by the standard library alone; raises ValueError."""

    def unique(pairs):
        if len({key for key, _ in pairs}) != len(pairs):
            raise ValueError("duplicate")
        return dict(pairs)

    def number(digits):
        if not math.isfinite(float(digits)):
            raise ValueError(digits)
        return float(digits)

    def integer(digits):
        if not -(2**63) <= int(digits) < 2**63:
            raise ValueError(digits)
        return int(digits)

    def constant(name):
        raise ValueError(name)

    def check(value, level):
        if isinstance(value, str) and ("\0" in value or value != value.encode("utf-8", "replace").decode()):
            raise ValueError("text")
        if isinstance(value, dict | list):
            if level == depth:
                raise ValueError("depth")
            for below in [*value, *value.values()] if isinstance(value, dict) else value:
                check(below, level + 1)

    value = json.loads(text, object_pairs_hook=unique, parse_float=number, parse_int=integer, parse_constant=constant)
    check(value, 0)
    return value


texts = st.one_of(
    st.text(max_size=4), st.sampled_from(["a", "b", '"', ":", '":', "{", "[", "]", "\\", "\0", "\ud800", " :", "é"])
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**65), 2**65),
    st.floats(),
    texts,
    st.sampled_from([2**63 - 1, 2**63, -(2**63), 10**18, 10**19]),
)


class Pairs(list):
    """An object as its pairs, duplicates included."""


documents = st.recursive(
    scalars,
    lambda below: st.one_of(st.lists(below, max_size=4), st.lists(st.tuples(texts, below), max_size=4).map(Pairs)),
    max_leaves=12,
)
spaces = st.sampled_from(["", "", "", " ", "\n", "\t", "\r"])


def write(draw, value) -> str:
    gap = draw(spaces)
    if isinstance(value, Pairs):
        items = [f"{write(draw, key)}{draw(spaces)}:{write(draw, below)}" for key, below in value]
        return f"{gap}{{{','.join(items)}}}{gap}"
    if isinstance(value, list):
        return f"{gap}[{','.join(write(draw, below) for below in value)}]"
    if isinstance(value, str):
        # Lone surrogates cannot be written but as escapes.
        plain = not draw(st.booleans()) and value.isprintable()
        return gap + json.dumps(value, ensure_ascii=not plain)
    return gap + json.dumps(value)


@settings(max_examples=1500, deadline=None)
@given(st.data(), documents, st.integers(1, 4))
def test_the_gate_agrees_with_the_standard_library_read_strictly(data, document, depth):
    text = write(data.draw, document)
    try:
        expected = oracle(text, depth)
    except ValueError:
        with pytest.raises(StrictJsonError):
            loads(text.encode(), depth=depth)
        return

    assert loads(text.encode(), depth=depth) == expected


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(payload):
    with suppress(StrictJsonError):
        loads(payload)


def test_the_slow_way_is_taken_for_suspicious_messages_only(monkeypatch):
    taken = []
    monkeypatch.setattr(strict_json, "_read_slowly", lambda payload, value: taken.append(payload))

    loads(b'{"time": 1760000000000, "values": {"temperature": 25.5, "open": true, "n": 1}}')
    loads(b'[{"time": "2026-01-01T00:00:00.000Z", "values": {"temperature": 25.5}}, {"humidity": 4}]')
    loads(b'{"a":"\\n"}')

    assert taken == [b'{"a":"\\n"}']


def test_what_is_written_is_compact_and_in_order():
    assert dumps({"b": [1, 2.5, None, True], "a": "é"}) == '{"b":[1,2.5,null,true],"a":"é"}'.encode()


def test_what_json_has_no_form_for_cannot_be_written():
    with pytest.raises(TypeError):
        dumps({"a": object()})
