"""Maps the certificate of a TLS peer to the device that it names, or to the reason for refusing it.

TLS has verified a chain before this, but not that the leaf is a device's, nor which. Everything is checked here again
on the DER itself. cryptography's ``x509.verification`` is outside its promise of compatibility, so only this file uses
it; it does not check revocation, which we add.

Besides devices' certificates two kinds allow enrolment only: a batch's claim certificate, and a registered
manufacturer's device certificate.
"""

import datetime as dt
import hashlib
import warnings
from collections.abc import Callable
from typing import TypeVar

from attrs import frozen
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import ExtensionPolicy, PolicyBuilder, Store, VerificationError

from fleetcore.errors import NotAuthenticated, NotAuthorised
from fleetcore.fleet.lru_cache import LruCache
from fleetcore.fleet.security.authority import Authority, issuer_id
from fleetcore.fleet.security.profiles import (
    Profile,
    check_leaf,
    claim_of,
    common_name,
    device_of,
    strong_key,
)
from fleetcore.fleet.security.requests import spki_of
from fleetcore.interfaces.clock import Clock
from fleetcore.model.credential import Refusal
from fleetcore.model.names import is_device_id

T = TypeVar("T")

_CLIENT = {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}

#: How many identities are cached; 100,000 devices that reconnect at once cost a digest each, and about 60 MB.
REMEMBERED = 100_000

#: The longest certificate that is read. Ours take 0.5 kB, one with RSA-4096 1.5 kB.
LIMIT_BYTES = 16 * 1024


@frozen(kw_only=True)
class Identity:
    """The content of a valid certificate.

    Attributes:
        issuer: key identifier of the CA that issued it, hex.
        serial: hex without leading zeros.
        spki: SHA-256 (hex) of its SubjectPublicKeyInfo.
        not_before, not_after: ms since the epoch.
    """

    device: str
    issuer: str
    serial: str
    spki: str
    not_before: int
    not_after: int

    @property
    def certificate(self) -> str:
        """The certificate's key in the inventory."""
        return certificate_key(self.issuer, self.serial)


@frozen(kw_only=True)
class Foreign:
    """The device that a manufacturer's certificate names, and its key (SHA-256, hex)."""

    device: str
    spki: str


def certificate_key(issuer: str, serial: str) -> str:
    """The key of a certificate in the inventory: serials are unique per issuer only (RFC 5280 §4.1.2.2)."""
    return f"{issuer}:{serial}"


def identity_of(certificate: x509.Certificate, device: str) -> Identity:
    """The identity in a certificate, without any check."""
    return Identity(
        device=device,
        issuer=issuer_id(certificate),
        serial=format(certificate.serial_number, "x"),
        spki=spki_of(certificate.public_key()),
        not_before=_ms(certificate.not_valid_before_utc),
        not_after=_ms(certificate.not_valid_after_utc),
    )


def _ms(time: dt.datetime) -> int:
    return int(time.timestamp()) * 1000


