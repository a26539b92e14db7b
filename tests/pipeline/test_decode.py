"""Decode: which codec reads a payload, and what of it is a message's own."""

import pytest

from fleetcore.builtin.cbor_codec import CborCodec
from fleetcore.builtin.json_codec import JsonCodec
from fleetcore.builtin.senml_codec import SenmlCodec
from fleetcore.pipeline.decode import Codecs, decode
from fleetcore.wire.strict_cbor import dumps as cbor

PACK = [{"n": "heat", "v": 21.5}]


@pytest.fixture
def codecs():
    return Codecs([JsonCodec(), CborCodec(), SenmlCodec("test")])


def readings(decoded):
    return [(reading.metric, reading.value) for reading in decoded.readings]


@pytest.mark.parametrize("declared", [None, "application/json", "Application/JSON; charset=utf-8"])
def test_json_is_read_declared_or_not(codecs, message, declared):
    assert readings(decode(codecs, message({"heat": 1}, content_type=declared))) == [("heat", 1)]


@pytest.mark.parametrize("declared", [None, "application/senml+json", "application/json"])
def test_a_pack_is_a_pack_also_where_it_is_declared_as_json(codecs, message, declared):
    assert readings(decode(codecs, message(PACK, content_type=declared))) == [("heat", 21.5)]


@pytest.mark.parametrize("declared", [None, "application/cbor"])
def test_cbor_is_read_declared_or_not(codecs, message, declared):
    assert readings(decode(codecs, message(cbor({"heat": 2}), content_type=declared))) == [("heat", 2)]


def test_an_undeclared_payload_of_no_format_is_unreadable(codecs, message):
    made = message(b"\x01\x02")

    assert decode(codecs, made) is None
    assert made.answer.code == "payload_unreadable"


def test_a_declared_type_without_a_codec_is_named_in_the_refusal(codecs, message):
    made = message(b"<t>1</t>", content_type="application/xml")

    assert decode(codecs, made) is None
    assert (made.answer.code, "application/xml" in made.answer.reason) == ("media_type_unsupported", True)


def test_the_id_beside_the_payload_counts_before_the_one_in_it(codecs, message):
    beside, within = message({"values": {"heat": 1}, "id": "b"}, id="a"), message({"values": {"heat": 1}, "id": "b"})

    decode(codecs, beside)
    decode(codecs, within)

    assert (beside.id, within.id) == ("a", "b")


def test_an_id_that_cannot_be_one_refuses_the_message(codecs, message):
    made = message({"heat": 1}, id="x" * 65)

    assert decode(codecs, made) is None
    assert (made.answer.code, made.answer.pointer) == ("schema_invalid", "/id")


@pytest.mark.parametrize("body", [{}, [], {"values": {}}, [{}], {"time": 1_769_860_800_000}])
def test_a_message_that_holds_no_reading_is_no_success(codecs, message, body):
    made = message(body)

    assert decode(codecs, made) is None
    assert (made.answer.code, "no reading" in made.answer.reason) == ("schema_invalid", True)
