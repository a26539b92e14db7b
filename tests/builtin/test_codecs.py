"""The built-in codecs: every form of the wire, every refusal with index and metric, and who claims what."""

import json

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetcore.builtin.cbor_codec import CborCodec
from fleetcore.builtin.json_codec import JsonCodec
from fleetcore.builtin.senml_codec import SenmlCodec
from fleetcore.interfaces.codec import Decoded, DecodedReading
from fleetcore.model.message import Rejected
from fleetcore.testing.codec_contract import CodecContract, Sample
from fleetcore.wire.readings import RESERVED

RECEIVED = 1_767_225_600_000
JSON, SENML, CBOR = JsonCodec(), SenmlCodec("default"), CborCodec()
ALL = {"json": JSON, "senml": SENML, "cbor": CBOR}


def codes(decoded):
    """What the format refuses, without the sentences."""
    return [each[:3] for each in decoded.refused]


def decode_json(document: object) -> Decoded | Rejected:
    return JSON.decode(json.dumps(document).encode(), RECEIVED)


def both(document: object) -> Decoded | Rejected:
    """Decoded from JSON and from CBOR, which must agree."""
    from_json, from_cbor = decode_json(document), CBOR.decode(cbor2.dumps(document), RECEIVED)
    assert from_json == from_cbor
    return from_json


def senml(pack: object) -> Decoded | Rejected:
    return SENML.decode(json.dumps(pack).encode(), RECEIVED)


class TestJsonCodec(CodecContract):
    @pytest.fixture
    def codec(self):
        return JSON

    @pytest.fixture
    def samples(self):
        return [
            Sample(payload=b'{"temperature": 25.5, "open": true}', readings=[("temperature", 25.5), ("open", True)]),
            Sample(payload=b'{"time":1767225600000,"id":"m","values":{"n":1}}', readings=[("n", 1)]),
            Sample(payload=b'[{"metric":"a","value":"on"},{"b":2}]', readings=[("a", "on"), ("b", 2)]),
        ]


class TestCborCodec(CodecContract):
    @pytest.fixture
    def codec(self):
        return CBOR

    @pytest.fixture
    def samples(self):
        document = [{"temperature": 25.5, "open": True}, {"metric": "a", "value": "on"}]
        readings = [("temperature", 25.5), ("open", True), ("a", "on")]
        return [
            Sample(payload=cbor2.dumps(document), readings=readings),
            Sample(payload=b"\xd9\xd9\xf7" + cbor2.dumps({"values": {"n": 1}}), readings=[("n", 1)]),
            Sample(payload=bytes.fromhex("bf616101ff"), readings=[("a", 1)]),
        ]


class TestSenmlCodec(CodecContract):
    @pytest.fixture
    def codec(self):
        return SENML

    @pytest.fixture
    def samples(self):
        return [
            Sample(
                payload=b'[{"bn":"a/","bt":1.7e9,"n":"b","v":1},{"n":"c","vb":true}]',
                readings=[("a/b", 1), ("a/c", True)],
            ),
            Sample(payload=cbor2.dumps([{-2: "a", 2: 1.5}, {0: "b", 3: "on"}]), readings=[("a", 1.5), ("ab", "on")]),
        ]


def test_the_flat_form_shares_time_age_and_seq():
    assert both({"time": 5, "seq": 7, "temperature": 25.5, "open": True}) == Decoded(
        [DecodedReading(0, "temperature", 25.5, None, 5, None, 7), DecodedReading(0, "open", True, None, 5, None, 7)],
        None,
        [],
    )
    assert both({"age_ms": 100, "t1": 1}).readings[0].age_ms == 100


def test_the_envelope_carries_the_message_id():
    decoded = both({"id": "m-1", "time": "2026-01-01T00:00:00Z", "values": {"temperature": 25.5}})

    assert decoded.id == "m-1"
    assert decoded.readings == [DecodedReading(0, "temperature", 25.5, None, "2026-01-01T00:00:00Z")]


@pytest.mark.parametrize(
    ("member", "hint"),
    [
        ("ts", "'time'"),
        ("timestamp", "'time'"),
        ("Time", "'time'"),
        ("tiem", "'time'"),
        ("msgid", "'id'"),
        ("sequ", "'seq'"),
    ],
)
def test_a_member_beside_values_that_is_not_known_is_refused_with_the_nearest_one(member, hint):
    refused = both({member: 1_764_251_700_000, "values": {"temperature": 21.5}})

    assert (refused.code, refused.pointer) == ("schema_invalid", f"/{member}")
    assert hint in refused.reason


