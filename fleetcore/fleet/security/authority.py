"""The fleet's certificate authority: the trusted roots, the issuing CAs under them, and what they sign.

It only signs. :mod:`fleetcore.fleet.security.enrollment` decides whether a device may have a certificate,
:mod:`fleetcore.fleet.security.folder` stores the keys, :mod:`fleetcore.fleet.security.rotation` replaces roots, and
:mod:`fleetcore.fleet.security.profiles` defines the form of certificates. ECDSA on P-256 throughout.
"""

import datetime as dt
from collections.abc import Callable, Iterable, Sequence
from typing import Self

from attrs import Factory, field, frozen
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from fleetcore.errors import FleetError, Refused
from fleetcore.fleet.security.profiles import (
    CLAIM_LIFETIMES,
    CLAIM_NAME,
    DEVICE_LIFETIMES,
    SERVICE_NAME,
    SHAPES,
    Profile,
    claim_uri,
    device_names,
    extensions,
    host_name,
    service_uri,
)
from fleetcore.interfaces.clock import Clock
from fleetcore.model.names import check_device_id, check_fleet

#: A certificate's validity starts this long before it is made: the clocks of devices lag.
BACKDATED = dt.timedelta(minutes=5)

#: A broker refuses every device once its CRL has expired, so one lasts for weeks; each revocation makes a new one.
CRL_LIFETIME = dt.timedelta(days=28)


@frozen(kw_only=True)
class KeyPair:
    """A certificate with its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    def key_pem(self) -> bytes:
        """The key as unencrypted PKCS #8, PEM."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@frozen(kw_only=True)
class RevokedEntry:
    """An entry of the CRL."""

    serial: int
    time_ms: int
    reason: x509.ReasonFlags = x509.ReasonFlags.unspecified


