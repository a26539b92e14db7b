"""Manifests, trust roots and assignments: what they say comes back, what is wrong is refused with its place and code."""

import base64
import json

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetcore.errors import CODES, FleetError, Refused
from fleetcore.testing.signers import DAY_MS, IMAGE, START_MS, Signers
from fleetcore.wire import dsse
from fleetcore.wire.assignment import (
    ASSIGNMENT_TYPE,
    Assignment,
    open_assignment,
    read_assignment,
    write_assignment,
)
from fleetcore.wire.manifest import MANIFEST_TYPE, open_manifest, peek_manifest, read_manifest, write_manifest
from fleetcore.wire.strict_json import dumps
from fleetcore.wire.trust import TRUST_TYPE, first_trust, follow, follow_all, raw_key, read_trust, write_trust

SIGNERS = Signers()
MANIFEST = dsse.opened(SIGNERS.manifest(chunk=4096, requires_seq=1), MANIFEST_TYPE)
TRUST = dsse.opened(SIGNERS.trust(models={"T-1000": ["a", "b"]}), TRUST_TYPE)
ASSIGNMENT = write_assignment(
    Assignment(
        device="a", campaign="c", execution="c:a", manifest_sha256="0" * 64, seq=2, not_after=START_MS, nonce="0" * 32,
        issued=START_MS - 1,
    )
)  # fmt: skip
READERS = {
    "manifest": (read_manifest, MANIFEST),
    "trust": (read_trust, TRUST),
    "assignment": (read_assignment, ASSIGNMENT),
}


def test_what_is_written_is_read_again():
    assert write_manifest(read_manifest(MANIFEST)) == MANIFEST
    assert write_trust(read_trust(TRUST)) == TRUST
    assert write_assignment(read_assignment(ASSIGNMENT)) == ASSIGNMENT
    without = evolve(read_assignment(ASSIGNMENT), issued=None)
    assert read_assignment(write_assignment(without)) == without, "an older server does not say it"


def test_a_digest_names_what_was_signed_and_not_its_envelope():
    one, two = SIGNERS.manifest(), SIGNERS.manifest(by=["maker", "second"])

    assert peek_manifest(one).digest == peek_manifest(two).digest


WRONG = {
    "format": "fleetcore.firmware/2", "name": "../../etc", "version": "a\u202eb", "seq": 0, "min_seq": 3, "models": [],
    "size": -1, "sha256": "A" * 64, "created": "yesterday", "expires": 5, "requires": {"seq": 2}, "chunks": {"size": 1},
    "delta_from": 7, "unknown": 1,
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_member_that_is_wrong_is_named(name):
    document = {**json.loads(MANIFEST), name: WRONG[name]}

    with pytest.raises(Refused) as refused:
        read_manifest(dumps(document))

    assert refused.value.code == "schema_invalid"
    assert name in str(refused.value)


@pytest.mark.parametrize("name", [one for one in json.loads(MANIFEST) if one not in ("min_seq", "requires", "chunks")])
def test_a_member_that_is_missing_is_named(name):
    document = json.loads(MANIFEST)
    del document[name]

    with pytest.raises(Refused) as refused:
        read_manifest(dumps(document))

    assert name in str(refused.value)


@pytest.mark.parametrize("value", [True, 1.0, "2", None, 2**53, 2**64, [2], {"seq": 2}])
def test_a_seq_is_an_integer_and_nothing_like_one(value):
    with pytest.raises(Refused):
        read_manifest(json.dumps({**json.loads(MANIFEST), "seq": value}).encode())


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"", "payload_unreadable"),
        (b"\xef\xbb\xbf" + MANIFEST, "payload_unreadable"),
        (MANIFEST + b"{}", "payload_unreadable"),
        (MANIFEST.replace(b'"seq":2', b'"seq":2,"seq":9'), "payload_unreadable"),
        (MANIFEST.replace(b'"seq":2', b'"seq":1e999'), "payload_unreadable"),
        (b"[" * 60_000, "payload_unreadable"),
        (b'{"a":' * 8 + b"1" + b"}" * 8, "payload_unreadable"),
        (b" " * (200 * 1024), "limit_exceeded"),
        (b"[]", "schema_invalid"),
        (b"null", "schema_invalid"),
    ],
)
@pytest.mark.parametrize("reader", ["manifest", "trust"])
def test_what_is_no_document_is_refused(reader, payload, code):
    with pytest.raises(Refused) as refused:
        READERS[reader][0](payload)

    if reader == "manifest" or MANIFEST[:20] not in payload:
        assert refused.value.code == code


