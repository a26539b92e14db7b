"""Bad certificates, each with one fault, for testing what admits devices: the verifier, and every listener.

A listener must refuse all of :data:`BAD`, during the handshake or right after it, and accept the good one. The reasons
are those of the audit log if the handshake was completed.
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from attrs import field, frozen
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

GOOD_URI = "urn:fleetcore:device:{fleet}:{device}"
CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH


@frozen
class Forged:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: Any = field(repr=False)

    @property
    def der(self) -> bytes:
        """The certificate, DER."""
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def pem(self) -> bytes:
        """The certificate, PEM."""
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The key, PEM."""
        pem: bytes = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return pem


def forge(
    issuer: x509.Certificate,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    fleet: str,
    device: str = "th-1",
    now: dt.datetime | None = None,
    cn: str | None = None,
    uris: Sequence[str] | None = None,
    names: Sequence[x509.GeneralName] | None = None,
    ca: bool = False,
    usages: Sequence[x509.ObjectIdentifier] = (CLIENT,),
    key: Any = None,
    self_signed: bool = False,
    starts_in: dt.timedelta = dt.timedelta(minutes=-5),
    lasts: dt.timedelta = dt.timedelta(days=90),
    key_usage: bool = True,
    sign_certs: bool = False,
    basic: bool = True,
    key_ids: bool = True,
) -> Forged:
    """A device's certificate that is valid except for the given arguments.

    ``{fleet}`` and ``{device}`` in ``cn`` and ``uris`` are filled in.
    """
    key = key or ec.generate_private_key(ec.SECP256R1())
    given = {"fleet": fleet, "device": device}
    cn = (device if cn is None else cn).format(**given)
    uris = [item.format(**given) for item in ((GOOD_URI,) if uris is None else uris)]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, cn)] if cn else [])
    signer, by = (key, subject) if self_signed else (issuer_key, issuer.subject)
    begin = (now or dt.datetime.now(dt.UTC)).replace(microsecond=0) + starts_in
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + lasts)
    )
    if basic:
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    if key_usage:
        usage = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only",
             "decipher_only", "crl_sign"), False,
        )  # fmt: skip
        builder = builder.add_extension(
            x509.KeyUsage(digital_signature=True, key_cert_sign=sign_certs, **usage), critical=True
        )
    if usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    alternatives = names if names is not None else [x509.UniformResourceIdentifier(uri) for uri in uris]
    if alternatives:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=not cn)
    if key_ids:
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    return Forged(builder.sign(signer, hashes.SHA256()), key)


def _uri(text: str) -> dict[str, Any]:
    return {"uris": (text,)}


#: The fault → the reason, and the arguments of :func:`forge` that cause it.
BAD: Mapping[str, tuple[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "expired": ("expired", {"starts_in": dt.timedelta(days=-91)}),
        "not yet valid": ("not_yet_valid", {"starts_in": dt.timedelta(hours=1)}),
        "CA as leaf": ("is_ca", {"ca": True}),
        "a leaf that may sign certificates": ("is_ca", {"sign_certs": True}),
        "serverAuth only": ("eku_wrong", {"usages": (SERVER,)}),
        "both usages": ("eku_wrong", {"usages": (CLIENT, SERVER)}),
        "any usage": ("eku_wrong", {"usages": (ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,)}),
        "no extended key usage": ("eku_missing", {"usages": ()}),
        "no key usage": ("key_usage", {"key_usage": False}),
        "no basic constraints": ("basic_constraints", {"basic": False}),
        "no key identifiers": ("key_id_missing", {"key_ids": False}),
        "CN of another device": ("cn_mismatch", {"cn": "{device}-2"}),
        "CN in another case": ("cn_mismatch", {"cn": "TH-1", "uris": ("urn:fleetcore:device:{fleet}:th-1",)}),
        "no CN": ("cn_mismatch", {"cn": ""}),
        "two SAN URIs": ("san_many", {"uris": (GOOD_URI, "urn:fleetcore:device:{fleet}:{device}-2")}),
        "the same SAN twice": ("san_many", {"uris": (GOOD_URI, GOOD_URI)}),
        "two DNS names": (
            "san_many",
            {"names": [x509.DNSName("th-1"), x509.DNSName("th-2")]},
        ),
        "a DNS name instead": ("san_wrong", {"names": [x509.DNSName("th-1")]}),
        "no SAN": ("san_missing", {"uris": ()}),
        "a service's SAN": ("san_wrong", _uri("urn:fleetcore:service:{fleet}:{device}")),
        "a URI in upper case": ("san_wrong", _uri("URN:FLEETCORE:DEVICE:{fleet}:{device}")),
        "another fleet": ("fleet_foreign", _uri("urn:fleetcore:device:other:{device}")),
        "RSA-1024": ("key_weak", {"key": rsa.generate_private_key(public_exponent=65537, key_size=1024)}),  # noqa: S505 - the point
        "P-521": ("key_weak", {"key": ec.generate_private_key(ec.SECP521R1())}),
        "secp256k1": ("key_weak", {"key": ec.generate_private_key(ec.SECP256K1())}),
        "id with a slash": ("id_invalid", _uri("urn:fleetcore:device:{fleet}:th/1")),
        "id with a plus": ("id_invalid", _uri("urn:fleetcore:device:{fleet}:+")),
        "id with a hash": ("id_invalid", _uri("urn:fleetcore:device:{fleet}:#")),
        "id with NUL": ("id_invalid", _uri("urn:fleetcore:device:{fleet}:{device}\x00")),
        "id with a newline": ("id_invalid", _uri("urn:fleetcore:device:{fleet}:{device}\n")),
        "id with a colon": ("id_invalid", _uri("urn:fleetcore:device:{fleet}:{device}:x")),
        "id of 65 characters": (
            "id_invalid",
            _uri("urn:fleetcore:device:{fleet}:" + "x" * 65),
        ),
        "no id": ("id_invalid", _uri("urn:fleetcore:device:{fleet}:")),
        "self-signed": ("untrusted", {"self_signed": True}),
    }
)