class CertificateVerifier:
    """Checks certificates for one fleet.

    Args:
        refused: returns why an issued certificate (by its key in the inventory) is refused now, or None.
    """

    def __init__(self, authority: Authority, clock: Clock, refused: Callable[[str], Refusal | None]) -> None:
        self._authority = authority
        self._clock = clock
        self._refused = refused
        self._known: LruCache[Identity] = LruCache(REMEMBERED)
        self._follow()
        authority.on_change(self._follow)

    def _follow(self) -> None:
        """Checks by the present trust; results under an earlier trust are dropped."""
        self._store = Store(list(self._authority.roots))
        self._intermediates = list(self._authority.intermediates)
        self._known.forget(lambda _identity: True)

    def check(self, der: bytes, *, grace_ms: int = 0) -> Identity | Refusal:
        """The device that the certificate names. Never raises, for any bytes.

        A valid certificate is cached by its digest; its dates and its revocation are checked each time.

        Args:
            grace_ms: how long ago it may have expired.
        """
        digest = hashlib.sha256(der).digest()
        known = self._known.get(digest)
        if known is None:
            judged = _judged(der, lambda certificate: self._device(certificate, grace_ms))
            if isinstance(judged, Refusal):
                return judged
            self._known.put(digest, judged)
            known = judged
        return _out_of_date(known, self._clock.now_ms(), grace_ms) or self._refused(known.certificate) or known

    def owner(self, der: bytes) -> str | None:
        """The device of a certificate that we have issued, even if it is refused by now; None where unknown."""
        known = self._known.get(hashlib.sha256(der).digest())
        return None if known is None else known.device

    def is_own_ca(self, ca: x509.Certificate) -> bool:
        """Whether its key belongs to one of our CAs."""
        trust = self._authority.trust
        ours = [root.certificate for root in trust.roots] + [
            item.certificate for item in (*trust.issuing, *trust.former)
        ]
        return spki_of(ca.public_key()) in {spki_of(item.public_key()) for item in ours}

    def check_claim(self, der: bytes) -> str | Refusal:
        """The batch that a claim certificate names; the batch decides whether it may still be used."""
        return _judged(der, self._claim)

    def check_foreign(self, der: bytes, ca: x509.Certificate) -> Foreign | Refusal:
        """The device that a manufacturer's certificate names, which ``ca`` itself has signed."""
        return _judged(der, lambda certificate: self._foreign(certificate, ca))

    def _device(self, certificate: x509.Certificate, grace_ms: int) -> Identity | Refusal:
        wrong = check_leaf(certificate, Profile.DEVICE)
        if wrong is not None:
            return wrong
        device = device_of(certificate, self._authority.fleet)
        if isinstance(device, Refusal):
            return device
        identity = identity_of(certificate, device)
        now = self._clock.now_ms()
        # Before the chain: the verifier's text for this is for people, and the reason is for machines.
        late = _out_of_date(identity, now, grace_ms)
        if late is not None:
            return late
        return identity if self._below_us(certificate, min(now, identity.not_after)) else Refusal.UNTRUSTED

    def _claim(self, certificate: x509.Certificate) -> str | Refusal:
        wrong = check_leaf(certificate, Profile.CLAIM)
        if wrong is not None:
            return wrong
        batch = claim_of(certificate, self._authority.fleet)
        if isinstance(batch, Refusal):
            return batch
        now = self._clock.now_ms()
        late = _out_of_date(certificate, now)
        if late is not None:
            return late
        return batch if self._below_us(certificate, now) else Refusal.UNTRUSTED

    def _foreign(self, certificate: x509.Certificate, ca: x509.Certificate) -> Foreign | Refusal:
        if not strong_key(certificate.public_key()):
            return Refusal.KEY_WEAK
        wrong = _no_client(certificate)
        if wrong is not None:
            return wrong
        now = self._clock.now_ms()
        late = _out_of_date(certificate, now)
        if late is not None:
            return late
        verifier = (
            PolicyBuilder()
            .store(Store([ca]))
            .time(_time(now))
            # A manufacturer's leaf follows its own profile (IEEE 802.1AR): often without a SAN or an extended key
            # usage.
            .extension_policies(ca_policy=ExtensionPolicy.webpki_defaults_ca(), ee_policy=ExtensionPolicy.permit_all())
            .build_client_verifier()
        )
        try:
            verifier.verify(certificate, [])
        except VerificationError:
            return Refusal.UNTRUSTED
        device = common_name(certificate.subject)
        if device is None or not is_device_id(device):
            return Refusal.ID_INVALID
        return Foreign(device=device, spki=spki_of(certificate.public_key()))

    def _below_us(self, certificate: x509.Certificate, at_ms: int) -> bool:
        verifier = PolicyBuilder().store(self._store).time(_time(at_ms)).build_client_verifier()
        try:
            verifier.verify(certificate, self._intermediates)
        except VerificationError:
            return False
        return True


def _no_client(certificate: x509.Certificate) -> Refusal | None:
    """Whether it is a CA, or made for another purpose than a client; missing extensions are accepted."""
    for extension in certificate.extensions:
        match extension.value:
            case x509.BasicConstraints(ca=True):
                return Refusal.IS_CA
            case x509.ExtendedKeyUsage() as usage if not _CLIENT & set(usage):
                return Refusal.EKU_WRONG
            case _:
                pass
    return None


def refused(why: Refusal, device: str | None = None) -> NotAuthorised | NotAuthenticated:
    """The error for a refused certificate: ``device_revoked`` or ``certificate_invalid``."""
    error = (
        NotAuthorised(f"The certificate is {why}", code="device_revoked", reason=why)
        if why in (Refusal.REVOKED, Refusal.SUPERSEDED, Refusal.NOT_ACTIVATED)
        else NotAuthenticated(f"The certificate is refused: {why}", code="certificate_invalid", reason=why)
    )
    if device is not None:
        error.ids["device"] = device
    return error


def _judged(der: bytes, read: Callable[[x509.Certificate], T | Refusal]) -> T | Refusal:
    if len(der) > LIMIT_BYTES:
        return Refusal.UNREADABLE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return read(x509.load_der_x509_certificate(der))
    except Exception:  # noqa: BLE001 - the parser's errors for hostile DER are an open set, TypeError among them
        return Refusal.UNREADABLE


def _time(ms: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(ms / 1000, dt.UTC)


def _out_of_date(dated: Identity | x509.Certificate, now_ms: int, grace_ms: int = 0) -> Refusal | None:
    if isinstance(dated, Identity):
        begins, ends = dated.not_before, dated.not_after
    else:
        begins, ends = _ms(dated.not_valid_before_utc), _ms(dated.not_valid_after_utc)
    if now_ms < begins:
        return Refusal.NOT_YET_VALID
    return Refusal.EXPIRED if now_ms > ends + grace_ms else None
