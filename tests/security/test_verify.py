"""Bad certificates, one by one, each refused with its reason; and good ones, known again for as long as they are."""

import random
import warnings

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from fleetcore.fleet.security import Authority, Refusal
from fleetcore.fleet.security.verify import CertificateVerifier, Identity
from fleetcore.testing import certificates

from .conftest import DAY, FLEET, der, new_key

GOOD_URI = f"urn:fleetcore:device:{FLEET}:th-1"
CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH


def forge(authority: Authority, *, issuer=None, **wrong) -> bytes:
    """A certificate that is good but for what the test changes, signed by the fleet's own issuing CA by default."""
    signer, key = issuer or (authority.issuing.certificate, authority.issuing.key)
    return certificates.forge(signer, key, fleet=FLEET, **wrong).der


@pytest.fixture
def verifier(authority, clock) -> CertificateVerifier:
    return CertificateVerifier(authority, clock, lambda _certificate: None)


@pytest.mark.parametrize(("reason", "wrong"), certificates.BAD.values(), ids=certificates.BAD)
def test_a_bad_certificate_is_refused_with_its_reason(authority, verifier, reason, wrong):
    assert verifier.check(forge(authority, **wrong)) == reason


def test_an_id_outside_ascii_is_refused(authority, verifier):
    good = forge(authority)
    place = good.index(GOOD_URI.encode())
    bad = good[:place] + GOOD_URI.encode()[:-4] + "é-1".encode() + good[place + len(GOOD_URI) :]

    assert verifier.check(bad) in (Refusal.UNREADABLE, Refusal.SAN_WRONG, Refusal.ID_INVALID)


def test_a_weak_signature_is_refused(authority, verifier):
    # SHA-1 is gone from cryptography's builder: the digest's OID in a good certificate is changed to ECDSA with SHA-1.
    sha256, sha1 = b"\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02", b"\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x01"
    weak = forge(authority).replace(sha256, sha1)

    assert verifier.check(weak) in (Refusal.SIGNATURE_WEAK, Refusal.UNREADABLE)


def test_a_foreign_ca_with_the_same_names_is_refused(authority, verifier, clock):
    foreign = Authority.create(FLEET, clock)
    assert foreign.issuing.certificate.subject == authority.issuing.certificate.subject

    assert verifier.check(der(foreign.issue_device("th-1", new_key().public_key()))) is Refusal.UNTRUSTED


def test_a_device_cannot_issue_for_another(authority, verifier):
    key = new_key()
    device = authority.issue_device("th-1", key.public_key())

    assert verifier.check(forge(authority, issuer=(device, key))) is Refusal.UNTRUSTED


def test_a_certificate_signed_by_the_root_key_alone_is_judged_by_its_chain(authority, verifier):
    # Whoever has the root may issue; it is no reason to refuse, and the chain is complete.
    issuer = (authority.roots[0], authority.root_key)

    assert isinstance(verifier.check(forge(authority, issuer=issuer)), Identity)


@pytest.mark.parametrize("kind", ["server", "service", "issuing", "root"])
def test_our_other_certificates_are_no_devices(authority, verifier, kind):
    certificate = {
        "server": lambda: authority.issue_server(["th-1"]).certificate,
        "service": lambda: authority.issue_service("th-1").certificate,
        "issuing": lambda: authority.issuing.certificate,
        "root": lambda: authority.roots[0],
    }[kind]()

    assert isinstance(verifier.check(der(certificate)), Refusal)


@pytest.mark.parametrize(
    "key",
    [
        new_key(),
        ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(public_exponent=65537, key_size=2048),
    ],
    ids=["P-256", "P-384", "Ed25519", "RSA-2048"],
)
def test_a_good_certificate_names_its_device(authority, verifier, key):
    identity = verifier.check(der(authority.issue_device("th-1", key.public_key())))

    assert isinstance(identity, Identity)
    assert identity.device == "th-1"


def test_a_known_certificate_expires_all_the_same(authority, verifier, clock):
    certificate = der(authority.issue_device("th-1", new_key().public_key()))
    assert isinstance(verifier.check(certificate), Identity)

    clock.jump(91 * DAY)

    assert verifier.check(certificate) is Refusal.EXPIRED


def test_a_known_certificate_is_refused_once_it_is_revoked(authority, clock):
    revoked: dict[str, Refusal] = {}
    verifier = CertificateVerifier(authority, clock, revoked.get)
    certificate = der(authority.issue_device("th-1", new_key().public_key()))
    identity = verifier.check(certificate)

    revoked[identity.certificate] = Refusal.REVOKED

    assert verifier.check(certificate) is Refusal.REVOKED


def test_whatever_bytes_are_shown_the_answer_is_a_refusal_and_never_an_error(authority, verifier):
    chance = random.Random(20261123)
    good = der(authority.issue_device("th-1", new_key().public_key()))
    answers = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2000):
            mutated = bytearray(good)
            for _ in range(chance.randint(1, 4)):
                match chance.randrange(4):
                    case 0:
                        mutated[chance.randrange(len(mutated))] = chance.randrange(256)
                    case 1:
                        mutated[chance.randrange(len(mutated))] ^= 1 << chance.randrange(8)
                    case 2:
                        del mutated[chance.randrange(len(mutated))]
                    case _:
                        place = chance.randrange(len(mutated))
                        mutated[place:place] = chance.randbytes(chance.randint(1, 8))
            if bytes(mutated) != good:
                answers.append(verifier.check(bytes(mutated)))

    assert {type(answer) for answer in answers} == {Refusal}


def test_no_single_byte_can_be_changed_into_an_error_or_into_another_identity(authority, verifier):
    # 0x03 turns a name into a BIT STRING, at which the parser raises TypeError. A changed count of unused bits before
    # the signature is overlooked by it: that is the same certificate still.
    good = der(authority.issue_device("th-1", new_key().public_key()))
    same = verifier.check(good)

    answers = {
        verifier.check(good[:place] + bytes([value]) + good[place + 1 :])
        for place in range(len(good))
        for value in (0x00, 0x01, 0x03, 0x7F, 0xFF)
    }

    assert {answer for answer in answers if not isinstance(answer, Refusal)} == {same}


@pytest.mark.parametrize(
    "content", [b"", b"\x30", b"\x00" * 100, b"x" * 100_000], ids=["empty", "cut", "zeros", "long"]
)
def test_what_is_no_certificate_is_unreadable(verifier, content):
    assert verifier.check(content) is Refusal.UNREADABLE
