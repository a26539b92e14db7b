"""Certificate requests (PKCS #10, RFC 2986): only the public key is used and, after comparison, the name.

No requested extension gets into a certificate. A request for a CA certificate, or with the SAN of another device, is
refused rather than ignored: it is a mistake or an attack.
"""

import binascii
import hashlib
import warnings

from attrs import field, frozen
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fleetcore.errors import Refused
from fleetcore.fleet.security.profiles import common_name, device_names, strong_key
from fleetcore.model.names import device_uri, is_device_id

#: Longest request, PEM or DER. One with an RSA-4096 key takes 1.7 kB; the rest is room for attributes.
LIMIT_BYTES = 16 * 1024


@frozen(kw_only=True)
class CertificateRequest:
    """A request whose signature proves that the sender holds the key.

    Attributes:
        device: its common name, a device id.
        spki: SHA-256 (hex) of the SubjectPublicKeyInfo.
        plain: whether it names only the device: no further subject attributes, no other alternative name.
    """

    device: str
    spki: str
    plain: bool
    public_key: CertificatePublicKeyTypes = field(repr=False)


def spki_of(key: CertificatePublicKeyTypes) -> str:
    """SHA-256 (hex) of a key's SubjectPublicKeyInfo, DER."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _invalid(why: str) -> Refused:
    return Refused(f"The certificate request {why}", code="csr_invalid")


def read_request(content: bytes, fleet: str) -> CertificateRequest:
    """Reads and checks a CSR, PEM, DER or base64 of DER.

    Raises:
        Refused: ``limit_exceeded`` where it is longer than :data:`LIMIT_BYTES`; ``csr_invalid`` where it cannot be
            read, its signature is wrong, its key too weak, its common name not a device id, or it asks to be something
            that a device may not be.
    """
    if len(content) > LIMIT_BYTES:
        raise Refused(
            f"The certificate request is longer than {LIMIT_BYTES} bytes",
            code="limit_exceeded",
            limit=LIMIT_BYTES,
            unit="bytes",
            scope="request",
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return _read(content, fleet)
    except Refused:
        raise
    except Exception as error:  # the parser's errors for hostile DER are an open set, TypeError among them
        raise _invalid("cannot be read") from error


def _parse(content: bytes) -> x509.CertificateSigningRequest:
    if b"-----BEGIN" in content[:1024]:
        return x509.load_pem_x509_csr(content)
    if content[:1] != b"\x30":  # not a DER SEQUENCE: EST and some HTTP clients send base64 of it (RFC 7030 §4.2)
        content = binascii.a2b_base64(content)
    return x509.load_der_x509_csr(content)


def _read(content: bytes, fleet: str) -> CertificateRequest:
    csr = _parse(content)
    key = csr.public_key()
    if not strong_key(key):
        raise _invalid("has a key that is not accepted: use P-256, P-384, Ed25519 or RSA of 2048 to 4096 bits")
    if not csr.is_signature_valid:
        raise _invalid("is not signed by its key")
    device = common_name(csr.subject)
    if device is None or not is_device_id(device):
        raise _invalid("does not have a device id as its common name")
    plain = len(list(csr.subject)) == 1
    for extension in csr.extensions:
        match extension.value:
            case x509.BasicConstraints(ca=True):
                raise _invalid("asks for a CA certificate")
            case x509.SubjectAlternativeName() as names:
                plain = plain and list(names) == device_names(fleet, device)
                for uri in names.get_values_for_type(x509.UniformResourceIdentifier):
                    if uri.startswith("urn:fleetcore:") and uri != device_uri(fleet, device):
                        raise _invalid("has a SAN of another device than its common name")
            case _:
                pass
    return CertificateRequest(device=device, spki=spki_of(key), plain=plain, public_key=key)