def pem(certificates: Iterable[x509.Certificate]) -> bytes:
    """Certificates one after the other, PEM."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def issuer_id(certificate: x509.Certificate) -> str:
    """The key identifier of a certificate's issuer, hex: a name would not distinguish two CAs of one name.

    Raises ValueError where the certificate has none.
    """
    try:
        found = certificate.extensions.get_extension_for_oid(x509.AuthorityKeyIdentifier.oid).value
    except x509.ExtensionNotFound:
        found = None
    if not isinstance(found, x509.AuthorityKeyIdentifier) or found.key_identifier is None:
        raise ValueError("the certificate has no authority key identifier")
    return found.key_identifier.hex()


@frozen(kw_only=True)
class RootCa:
    """A trusted root.

    Attributes:
        number: counts all roots and issuing CAs that the fleet has had.
        key: None where it is offline.
    """

    number: int
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey | None = field(default=None, repr=False)


@frozen(kw_only=True)
class IssuingCa(KeyPair):
    """A CA that signs, or signed, end-entity certificates; its key also signs its revocation list."""

    number: int
    #: Its key identifier, hex: certificates refer to their issuer by it.
    id: str = field(init=False, default=Factory(lambda self: key_id(self.certificate), takes_self=True))


def key_id(certificate: x509.Certificate) -> str:
    """The subject key identifier, hex; all our certificates have one."""
    return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest.hex()


@frozen(kw_only=True)
class TrustBundle:
    """What the fleet trusts and signs with, at one moment; a change makes a new object. Lists are oldest first.

    Attributes:
        version: of the bundle for devices; rises with each change.
        issuing: under one of ``roots``.
        signing: the number of the CA that signs.
        cross: certificates of the newest root by the one before, for peers that trust only that one.
        former: issuing CAs that are no longer trusted, kept for their revocation lists.
        last: the highest number given so far.
    """

    version: int = 1
    roots: tuple[RootCa, ...]
    issuing: tuple[IssuingCa, ...]
    signing: int = 1
    cross: tuple[x509.Certificate, ...] = ()
    former: tuple[IssuingCa, ...] = ()
    last: int = 1

    @property
    def signer(self) -> IssuingCa:
        """The CA that signs."""
        return next(item for item in self.issuing if item.number == self.signing)

    def root_of(self, issuing: IssuingCa) -> RootCa | None:
        """The trusted root above an issuing CA, or None."""
        above = issuer_id(issuing.certificate)
        return next((root for root in self.roots if key_id(root.certificate) == above), None)

    def trusts(self, issuer: str) -> bool:
        """Whether certificates of the CA with this key identifier are trusted."""
        return any(item.id == issuer for item in self.issuing)

    def bundle(self) -> bytes:
        """What devices and brokers trust, PEM: the roots, and the issuing CAs for peers that send only their leaf."""
        return pem([*(root.certificate for root in self.roots), *(item.certificate for item in self.issuing)])


class Authority:
    """Signs certificates for devices, the server and services, and the revocation lists."""

    def __init__(self, fleet: str, clock: Clock, trust: TrustBundle) -> None:
        self.fleet = check_fleet(fleet)
        self._clock = clock
        self._trust = trust
        self._followers: list[Callable[[], None]] = []

    @classmethod
    def create(cls, fleet: str, clock: Clock) -> Self:
        """A new authority: a root and an issuing CA with fresh keys, in memory only."""
        check_fleet(fleet)
        root = make_root(fleet, 1, clock)
        return cls(fleet, clock, TrustBundle(roots=(root,), issuing=(make_issuing(fleet, 1, root, clock),)))

    @property
    def trust(self) -> TrustBundle:
        """What it trusts and signs with now."""
        return self._trust

    def install(self, trust: TrustBundle) -> None:
        """Uses ``trust`` from now on, and calls its followers."""
        self._trust = trust
        for follow in self._followers:
            follow()

    def on_change(self, follow: Callable[[], None]) -> None:
        """Calls ``follow()`` after each change of what is trusted."""
        self._followers.append(follow)

    @property
    def roots(self) -> tuple[x509.Certificate, ...]:
        """The trusted roots."""
        return tuple(root.certificate for root in self._trust.roots)

    @property
    def intermediates(self) -> tuple[x509.Certificate, ...]:
        """The trusted issuing CAs."""
        return tuple(item.certificate for item in self._trust.issuing)

    @property
    def issuing(self) -> IssuingCa:
        """The CA that signs, with its key."""
        return self._trust.signer

    @property
    def root_key(self) -> ec.EllipticCurvePrivateKey | None:
        """The newest root's key, or None where it is offline."""
        return self._trust.roots[-1].key

    @property
    def issuer(self) -> str:
        """The key identifier of the issuing CA, hex."""
        return self.issuing.id

    def chain_pem(self) -> bytes:
        """The chain between a leaf and the root, PEM, to be sent after the leaf."""
        return pem([self.issuing.certificate])

    def presented_pem(self) -> bytes:
        """The chain after the leaf of the server or a service, PEM; also for peers that trust only the root before.

        A peer that trusts the newest root ignores the cross certificate.
        """
        signer = self.issuing.certificate
        return pem([signer, *(cross for cross in self._trust.cross if key_id(cross) == issuer_id(signer))])

    def ca_pem(self) -> bytes:
        """What devices and brokers trust, PEM: see :meth:`TrustBundle.bundle`."""
        return self._trust.bundle()

    def issue_device(
        self, device: str, public_key: CertificatePublicKeyTypes, *, lifetime: dt.timedelta | None = None
    ) -> x509.Certificate:
        """A device's certificate: by default for 90 days, never beyond the issuing CA.

        Raises:
            Refused: the lifetime is outside a day to 400 days, or the id is not valid.
            FleetError: ``not_ready``; the issuing CA has expired.
        """
        lifetime = lifetime or SHAPES[Profile.DEVICE].lifetime
        shortest, longest = DEVICE_LIFETIMES
        if not shortest <= lifetime <= longest:
            raise Refused(f"A device's certificate lasts {shortest.days} to {longest.days} days, not {lifetime}")
        check_device_id(device)
        return self._leaf(Profile.DEVICE, device, public_key, device_names(self.fleet, device), lifetime)

    def issue_server(self, hosts: Sequence[str], *, key: ec.EllipticCurvePrivateKey | None = None) -> KeyPair:
        """The server's certificate for these DNS names and addresses; ``key`` keeps an existing key."""
        if not hosts:
            raise Refused("A server's certificate needs a host", remedy="Name the hosts that devices connect to")
        names = [host_name(host) for host in dict.fromkeys(hosts)]
        # X.509 allows a common name 64 characters (RFC 5280 appendix A); clients look at the SAN alone (RFC 9525).
        name = hosts[0] if len(hosts[0]) <= 64 else "fleetcore server"
        key = key or ec.generate_private_key(ec.SECP256R1())
        return KeyPair(certificate=self._leaf(Profile.SERVER, name, key.public_key(), names), key=key)

    def issue_service(self, name: str, *, key: ec.EllipticCurvePrivateKey | None = None) -> KeyPair:
        """A client certificate for one of our own services, such as the consumer behind a broker.

        ``key`` keeps an existing key.
        """
        key = key or ec.generate_private_key(ec.SECP256R1())
        names = [x509.UniformResourceIdentifier(service_uri(self.fleet, name))]
        return KeyPair(
            certificate=self._leaf(Profile.SERVICE, SERVICE_NAME.format(name=name), key.public_key(), names), key=key
        )

    def issue_takeover_certificate(self, device: str) -> KeyPair:
        """A certificate that a broker takes for the device's and fleetcore does not: connecting with it disconnects it.

        It lasts minutes, and its SAN names a service.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.UniformResourceIdentifier(service_uri(self.fleet, "takeover_certificate"))]
        pair = self._leaf(Profile.SERVICE, check_device_id(device), key.public_key(), names, dt.timedelta(minutes=5))
        return KeyPair(certificate=pair, key=key)

    def issue_claim(self, batch: str, *, lifetime: dt.timedelta) -> KeyPair:
        """The claim certificate of a batch and its key, for the factory.

        Raises:
            Refused: the lifetime is outside a day to 366 days.
            FleetError: ``not_ready``; the issuing CA has expired.
        """
        shortest, longest = CLAIM_LIFETIMES
        if not shortest <= lifetime <= longest:
            raise Refused(f"A claim certificate lasts {shortest.days} to {longest.days} days, not {lifetime}")
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.UniformResourceIdentifier(claim_uri(self.fleet, batch))]
        name = CLAIM_NAME.format(batch=batch)
        return KeyPair(certificate=self._leaf(Profile.CLAIM, name, key.public_key(), names, lifetime), key=key)

    def crl(self, entries: Iterable[RevokedEntry], number: int, issuing: IssuingCa | None = None) -> bytes:
        """An issuing CA's revocation list (RFC 5280 §5), PEM; ``number`` must rise with each list.

        By default that of the CA that signs.
        """
        now = _now(self._clock)
        issuing = issuing or self.issuing
        revoked = [
            x509.RevokedCertificateBuilder()
            .serial_number(entry.serial)
            .revocation_date(dt.datetime.fromtimestamp(entry.time_ms // 1000, dt.UTC))
            .add_extension(x509.CRLReason(entry.reason), critical=False)
            .build()
            if entry.reason is not x509.ReasonFlags.unspecified  # RFC 5280 §5.3.1: leave it out then
            else x509.RevokedCertificateBuilder()
            .serial_number(entry.serial)
            .revocation_date(dt.datetime.fromtimestamp(entry.time_ms // 1000, dt.UTC))
            .build()
            for entry in entries
        ]
        # Passed all at once: add_revoked_certificate copies the list each time, 28 s for 100,000 entries.
        builder = x509.CertificateRevocationListBuilder(
            issuing.certificate.subject, now, now + CRL_LIFETIME, revoked_certificates=revoked
        )
        return (
            builder.add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(issuing.key.public_key()), critical=False
            )
            .add_extension(x509.CRLNumber(number), critical=False)
            .sign(issuing.key, hashes.SHA256())
            .public_bytes(Encoding.PEM)
        )

    def _leaf(
        self,
        profile: Profile,
        name: str,
        public_key: CertificatePublicKeyTypes,
        names: Sequence[x509.GeneralName],
        lifetime: dt.timedelta | None = None,
    ) -> x509.Certificate:
        now = _now(self._clock)
        issuing = self.issuing.certificate
        if now >= issuing.not_valid_after_utc:
            raise FleetError(
                f"The issuing CA expired on {issuing.not_valid_after_utc:%Y-%m-%d}",
                code="not_ready",
                remedy="Make a new one under the root: fleetcore ca renew-issuing",
            )
        lifetime = min(lifetime or SHAPES[profile].lifetime, issuing.not_valid_after_utc - now)
        return _sign(profile, _name(name), public_key, issuing.subject, self.issuing.key, now, lifetime, names)


def make_root(fleet: str, number: int, clock: Clock) -> RootCa:
    """A new self-signed root."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"fleetcore root {fleet} {number}")
    lifetime = SHAPES[Profile.ROOT].lifetime
    certificate = _sign(Profile.ROOT, name, key.public_key(), name, key, _now(clock), lifetime)
    return RootCa(number=number, certificate=certificate, key=key)


