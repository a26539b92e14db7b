"""Certificate requests that attack: none of them may lead to a certificate, nor to an unhandled error."""

import base64
import random

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AttributeOID, NameOID

from fleetcore.errors import Refused
from fleetcore.fleet.security.requests import read_request

from .conftest import FLEET, csr, new_key, spki


def san(uri: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])


def further(*, names=(), extensions=()) -> bytes:
    subject = [x509.NameAttribute(NameOID.COMMON_NAME, "th-1"), *names]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(subject))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(new_key(), hashes.SHA256()).public_bytes(Encoding.PEM)


@pytest.mark.parametrize(
    ("asked", "plain"),
    [
        (further(), True),
        (further(extensions=[san(f"urn:fleetcore:device:{FLEET}:th-1")]), True),
        (further(names=[x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Acme")]), False),
        (further(extensions=[x509.SubjectAlternativeName([x509.DNSName("th-1.example")])]), False),
    ],
)
def test_it_is_known_whether_a_request_names_more_than_the_device(asked, plain):
    assert read_request(asked, FLEET).plain is plain


def two_names() -> bytes:
    names = [x509.NameAttribute(NameOID.COMMON_NAME, name) for name in ("th-1", "th-2")]
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name(names))
        .sign(new_key(), hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )


def wrongly_signed() -> bytes:
    good = bytearray(csr("th-1", encoding=Encoding.DER))
    good[-1] ^= 1
    return bytes(good)


def stuffed() -> bytes:
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "th-1")]))
        .add_attribute(AttributeOID.UNSTRUCTURED_NAME, b"x" * 100_000)
        .sign(new_key(), hashes.SHA256())
        .public_bytes(Encoding.DER)
    )


BAD = {
    "empty": (b"", "csr_invalid"),
    "text": (b"hello", "csr_invalid"),
    "not ASCII": (b"\xff\xfe\x00", "csr_invalid"),
    "a broken PEM": (b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", "csr_invalid"),
    "a wrong signature": (wrongly_signed(), "csr_invalid"),
    "to be a CA": (csr("th-1", extensions=[x509.BasicConstraints(ca=True, path_length=None)]), "csr_invalid"),
    "to be another by SAN": (csr("th-1", extensions=[san(f"urn:fleetcore:device:{FLEET}:th-2")]), "csr_invalid"),
    "to be an admin by SAN": (csr("th-1", extensions=[san("urn:fleetcore:admin")]), "csr_invalid"),
    "two names": (two_names(), "csr_invalid"),
    "a name with a slash": (csr("a/b"), "csr_invalid"),
    "a name with a wildcard": (csr("+"), "csr_invalid"),
    "a name with a newline": (csr("th-1\n"), "csr_invalid"),
    "a service's name": (csr("fleetcore:consumer"), "csr_invalid"),
    "100 kB of attributes": (stuffed(), "limit_exceeded"),
    "RSA-1024": (
        csr("th-1", rsa.generate_private_key(public_exponent=65537, key_size=1024)),
        "csr_invalid",
    ),
    "a small exponent": (csr("th-1", rsa.generate_private_key(public_exponent=3, key_size=2048)), "csr_invalid"),
}


@pytest.mark.parametrize(("request_", "code"), BAD.values(), ids=BAD)
def test_a_bad_request_is_refused(request_, code):
    with pytest.raises(Refused) as refused:
        read_request(request_, FLEET)

    assert refused.value.code == code


@pytest.mark.parametrize("form", [Encoding.PEM, Encoding.DER, "base64"], ids=["PEM", "DER", "base64 with line breaks"])
def test_a_good_request_is_read_in_every_form(form):
    key = new_key()
    content = (
        base64.encodebytes(csr("th-1", key, encoding=Encoding.DER))
        if form == "base64"
        else csr("th-1", key, encoding=form)
    )

    asked = read_request(content, FLEET)

    assert (asked.device, asked.spki) == ("th-1", spki(key))


def test_what_else_a_request_asks_for_is_not_in_the_certificate(authority):
    asked = read_request(csr("th-1", extensions=[x509.SubjectAlternativeName([x509.DNSName("evil.example")])]), FLEET)

    certificate = authority.issue_device(asked.device, asked.public_key)

    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in names] == [f"urn:fleetcore:device:{FLEET}:th-1"]


def test_mutated_requests_are_read_or_refused_and_nothing_else():
    chance = random.Random(20261123)
    good = csr("th-1", encoding=Encoding.DER)
    codes = set()
    for _ in range(1000):
        mutated = bytearray(good)
        for _ in range(chance.randint(1, 3)):
            mutated[chance.randrange(len(mutated))] = chance.randrange(256)
        if bytes(mutated) == good:
            continue
        with pytest.raises(Refused) as refused:
            read_request(bytes(mutated), FLEET)
        codes.add(refused.value.code)

    assert codes == {"csr_invalid"}


def test_no_single_byte_can_be_changed_into_an_error_or_into_another_name():
    key = new_key()
    good = csr("th-1", key, encoding=Encoding.DER)
    read = set()
    for place in range(len(good)):
        for value in (0x00, 0x01, 0x03, 0x7F, 0xFF):
            try:
                asked = read_request(good[:place] + bytes([value]) + good[place + 1 :], FLEET)
            except Refused:
                continue
            read.add((asked.device, asked.spki))

    assert read == {("th-1", spki(key))}