def test_in_a_list_it_costs_that_envelope_alone():
    decoded = both([{"ts": 1, "values": {"a": 1}}, {"values": {"b": 2}, "id": "e2"}])

    assert [(reading.metric, reading.id) for reading in decoded.readings] == [("b", "e2")]
    assert codes(decoded) == [(0, "ts", "schema_invalid")]


def test_reserved_names_are_metrics_inside_an_envelope():
    assert [reading.metric for reading in both({"values": {"v": 3.3, "n": 1}}).readings] == ["v", "n"]


@pytest.mark.parametrize("message_id", ["", " ", "x" * 65, "é", 7, ["a"]])
def test_a_bad_message_id_refuses_the_message(message_id):
    refused = both({"id": message_id, "values": {"a": 1}})

    assert (refused.code, refused.pointer) == ("schema_invalid", "/id")


def test_an_id_outside_an_envelope_is_no_message_id():
    assert both({"id": "serial-4711", "temperature": 1}).id is None
    assert both([{"id": "m-1", "values": {"a": 1}}]).id is None


def test_the_single_form_carries_a_unit():
    assert both({"metric": "t1", "value": 25.5, "unit": "celsius", "time": 9}).readings == [
        DecodedReading(0, "t1", 25.5, "celsius", 9)
    ]


def test_a_list_mixes_forms_and_counts_places():
    decoded = both([{"a": 1}, {"values": {"b": 2}}, {"metric": "c", "value": "x"}])

    assert [(reading.index, reading.metric, reading.value) for reading in decoded.readings] == [
        (0, "a", 1),
        (1, "b", 2),
        (2, "c", "x"),
    ]


@pytest.mark.parametrize(
    ("document", "refused"),
    [
        ([{"a": 1}, 7, None, [1]], [(1, "", "schema_invalid"), (2, "", "schema_invalid"), (3, "", "schema_invalid")]),
        ([{"a": 1}, {"b": None}], [(1, "b", "schema_invalid")]),
        ([{"a": 1, "b": {"c": 1}, "d": [1]}], [(0, "b", "schema_invalid"), (0, "d", "schema_invalid")]),
        ([{"a": 1}, {"metric": 5, "value": 1}], [(1, "5", "metric_name_invalid")]),
        ([{"a": 1}, {"metric": "m", "value": 1, "unit": 3}], [(1, "m", "schema_invalid")]),
        ([{"a": 1}, {"b": 1, "seq": -1}], [(1, "seq", "schema_invalid")]),
        ([{"a": 1}, {"b": 1, "seq": True}], [(1, "seq", "schema_invalid")]),
        ([{"a": 1}, {"b": 1, "seq": 1.5}], [(1, "seq", "schema_invalid")]),
        ([{"a": 1}, {"x" * 100: None}], [(1, "x" * 64, "schema_invalid")]),
        ([{"a": 1, "values": 3}], [(0, "values", "metric_name_invalid")]),
    ],
)
def test_what_is_wrong_with_one_reading_refuses_that_one(document, refused):
    decoded = both(document)

    assert codes(decoded) == refused
    assert [reading.metric for reading in decoded.readings] == ["a"]


@pytest.mark.parametrize("name", sorted(RESERVED - {"time", "age_ms", "seq", "id"}))
def test_a_reserved_name_in_the_flat_form_is_refused_and_not_lost_silently(name):
    assert codes(both({name: 1, "a": 1})) == [(0, name, "metric_name_invalid")]


@pytest.mark.parametrize("document", [3, "text", None, True, 1.5])
def test_what_is_neither_object_nor_list_is_refused(document):
    assert both(document).code == "schema_invalid"


def test_nothing_sent_is_nothing_wrong():
    assert both([]) == both({}) == both({"values": {}}) == Decoded([], None, [])


def test_depth_is_refused_with_the_limit():
    refused = both({"a": [[[[[[[[[[[1]]]]]]]]]]]})

    assert (refused.code, refused.limit, refused.unit, refused.scope) == ("payload_unreadable", 10, "levels", "message")


