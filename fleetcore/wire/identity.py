"""A device's side of enrolment and renewal: its key, the request for a certificate, and the chain in the answer."""

import hashlib
from collections.abc import Mapping

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def make_key() -> tuple[bytes, ec.EllipticCurvePrivateKey]:
    """A new P-256 key: PEM (unencrypted, PKCS #8) and object."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return pem, key


def make_csr(device: str, key: ec.EllipticCurvePrivateKey) -> bytes:
    """A certificate request for a device id, PEM."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device)])
    csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return csr.public_bytes(serialization.Encoding.PEM)


def key_digest(key: ec.EllipticCurvePrivateKey) -> str:
    """SHA-256 (hex) of a key's SubjectPublicKeyInfo, by which a fleet identifies it."""
    public = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )  # fmt: skip
    return hashlib.sha256(public).hexdigest()


def issued_chain(answer: Mapping[str, object]) -> bytes:
    """The chain that a device presents, PEM, leaf first, from the answer to its request (wire.md §11).

    Raises KeyError where the answer has no certificate, as while an enrolment waits for approval.
    """
    return f"{answer['certificate']}{answer.get('chain', '')}".encode()
