"""The gateway's credentials at the core: one file with certificate and key, replaced in one step, and the core's CAs.

The certificate is renewed after two thirds of its life, or when the core asks. The one before stays beside the new one
until that has connected, so a gateway never stands without a certificate that the core accepts.
"""

import contextlib
import hashlib
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fleetcore import files
from fleetcore.errors import ConfigError, FleetError
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.protocol import DeviceSecrets
from fleetcore.model.message import Reply
from fleetcore.wire.identity import issued_chain, make_csr, make_key
from fleetcore.wire.replies import error_of

_log = logging.getLogger(__name__)

IDENTITY, BEFORE, CA = "identity.pem", "identity.before.pem", "ca.pem"
#: The key of an enrolment that waits for its certificate.
_PENDING = "enrolling.pem"
_AGAIN = "Enrol the gateway again: fleetcore edge enroll"
_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----.+?-----END [A-Z ]*PRIVATE KEY-----\n?", re.DOTALL)


def issued_ms(folder: Path) -> int:
    """A time that has passed by the gateway's certificate, ms since the epoch; 0 where there is none."""
    try:
        return not_before_ms(_KEY.sub(b"", (folder / IDENTITY).read_bytes()))
    except (OSError, ValueError):
        return 0


def not_before_ms(chain: bytes) -> int:
    """From when on a certificate is valid, ms since the epoch. Raises ValueError where the PEM holds none."""
    return round(x509.load_pem_x509_certificates(chain)[0].not_valid_before_utc.timestamp() * 1000)


class Credentials:
    """The credentials in a folder.

    Args:
        token: a device token instead of a certificate, or None.

    Attributes:
        renewals: certificates that were renewed.
        error: why the last renewal failed, or empty.
    """

    def __init__(self, folder: Path, gateway: str, clock: Clock, *, token: Callable[[], str] | None = None) -> None:
        self._folder, self.gateway, self._clock, self._token = folder, gateway, clock, token
        self.renewals, self.error = 0, ""
        self._obeyed: object = None
        self._fall_back = False

    def secrets(self) -> DeviceSecrets:
        """The present credentials. Raises ConfigError where there are none, or where they are damaged."""
        bundle = self._bundle()
        if self._token is not None:
            return DeviceSecrets(device=self.gateway, ca=bundle, token=self._token(), now_ms=self._clock.known_ms)
        before = self._folder / BEFORE
        file = before if self._fall_back and before.exists() else self._folder / IDENTITY
        try:
            text = file.read_bytes()
        except OSError as error:
            raise ConfigError(
                f"The gateway's credentials {file} cannot be read: {error.strerror}",
                remedy="Enrol the gateway: fleetcore edge enroll",
            ) from error
        key = _KEY.search(text)
        if key is None:
            raise ConfigError(f"{file} holds no private key", remedy=_AGAIN)
        certificate = _KEY.sub(b"", text)
        try:
            leaf = x509.load_pem_x509_certificates(certificate)[0]
            is_pair = leaf.public_key() == serialization.load_pem_private_key(key[0], None).public_key()
        except ValueError as error:
            raise ConfigError(f"{file} is damaged", remedy=_AGAIN) from error
        if not is_pair:
            raise ConfigError(f"{file} holds the certificate of another key", remedy=_AGAIN)
        return DeviceSecrets(
            device=self.gateway, certificate=certificate, key=key[0], ca=bundle, now_ms=self._clock.known_ms
        )

    def bare(self, ca: bytes) -> DeviceSecrets:
        """What the gateway enrols with: the CAs that the core is trusted by, and no certificate yet."""
        return DeviceSecrets(device=self.gateway, ca=ca, now_ms=self._clock.known_ms)

    def _bundle(self) -> bytes | None:
        """The CAs that the core is trusted by; None for those of the machine."""
        file = self._folder / CA
        if not file.exists():
            return None
        bundle = file.read_bytes()
        try:
            x509.load_pem_x509_certificates(bundle)
        except ValueError as error:
            raise ConfigError(
                f"{file} holds no certificate of a CA", remedy="Copy pki/ca.pem of the core's data folder there"
            ) from error
        return bundle

    def pending_key(self) -> tuple[ec.EllipticCurvePrivateKey, bytes]:
        """The key to enrol with, and its PEM: a new one, or that of an enrolment that still waits for approval."""
        pending = self._folder / _PENDING
        with contextlib.suppress(FileNotFoundError, ValueError):  # one that is damaged is made anew
            pem = pending.read_bytes()
            key = serialization.load_pem_private_key(pem, None)
            if isinstance(key, ec.EllipticCurvePrivateKey):
                return key, pem
        pem, key = make_key()
        files.make_private(self._folder)
        files.replace(pending, pem)
        return key, pem

    def keep(self, chain: bytes, key: bytes) -> None:
        """Replaces certificate and key, in one step."""
        files.make_private(self._folder)
        identity = self._folder / IDENTITY
        if identity.exists():
            files.replace(self._folder / BEFORE, identity.read_bytes())
        files.replace(identity, chain.rstrip() + b"\n" + key)
        (self._folder / _PENDING).unlink(missing_ok=True)

    def keep_ca(self, bundle: bytes) -> None:
        """Replaces the CA certificates that the core is trusted by."""
        files.make_private(self._folder)
        files.replace(self._folder / CA, bundle)

    def connected(self) -> None:
        """The core has accepted the present certificate: the one before is no longer needed."""
        if not self._fall_back:
            (self._folder / BEFORE).unlink(missing_ok=True)

    def refused(self) -> None:
        """The core has refused it: next time the other one is tried, where there are two."""
        self._fall_back = not self._fall_back and (self._folder / BEFORE).exists()

    def is_due(self) -> bool:
        """Whether two thirds of the certificate's life are over."""
        if self._token is not None:
            return False
        leaf = x509.load_pem_x509_certificates(self.secrets().certificate or b"")[0]
        begin, end = (round(at.timestamp() * 1000) for at in (leaf.not_valid_before_utc, leaf.not_valid_after_utc))
        return self._clock.now_ms() >= begin + (end - begin) * 2 // 3

    async def renew(self, request: Callable[[bytes], Awaitable[Reply]]) -> None:
        """Asks for a certificate with a new key, and keeps it. Raises FleetError where the core refuses."""
        pem, key = make_key()
        reply = await request(make_csr(self.gateway, key))
        if reply.error is not None:
            error: FleetError = error_of(reply)
            self.error = f"{error.code}: {error.message}"
            raise error
        body = reply.body or {}
        self.keep(issued_chain(body), pem)
        self.renewals, self.error = self.renewals + 1, ""
        _log.info("The gateway's certificate at the core is renewed")

    def asks(self, wanted: Mapping[str, object]) -> bool:
        """Whether the core asks, by ``desired.fleetcore``, for a renewal that was not made yet."""
        value = wanted.get("renew")
        asks = value is not None and value != self._obeyed
        self._obeyed = value
        return asks

    def adopt(self, wanted: Mapping[str, object]) -> Mapping[str, object] | None:
        """Takes the bundle of ``desired.fleetcore.trust``; returns what to report, or None where it is not intact."""
        trust = wanted.get("trust")
        if not isinstance(trust, Mapping):
            return None
        bundle = str(trust.get("ca")).encode()
        if hashlib.sha256(bundle).hexdigest() != trust.get("sha256"):
            return None
        there = self._folder / CA
        if not there.exists() or there.read_bytes() != bundle:
            self.keep_ca(bundle)
        return {"fleetcore": {"trust": {"version": trust.get("version"), "sha256": trust.get("sha256")}}}