def test_numbers_that_are_not_finite_are_refused_one_by_one_in_cbor():
    decoded = CBOR.decode(cbor2.dumps({"a": float("nan"), "b": float("-inf"), "c": 1}), RECEIVED)

    assert codes(decoded) == [(0, "a", "number_not_finite"), (0, "b", "number_not_finite")]
    assert len(decoded.readings) == 1


def test_cbor_keys_and_values_that_json_does_not_have_are_refused_one_by_one():
    decoded = CBOR.decode(cbor2.dumps({3: 1, "b": b"bytes", "c": 1}), RECEIVED)

    assert codes(decoded) == [(0, "3", "metric_name_invalid"), (0, "b", "schema_invalid")]


# SenML


def test_base_fields_hold_until_they_are_replaced():
    pack = [
        {"bn": "room/", "bt": 1_760_000_000, "bu": "Cel", "n": "t1", "v": 20},
        {"n": "t2", "v": 21, "t": 0.25},
        {"bn": "hall/", "n": "rh", "u": "%RH", "v": 40, "t": -1},
        {"bu": "V", "bv": 100, "n": "u1", "v": 0.5},
    ]

    assert senml(pack).readings == [
        DecodedReading(0, "room/t1", 20, "celsius", 1_760_000_000_000),
        DecodedReading(1, "room/t2", 21, "celsius", 1_760_000_000_250),
        DecodedReading(2, "hall/rh", 40, "percent_rh", 1_759_999_999_000),
        DecodedReading(3, "hall/u1", 100.5, "volt", 1_760_000_000_000),
    ]


def test_times_below_2_to_the_28_are_relative_to_receipt():
    pack = [{"n": "a", "v": 1, "t": -30}, {"n": "a", "v": 1, "t": 2}, {"n": "a", "v": 1}, {"n": "a", "v": 1, "t": 0}]

    times = [(reading.time, reading.age_ms) for reading in senml(pack).readings]

    assert times == [(None, 30_000), (RECEIVED + 2000, None), (None, None), (None, None)]


@pytest.mark.parametrize(("seconds", "time"), [(2**28, 2**28 * 1000), (2**28 - 1, RECEIVED + (2**28 - 1) * 1000)])
def test_the_border_between_relative_and_absolute(seconds, time):
    assert senml([{"n": "a", "v": 1, "t": seconds}]).readings[0].time == time


def test_the_device_urn_of_the_fleet_names_the_subject():
    pack = [{"bn": "urn:fleetcore:device:default:leaf-7/", "n": "room/t1", "v": 1}, {"bn": "", "n": "t2", "v": 1}]

    assert [(reading.subject, reading.metric) for reading in senml(pack).readings] == [
        ("leaf-7", "room/t1"),
        (None, "t2"),
    ]


def test_a_device_of_another_fleet_is_not_ours():
    assert senml([{"n": "urn:fleetcore:device:other:d/x", "v": 1}]).refused[0][2] == "not_your_device"


@pytest.mark.parametrize(
    ("record", "code"),
    [
        ({"n": "a", "vd": "aGk"}, "schema_invalid"),
        ({"n": "a", "s": 3}, "schema_invalid"),
        ({"n": "a"}, "schema_invalid"),
        ({"n": "a", "v": 1, "vs": "x"}, "schema_invalid"),
        ({"n": "a", "v": "1"}, "schema_invalid"),
        ({"n": "a", "v": True}, "schema_invalid"),
        ({"n": "a", "vb": 1}, "schema_invalid"),
        ({"n": "a", "vs": 1}, "schema_invalid"),
        ({"n": "a", "v": 1, "u": 1}, "schema_invalid"),
        ({"n": 1, "v": 1}, "metric_name_invalid"),
        ({"n": "a", "v": 1, "t": "now"}, "time_invalid"),
        ({"n": "a", "v": 1, "t": True}, "time_invalid"),
    ],
)
def test_a_bad_record_is_refused_and_the_others_are_read(record, code):
    decoded = senml([{"n": "first", "v": 1}, record, {"n": "last", "v": 2}])

    assert [(index, why) for index, _, why in decoded.refused] == [(1, code)]
    assert [reading.metric for reading in decoded.readings] == ["first", "last"]


