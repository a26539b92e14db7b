"""Profiles of our certificates: one table, for issuing them and for checking them.

The check against a profile reads the certificate independently of the chain verification of
:mod:`fleetcore.fleet.security.verify`, which accepts things that a fleet must not: an RSA key of 1024 bits, a leaf
without an extended key usage, any number of names. Signatures and chains are not checked here.
"""

import ipaddress
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from enum import StrEnum
from types import MappingProxyType

from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, SignatureAlgorithmOID

from fleetcore.errors import Refused
from fleetcore.model.credential import Refusal
from fleetcore.model.names import device_uri, is_device_id


class Profile(StrEnum):
    """The kinds of certificate that a fleet has."""

    ROOT = "root"
    ISSUING = "issuing"
    DEVICE = "device"
    CLAIM = "claim"
    SERVER = "server"
    SERVICE = "service"


@frozen(kw_only=True)
class Shape:
    """The content of a profile.

    Attributes:
        lifetime: the default validity.
        usage: the extended key usages, exactly these; empty for CAs.
        path_length: of a CA. The root has none: a length of 1 would forbid cross-signing a successor.
    """

    lifetime: timedelta
    ca: bool = False
    path_length: int | None = None
    usage: frozenset[x509.ObjectIdentifier] = frozenset()


SHAPES: Mapping[Profile, Shape] = MappingProxyType(
    {
        Profile.ROOT: Shape(lifetime=timedelta(days=3652), ca=True),
        Profile.ISSUING: Shape(lifetime=timedelta(days=730), ca=True, path_length=0),
        Profile.DEVICE: Shape(lifetime=timedelta(days=90), usage=frozenset({ExtendedKeyUsageOID.CLIENT_AUTH})),
        Profile.CLAIM: Shape(lifetime=timedelta(days=365), usage=frozenset({ExtendedKeyUsageOID.CLIENT_AUTH})),
        Profile.SERVER: Shape(lifetime=timedelta(days=90), usage=frozenset({ExtendedKeyUsageOID.SERVER_AUTH})),
        # As long as its issuer may live: a broker's client is renewed by a person who restarts the broker with it.
        Profile.SERVICE: Shape(lifetime=timedelta(days=400), usage=frozenset({ExtendedKeyUsageOID.CLIENT_AUTH})),
    }
)

#: The range of a device certificate's lifetime.
DEVICE_LIFETIMES = (timedelta(days=1), timedelta(days=400))

#: The range of a claim certificate's lifetime.
CLAIM_LIFETIMES = (timedelta(days=1), timedelta(days=366))

_CURVES = frozenset({ec.SECP256R1.name, ec.SECP384R1.name})

#: RSA moduli of old devices: smaller ones are weak (NIST SP 800-131A), larger ones cost too much time to verify.
_RSA_BITS = range(2048, 4097)

_STRONG_SIGNATURES = frozenset(
    {
        SignatureAlgorithmOID.ECDSA_WITH_SHA256,
        SignatureAlgorithmOID.ECDSA_WITH_SHA384,
        SignatureAlgorithmOID.ECDSA_WITH_SHA512,
        SignatureAlgorithmOID.ED25519,
        SignatureAlgorithmOID.RSA_WITH_SHA256,
        SignatureAlgorithmOID.RSA_WITH_SHA384,
        SignatureAlgorithmOID.RSA_WITH_SHA512,
    }
)

_DEVICE_URI = re.compile(r"urn:fleetcore:device:([a-z0-9-]{1,32}):(.*)", re.ASCII | re.DOTALL)

#: A device's id cannot contain a colon, so no device can get a certificate whose common name is a service's, and a
#: broker that uses the common name as the user does not take a claim certificate for a device.
SERVICE_NAME = "fleetcore:{name}"
CLAIM_NAME = "fleetcore:claim:{batch}"

#: The beginning of a claim certificate's SAN URI, in its DER form.
CLAIM_URN = b"urn:fleetcore:claim:"


def service_uri(fleet: str, name: str) -> str:
    """The SAN URI of a service's certificate."""
    return f"urn:fleetcore:service:{fleet}:{name}"


def claim_uri(fleet: str, batch: str) -> str:
    """The SAN URI of a batch's claim certificate."""
    return f"urn:fleetcore:claim:{fleet}:{batch}"


def extensions(profile: Profile, names: Sequence[x509.GeneralName] = ()) -> list[tuple[x509.ExtensionType, bool]]:
    """The extensions of a new certificate with whether each is critical; the issuer adds the key identifiers."""
    shape = SHAPES[profile]
    found: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=shape.ca, path_length=shape.path_length), True),
        (_key_usage(ca=shape.ca), True),
    ]
    if shape.usage:
        found.append((x509.ExtendedKeyUsage(sorted(shape.usage, key=lambda oid: oid.dotted_string)), False))
    if names:
        found.append((x509.SubjectAlternativeName(names), False))
    return found


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def strong_key(key: CertificatePublicKeyTypes) -> bool:
    """Whether a leaf may have this key: P-256, P-384, Ed25519 or RSA of 2048 to 4096 bits."""
    # By name first: the classes are abstract, and checks against them are slow in every handshake.
    if getattr(getattr(key, "curve", None), "name", None) in _CURVES:
        return True
    match key:
        case ec.EllipticCurvePublicKey():
            return False
        case ed25519.Ed25519PublicKey():
            return True
        case rsa.RSAPublicKey():
            return key.key_size in _RSA_BITS and key.public_numbers().e >= 65537
        case _:
            return False


