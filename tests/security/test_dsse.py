"""DSSE envelopes: what verifies, and what must not."""

import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fleetcore.errors import NotAuthenticated, Refused
from fleetcore.wire.dsse import COMMAND_TYPE, key_id, pre_authentication_encoding, sign, verify

KEY, OTHER = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
PAYLOAD = b'{"id": "c1"}'


def test_the_encoding_is_that_of_the_specification():
    # The example of the DSSE specification, v1.0, protocol.md.
    assert (
        pre_authentication_encoding("http://example.com/HelloWorld", b"hello world")
        == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_what_was_signed_verifies_after_a_way_through_json():
    envelope = json.loads(json.dumps(sign(PAYLOAD, COMMAND_TYPE, [KEY])))

    opened = verify(envelope, COMMAND_TYPE, [KEY.public_key()])

    assert (opened.payload, opened.signers) == (PAYLOAD, {key_id(KEY.public_key())})


def test_every_trusted_signer_counts_once():
    envelope = sign(PAYLOAD, COMMAND_TYPE, [KEY, KEY, OTHER])

    opened = verify(envelope, COMMAND_TYPE, [KEY.public_key(), OTHER.public_key()])

    assert len(opened.signers) == 2


def test_a_signature_without_a_hint_is_tried_with_every_key():
    envelope = sign(PAYLOAD, COMMAND_TYPE, [KEY])
    del envelope["signatures"][0]["keyid"]

    assert verify(envelope, COMMAND_TYPE, [OTHER.public_key(), KEY.public_key()]).payload == PAYLOAD


def forged(**members) -> dict:
    return sign(PAYLOAD, COMMAND_TYPE, [KEY]) | members


def test_a_changed_payload_does_not_verify():
    with pytest.raises(NotAuthenticated):
        verify(forged(payload=base64.b64encode(b'{"id": "c2"}').decode()), COMMAND_TYPE, [KEY.public_key()])


def test_an_untrusted_key_does_not_count_whatever_it_calls_itself():
    envelope = sign(PAYLOAD, COMMAND_TYPE, [OTHER])
    envelope["signatures"][0]["keyid"] = key_id(KEY.public_key())

    with pytest.raises(NotAuthenticated):
        verify(envelope, COMMAND_TYPE, [KEY.public_key()])


def test_a_type_that_was_changed_after_signing_does_not_verify():
    with pytest.raises(NotAuthenticated):
        verify(forged(payloadType="application/x-manifest"), "application/x-manifest", [KEY.public_key()])


def test_another_type_is_refused_though_its_signature_is_good():
    envelope = sign(PAYLOAD, "application/x-manifest", [KEY])

    with pytest.raises(Refused, match="x-manifest"):
        verify(envelope, COMMAND_TYPE, [KEY.public_key()])


MALFORMED = {
    "a list": [],
    "nothing": None,
    "no payload": {key: value for key, value in forged().items() if key != "payload"},
    "a payload that is not base64": forged(payload="%%%"),
    "a payload outside ASCII": forged(payload="é"),
    "no signatures": forged(signatures=[]),
    "too many signatures": forged(signatures=forged()["signatures"] * 17),
    "signatures that are text": forged(signatures="abc"),
    "a signature that is a number": forged(signatures=[7]),
    "a signature that is not base64": forged(signatures=[{"sig": "*"}]),
}


@pytest.mark.parametrize("envelope", MALFORMED.values(), ids=MALFORMED)
def test_what_is_no_envelope_is_refused(envelope):
    with pytest.raises(Refused) as refused:
        verify(envelope, COMMAND_TYPE, [KEY.public_key()])

    assert refused.value.code == "schema_invalid"