def test_a_sum_beside_a_value_is_ignored():
    assert [reading.value for reading in senml([{"n": "a", "v": 1, "s": 100}]).readings] == [1]


def test_a_record_of_base_fields_alone_is_no_reading():
    decoded = senml([{"bn": "a", "bt": 1_760_000_000}, {"v": 1}])

    assert ([reading.index for reading in decoded.readings], decoded.refused) == ([1], [])


@pytest.mark.parametrize(
    "pack",
    [
        [{"n": "a", "v": 1, "must_": 1}],
        [{"n": "a", "v": 1}, {"n": "b", "v": 1, "x_": None}],
        [{"n": "a", "v": 1, "bver": 11}],
        [{"n": "a", "v": 1, "bver": 5}, {"n": "a", "v": 1, "bver": 6}],
        [{"n": "a", "v": 1, "bver": "10"}],
        [{"n": "a", "v": 1, "bn": 3}],
        [{"n": "a", "v": 1, "bt": "x"}],
        [{"n": "a", "v": 1, "bv": True}],
        [{"n": "a", "v": 1}, 3],
        [],
        {},
        3,
    ],
)
def test_what_concerns_the_whole_pack_refuses_it(pack):
    assert senml(pack).code == "schema_invalid"


@pytest.mark.parametrize("version", [5, 10, 26])
def test_known_versions_are_read(version):
    assert len(senml([{"n": "a", "v": 1, "bver": version}, {"n": "a", "v": 2}]).readings) == 2


def test_unknown_fields_are_ignored_and_unknown_units_kept():
    assert senml([{"n": "a", "v": 1, "u": "furlong", "extra": [1]}]).readings[0].unit == "furlong"


def test_senml_cbor_reads_as_its_json():
    pack = [
        {"bn": "a/", "bt": 1.76e9, "bu": "Cel", "bv": 1, "bver": 10, "n": "b", "v": 1.5, "t": 2},
        {"n": "c", "vb": True},
    ]
    labels = {"bver": -1, "bn": -2, "bt": -3, "bu": -4, "bv": -5, "n": 0, "u": 1, "v": 2, "vs": 3, "vb": 4, "t": 6}
    as_cbor = cbor2.dumps([{labels[label]: value for label, value in record.items()} for record in pack])

    assert SENML.decode(as_cbor, RECEIVED) == senml(pack)


# Who claims what


@pytest.mark.parametrize(
    ("payload", "owner"),
    [
        (b'{"temperature": 1}', "json"),
        (b' \n{"temperature": 1}', "json"),
        (b'{"n": "a", "v": 1}', "json"),
        (b'[{"temperature": 1}]', "json"),
        (b"[]", "json"),
        (b"[", "json"),
        (b'[{"t": "n"}, {"n": "a"}]', "json"),
        (b'[{"n": "a", "v": 1}]', "senml"),
        (b'\t[ {"v": 1, "bn": "a"}]', "senml"),
        (b'[{"\\u006e": "a", "v": 1}]', "senml"),
        (cbor2.dumps({"temperature": 1}), "cbor"),
        (cbor2.dumps([{"temperature": 1}]), "cbor"),
        (cbor2.dumps([]), "cbor"),
        (cbor2.dumps([{}]), "cbor"),
        (b"\xd9\xd9\xf7" + cbor2.dumps({"a": 1}), "cbor"),
        (cbor2.dumps([{0: "a", 2: 1}]), "senml"),
        (cbor2.dumps([{-2: "a"}] * 30), "senml"),
        (b"\xd9\xd9\xf7" + cbor2.dumps([{0: "a", 2: 1}]), "senml"),
        (bytes.fromhex("9fbf00616102 01ffff"), "senml"),
        (b"", None),
        (b"temperature=1", None),
        (b"\xff", None),
        (b"\xd9\xd9", None),
        (b"25.5", None),
    ],
)
def test_one_codec_claims_a_payload(payload, owner):
    assert [name for name, codec in ALL.items() if codec.claims(payload)] == ([owner] if owner else [])


@given(st.binary(max_size=20) | st.binary(max_size=20).map(lambda tail: b'[{"n":' + tail))
def test_never_do_two_codecs_claim_a_payload(payload):
    assert sum(codec.claims(payload) for codec in ALL.values()) <= 1