def host_name(host: str) -> x509.GeneralName:
    """A host as a SAN; raises Refused (``name_invalid``) where it is neither an address nor a DNS name."""
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    label = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
    if len(host) > 253 or not re.fullmatch(rf"(\*\.)?{label}(\.{label})*", host, re.ASCII):
        raise Refused(f"{host!r} is not a host name", code="name_invalid", remedy="Use a DNS name or an IP address")
    return x509.DNSName(host)


def names_of(certificate: x509.Certificate) -> list[x509.GeneralName]:
    """The subject alternative names; empty where there are none. Raises the parser's errors."""
    try:
        found = certificate.extensions.get_extension_for_oid(x509.SubjectAlternativeName.oid).value
    except x509.ExtensionNotFound:
        return []
    return list(found) if isinstance(found, x509.SubjectAlternativeName) else []


def common_name(name: x509.Name) -> str | None:
    """The one common name, or None where there is none or more than one."""
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if len(found) == 1 else None


def check_leaf(certificate: x509.Certificate, profile: Profile) -> Refusal | None:
    """The first fault in the form of a leaf, or None. Raises the parser's errors."""
    shape = SHAPES[profile]
    present = {extension.oid: extension for extension in certificate.extensions}

    constraints = present.get(x509.BasicConstraints.oid)
    usage = present.get(x509.KeyUsage.oid)
    if constraints is not None and isinstance(constraints.value, x509.BasicConstraints) and constraints.value.ca:
        return Refusal.IS_CA
    if usage is not None and isinstance(usage.value, x509.KeyUsage):
        if usage.value.key_cert_sign or usage.value.crl_sign:
            return Refusal.IS_CA
        if not usage.value.digital_signature:
            return Refusal.KEY_USAGE
    if constraints is None or not constraints.critical:
        return Refusal.BASIC_CONSTRAINTS
    if usage is None or not usage.critical:
        return Refusal.KEY_USAGE

    if not strong_key(certificate.public_key()):
        return Refusal.KEY_WEAK
    if certificate.signature_algorithm_oid not in _STRONG_SIGNATURES:
        return Refusal.SIGNATURE_WEAK

    extended = present.get(x509.ExtendedKeyUsage.oid)
    if extended is None:
        return Refusal.EKU_MISSING
    if not isinstance(extended.value, x509.ExtendedKeyUsage) or set(extended.value) != shape.usage:
        return Refusal.EKU_WRONG
    if x509.AuthorityKeyIdentifier.oid not in present or x509.SubjectKeyIdentifier.oid not in present:
        return Refusal.KEY_ID_MISSING
    return None


def device_of(certificate: x509.Certificate, fleet: str) -> str | Refusal:
    """The device that the certificate names, or why it does not name one of this fleet.

    Exactly one SAN, a URI ``urn:fleetcore:device:<fleet>:<id>``, and the common name equal to the id (wire.md §2).
    Raises the parser's errors.
    """
    names = names_of(certificate)
    if not names:
        return Refusal.SAN_MISSING
    if len(names) > 1:
        return Refusal.SAN_MANY
    (name,) = names
    match = _DEVICE_URI.fullmatch(name.value) if isinstance(name, x509.UniformResourceIdentifier) else None
    if match is None:
        return Refusal.SAN_WRONG
    if match[1] != fleet:
        return Refusal.FLEET_FOREIGN
    device = match[2]
    if not is_device_id(device):
        return Refusal.ID_INVALID
    if common_name(certificate.subject) != device:
        return Refusal.CN_MISMATCH
    return device


def claim_of(certificate: x509.Certificate, fleet: str) -> str | Refusal:
    """The batch that a claim certificate names: exactly one SAN, a URI ``urn:fleetcore:claim:<fleet>:<batch>``."""
    names = names_of(certificate)
    if len(names) != 1:
        return Refusal.SAN_MANY if names else Refusal.SAN_MISSING
    (name,) = names
    prefix, uri = claim_uri(fleet, ""), name.value if isinstance(name, x509.UniformResourceIdentifier) else ""
    batch = uri.removeprefix(prefix)
    if not uri.startswith(prefix) or common_name(certificate.subject) != CLAIM_NAME.format(batch=batch):
        return Refusal.SAN_WRONG
    return batch


def device_names(fleet: str, device: str) -> list[x509.GeneralName]:
    """The SAN of a device's certificate."""
    return [x509.UniformResourceIdentifier(device_uri(fleet, device))]