def test_one_key_under_two_names_does_not_count_twice():
    document = json.loads(TRUST)
    ids = list(document["keys"])
    document["keys"]["f" * 64] = document["keys"][ids[0]]
    document["root"] = {"keys": [ids[0], "f" * 64], "threshold": 2}

    with pytest.raises(Refused, match="under its own key id"):
        read_trust(dumps(document))


def test_two_signatures_of_one_key_are_one():
    trust = first_trust(SIGNERS.trust(firmware=["maker", "second"], firmware_threshold=2))
    envelope = SIGNERS.manifest(by=["maker", "maker"])

    with pytest.raises(Refused) as refused:
        open_manifest(envelope, trust)

    assert refused.value.code == "signature_invalid"


@pytest.mark.parametrize(
    "role",
    [
        {"keys": [], "threshold": 1},
        {"keys": ["f" * 64], "threshold": 1},
        {"keys": 5, "threshold": 1},
        {"keys": list(json.loads(TRUST)["keys"])[:1], "threshold": 2},
        {"keys": list(json.loads(TRUST)["keys"])[:1], "threshold": 0},
        {"keys": list(json.loads(TRUST)["keys"])[:1] * 2, "threshold": 1},
    ],
)
def test_a_role_that_could_never_or_always_be_filled_is_refused(role):
    with pytest.raises(Refused):
        read_trust(dumps({**json.loads(TRUST), "root": role}))


def test_a_trust_root_that_lets_nobody_sign_is_refused():
    with pytest.raises(Refused, match="has no key"):
        first_trust(SIGNERS.trust(firmware=None))


@pytest.mark.parametrize(
    ("by", "code"),
    [
        (["new"], "signature_invalid"),
        (["root"], "signature_invalid"),
        (["maker", "new"], "signature_invalid"),
        (["root", "new"], None),
    ],
)
def test_the_next_trust_root_needs_the_old_keys_and_its_own(by, code):
    old = first_trust(SIGNERS.trust())
    new = SIGNERS.trust(2, root=["new"], by=by)

    if code is None:
        assert follow(old, new).version == 2
        return
    with pytest.raises(Refused) as refused:
        follow(old, new)
    assert refused.value.code == code


def test_thresholds_of_both_sides_are_counted():
    old = first_trust(SIGNERS.trust(root=["r1", "r2", "r3"], threshold=2, by=["r1", "r2"]))
    names = {"root": ["n1", "n2"], "threshold": 2}

    for by in (["r1", "n1", "n2"], ["r1", "r2", "n1"], ["r1", "r2"], ["n1", "n2"]):
        with pytest.raises(Refused):
            follow(old, SIGNERS.trust(2, **names, by=by))
    assert follow(old, SIGNERS.trust(2, **names, by=["r2", "r3", "n1", "n2"])).version == 2


@pytest.mark.parametrize("version", [1, 3, 4])
def test_a_version_that_is_not_the_next_is_refused(version):
    with pytest.raises(Refused) as refused:
        follow(first_trust(SIGNERS.trust()), SIGNERS.trust(version))

    assert refused.value.code == "trust_invalid"


def test_a_chain_is_followed_one_by_one_and_what_is_known_is_passed_over():
    first = first_trust(SIGNERS.trust())
    chain = [SIGNERS.trust(number) for number in range(1, 12)]

    assert follow_all(first, chain).version == 11
    with pytest.raises(Refused):
        follow_all(first, [one for one in chain if one is not chain[5]])


def test_a_model_with_keys_of_its_own_believes_nobody_else():
    trust = first_trust(SIGNERS.trust(models={"T-2000": ["theirs"]}))

    assert open_manifest(SIGNERS.manifest(), trust).seq == 2
    for by in (["maker"], ["theirs"]):
        with pytest.raises(Refused):
            open_manifest(SIGNERS.manifest(models=("T-1000", "T-2000"), by=by), trust)
    assert open_manifest(SIGNERS.manifest(models=("T-1000", "T-2000"), by=["maker", "theirs"]), trust)


def test_a_root_key_is_no_makers_key():
    with pytest.raises(Refused):
        open_manifest(SIGNERS.manifest(by=["root"]), first_trust(SIGNERS.trust()))