def make_issuing(fleet: str, number: int, root: RootCa, clock: Clock) -> IssuingCa:
    """A new issuing CA under ``root``, whose key must be there; it ends with the root at the latest.

    Raises FleetError: ``not_ready``; the root has expired.
    """
    now = _now(clock)
    assert root.key is not None  # the caller has unlocked it
    above = root.certificate
    if now >= above.not_valid_after_utc:
        raise FleetError(
            f"The root expired on {above.not_valid_after_utc:%Y-%m-%d}",
            code="not_ready",
            remedy="Install a new root on every device by hand, and enrol it again",
        )
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"fleetcore issuing {fleet} {number}")
    lifetime = min(SHAPES[Profile.ISSUING].lifetime, above.not_valid_after_utc - now)
    certificate = _sign(Profile.ISSUING, name, key.public_key(), above.subject, root.key, now, lifetime)
    return IssuingCa(number=number, certificate=certificate, key=key)


def make_cross(root: RootCa, by: RootCa, clock: Clock) -> x509.Certificate:
    """The name and key of ``root``, signed by another root, whose key must be there; it ends with the first of them."""
    now = _now(clock)
    assert by.key is not None  # the caller has unlocked it
    ends = min(root.certificate.not_valid_after_utc, by.certificate.not_valid_after_utc)
    subject, above = root.certificate.subject, by.certificate.subject
    return _sign(Profile.ROOT, subject, root.certificate.public_key(), above, by.key, now, ends - now)


def _now(clock: Clock) -> dt.datetime:
    return dt.datetime.fromtimestamp(clock.now_ms() // 1000, dt.UTC)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _sign(
    profile: Profile,
    subject: x509.Name,
    public_key: CertificatePublicKeyTypes,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    now: dt.datetime,
    lifetime: dt.timedelta,
    names: Sequence[x509.GeneralName] = (),
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    )
    for extension, critical in extensions(profile, names):
        builder = builder.add_extension(extension, critical)
    return builder.sign(key, hashes.SHA256())
