"""From the certificate of a TLS peer to the device it names, or to the reason why it names none.

TLS has verified a chain when this is asked, but not that the leaf is one of a device, nor which. Everything is judged
here again on the DER itself. cryptography's ``x509.verification`` stands outside its promise of compatibility, so this
is the only file that uses it; it knows no revocation, which is ours to add.
"""

import datetime as dt
import hashlib
import warnings
from collections.abc import Callable

from attrs import frozen
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from fleetcore.fleet.security.authority import Authority, issuer_id
from fleetcore.fleet.security.profiles import Profile, Refusal, check_leaf, device_of
from fleetcore.fleet.security.recent import Recent
from fleetcore.fleet.security.requests import spki_of
from fleetcore.interfaces.clock import Clock

#: Identities kept; 100,000 devices that reconnect at once cost a digest each, and about 60 MB.
REMEMBERED = 100_000

#: Longest certificate looked at. Ours take 0.5 kB, one with RSA-4096 1.5 kB.
LIMIT_BYTES = 16 * 1024


@frozen(kw_only=True)
class Identity:
    """What a good certificate says.

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


def certificate_key(issuer: str, serial: str) -> str:
    """The inventory's name of a certificate: serials are unique per issuer only (RFC 5280 §4.1.2.2)."""
    return f"{issuer}:{serial}"


def identity_of(certificate: x509.Certificate, device: str) -> Identity:
    """The identity that a certificate states; nothing is checked."""
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
    """Judges certificates for one fleet.

    Args:
        refused: why a certificate (by its key in the inventory) is refused now although it was issued, or None.
    """

    def __init__(self, authority: Authority, clock: Clock, refused: Callable[[str], Refusal | None]) -> None:
        self._authority = authority
        self._clock = clock
        self._refused = refused
        self._store = Store(list(authority.roots))
        self._known: Recent[Identity] = Recent(REMEMBERED)

    def check(self, der: bytes) -> Identity | Refusal:
        """Who the certificate names. Never raises, whatever the bytes.

        A good certificate is remembered by its digest; its dates and its revocation are looked at each time.
        """
        digest = hashlib.sha256(der).digest()
        known = self._known.get(digest)
        if known is None:
            judged = self._judge(der)
            if isinstance(judged, Refusal):
                return judged
            self._known.put(digest, judged)
            known = judged
        return _out_of_date(known, self._clock.now_ms()) or self._refused(known.certificate) or known

    def _judge(self, der: bytes) -> Identity | Refusal:
        if len(der) > LIMIT_BYTES:
            return Refusal.UNREADABLE
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                return self._read(x509.load_der_x509_certificate(der))
        except Exception:  # noqa: BLE001 - the parser's errors for hostile DER are no closed set, TypeError among them
            return Refusal.UNREADABLE

    def _read(self, certificate: x509.Certificate) -> Identity | Refusal:
        wrong = check_leaf(certificate, Profile.DEVICE)
        if wrong is not None:
            return wrong
        device = device_of(certificate, self._authority.fleet)
        if isinstance(device, Refusal):
            return device
        identity = identity_of(certificate, device)
        now = self._clock.now_ms()
        # Before the chain: the verifier's words for this are for people, and the reason is for machines.
        late = _out_of_date(identity, now)
        if late is not None:
            return late
        try:
            verifier = (
                PolicyBuilder().store(self._store).time(dt.datetime.fromtimestamp(now / 1000, dt.UTC))
            ).build_client_verifier()
            verifier.verify(certificate, list(self._authority.intermediates))
        except VerificationError:
            return Refusal.UNTRUSTED
        return identity


def _out_of_date(identity: Identity, now_ms: int) -> Refusal | None:
    if now_ms < identity.not_before:
        return Refusal.NOT_YET_VALID
    return Refusal.EXPIRED if now_ms > identity.not_after else None