@pytest.mark.parametrize("kind", [TRUST_TYPE, ASSIGNMENT_TYPE, "application/vnd.fleetcore.command+json"])
def test_what_was_signed_as_something_else_is_no_manifest(kind):
    envelope = dsse.sign(MANIFEST, kind, [SIGNERS.key("maker")])

    for disguised in (envelope, {**envelope, "payloadType": MANIFEST_TYPE}):
        with pytest.raises(Refused):
            open_manifest(disguised, first_trust(SIGNERS.trust()))


def test_a_signature_is_added_once_however_often_one_signs():
    envelope = SIGNERS.manifest()
    for name in ("second", "maker", "second"):
        envelope = dsse.add_signature(envelope, MANIFEST_TYPE, SIGNERS.key(name))

    assert [one["keyid"] for one in envelope["signatures"]] == [SIGNERS.id("maker"), SIGNERS.id("second")]


# --- whatever the bytes ---------------------------------------------------------------------------------------------


def code_of(work, *args):
    """The code of a refusal, None where it is taken; anything else is raised."""
    try:
        work(*args)
    except FleetError as error:
        return error.code
    return None


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.binary(max_size=8).map(str),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def mutated(payload):
    """The document with some bytes changed, or with members that are something else."""

    def bytes_of(changes):
        data = bytearray(payload)
        for at, byte in changes:
            data[at % len(data)] = byte
        return bytes(data)

    def members_of(changes):
        document = json.loads(payload)
        for path, value in changes:
            here = document
            names = list(here)
            name = names[path[0] % len(names)]
            if isinstance(here[name], dict) and here[name] and path[1]:
                here, inner = here[name], list(here[name])
                name = inner[path[1] % len(inner)]
            here[name] = value
        try:
            return json.dumps(document).encode("utf-8", "surrogatepass")
        except ValueError:
            return b""

    place = st.tuples(st.integers(0, 1 << 16), st.integers(0, 255))
    member = st.tuples(st.tuples(st.integers(0, 20), st.integers(0, 4)), VALUES)
    return (
        st.lists(place, min_size=1, max_size=8).map(bytes_of)
        | st.lists(member, min_size=1, max_size=4).map(members_of)
        | st.integers(0, len(payload)).map(lambda end: payload[:end])
        | st.binary(max_size=300)
    )


@pytest.mark.parametrize("name", READERS)
@given(data=st.data())
@settings(max_examples=600, deadline=None)
def test_whatever_the_bytes_a_document_is_read_or_refused_with_a_code(name, data):
    read, payload = READERS[name]

    assert code_of(read, data.draw(mutated(payload))) in {None, *CODES}


@given(
    changes=st.dictionaries(st.sampled_from(["payload", "payloadType", "signatures", "x"]), VALUES, max_size=3),
    bits=st.binary(max_size=80),
)
@settings(max_examples=400, deadline=None)
def test_whatever_the_envelope_it_is_opened_or_refused_with_a_code(changes, bits):
    trust = first_trust(SIGNERS.trust())
    sig = {"keyid": SIGNERS.id("maker"), "sig": base64.b64encode(bits).decode()}
    key = raw_key(SIGNERS.key("server").public_key())
    for envelope in (
        {**SIGNERS.manifest(), **changes},
        {**SIGNERS.manifest(), "signatures": [sig]},
        {**SIGNERS.trust(2), **changes},
        changes,
    ):
        for judge in (
            lambda one=envelope: open_manifest(one, trust),
            lambda one=envelope: peek_manifest(one),
            lambda one=envelope: follow(trust, one),
            lambda one=envelope: first_trust(one),
            lambda one=envelope: open_assignment(one, key, device="a", now=0),
        ):
            assert code_of(judge) in {None, *CODES}


@given(changes=st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(1, 255)), min_size=1, max_size=4))
@settings(max_examples=200, deadline=None)
def test_a_signed_manifest_of_which_a_byte_is_changed_is_never_believed(changes):
    trust = first_trust(SIGNERS.trust())
    good = SIGNERS.manifest()
    payload = bytearray(base64.b64decode(good["payload"]))
    for at, bits in changes:
        payload[at % len(payload)] ^= bits
    if bytes(payload) == base64.b64decode(good["payload"]):
        return

    with pytest.raises(Refused):
        open_manifest({**good, "payload": base64.b64encode(bytes(payload)).decode()}, trust)


def test_times_are_judged_to_the_millisecond():
    from fleetcore.wire.manifest import check_time

    manifest = evolve(read_manifest(MANIFEST), expires=START_MS + DAY_MS)
    check_time(manifest, START_MS + DAY_MS - 1)
    with pytest.raises(Refused):
        check_time(manifest, START_MS + DAY_MS)
    assert len(IMAGE) == manifest.size
