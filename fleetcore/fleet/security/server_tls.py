"""The fleet's TLS for listeners and for the consumer behind a broker: plugins get it as ``context.tls``."""

import datetime as dt
import ssl
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

from cryptography import x509

from fleetcore import files
from fleetcore.errors import ConfigError
from fleetcore.fleet.security.authority import KeyPair, issuer_id, pem
from fleetcore.fleet.security.folder import CONSUMER, PkiFolder
from fleetcore.fleet.security.profiles import names_of
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.provider import TlsMaterial, TlsProvider
from fleetcore.wire.tls import server_context

#: A server's certificate is renewed at this part of its lifetime, as a device's is.
_RENEW_AT = 2 / 3


class FleetTls(TlsProvider):
    """TLS contexts from a PKI folder; the listeners' contexts follow the server's certificate and the trusted CAs.

    Open listeners trust a new CA at once. A CA that is no longer trusted stays in their contexts until they are opened
    again, as OpenSSL cannot remove one from a store: the handshake of its devices succeeds, and the fleet's check after
    it, on every connection, refuses them.
    """

    def __init__(self, folder: PkiFolder, clock: Clock) -> None:
        self._folder, self._clock = folder, clock
        # Weak references: a context lives as long as its listener, whose end is not announced.
        self._contexts: weakref.WeakSet[ssl.SSLContext] = weakref.WeakSet()
        #: Contexts that could not take the renewed certificate yet, for example without free file descriptors.
        self._behind: weakref.WeakSet[ssl.SSLContext] = weakref.WeakSet()
        self._enrolling: weakref.WeakSet[ssl.SSLContext] = weakref.WeakSet()
        self._admitted: dict[str, None] = {}
        #: Called with the reason where a client's certificate ends a handshake.
        self.refused: Callable[[str], None] = lambda _why: None
        folder.authority.on_change(self._believe)

    def server(self, *, client_certificates: bool = True, enrolling: bool = False) -> ssl.SSLContext:
        """A listener's context; raises ConfigError where the server's certificate or key cannot be used."""
        self._server()  # names the file that lacks a part
        certificate, key = self._folder.server
        ca = self._trusted(enrolling=enrolling)
        try:
            context = server_context(
                certificate,
                key,
                ca,
                client_certificates=client_certificates,
                enrolling=enrolling,
                refused=self.certificate_refused,
            )
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"The server's certificate cannot be used: {error}", file=str(certificate)) from error
        self._contexts.add(context)
        if enrolling:
            self._enrolling.add(context)
        return context

    def material(self, *, enrolling: bool = False) -> TlsMaterial:
        self._server()
        certificate, key = self._folder.server
        return TlsMaterial(
            chain=certificate.read_bytes(), key=key.read_bytes(), trusted=self._trusted(enrolling=enrolling)
        )

    def _trusted(self, *, enrolling: bool) -> bytes:
        return self._folder.authority.ca_pem() + "".join(self._admitted if enrolling else ()).encode()

    def certificate_refused(self, why: str) -> None:
        self.refused(why)

    def admit(self, cas: Sequence[str]) -> None:
        """Accepts peers of manufacturers' CAs (PEM) in the handshake where devices enrol; it gives no rights."""
        for ca in cas:
            self._admitted[ca] = None
            for context in self._enrolling:
                context.load_verify_locations(cadata=ca)

    def _believe(self) -> None:
        bundle = self._folder.authority.ca_pem().decode()
        for context in list(self._contexts):
            if context.verify_mode is not ssl.CERT_NONE:
                context.load_verify_locations(cadata=bundle)

    def ca_bundle(self) -> bytes:
        return self._folder.authority.ca_pem()

    def takeover_certificate(self, device: str) -> tuple[bytes, bytes]:
        authority = self._folder.authority
        pair = authority.issue_takeover_certificate(device)
        return pem([pair.certificate]) + authority.presented_pem(), pair.key_pem()

    def service_client(self) -> tuple[Path, Path, Path]:
        return self._folder.service

    def expires(self) -> dt.datetime:
        """When the server's certificate expires."""
        return self._server().certificate.not_valid_after_utc

    def renew_if_due(self, now_ms: int | None = None) -> bool:
        """Renews the server's certificate at two thirds of its lifetime; returns whether it did.

        It also renews where another of our CAs signs now, or the chain to send has changed. Its names and its key stay:
        a certificate and its key are two files, and a crash must not leave a mixed pair. Open connections continue; new
        handshakes get the new certificate. If a listener cannot take it, it continues with the old one, the error is
        raised, and the next call tries again.
        """
        self._follow()
        pair, authority = self._server(), self._folder.authority
        hosts = [str(name.value) for name in names_of(pair.certificate) if not isinstance(name, x509.OtherName)]
        place = self._folder.server[0]
        if not self._renew(place, pair.certificate, now_ms, lambda: authority.issue_server(hosts, key=pair.key)):
            return False
        self._behind.update(self._contexts)
        self._follow()
        return True

    def renew_service_if_due(self, now_ms: int | None = None) -> bool:
        """The same for the certificate that fleetcore uses as a broker's client, also with the same key."""
        pair, authority = self._folder.service_pair(), self._folder.authority
        place = self._folder.service[0]
        return self._renew(place, pair.certificate, now_ms, lambda: authority.issue_service(CONSUMER, key=pair.key))

    def _renew(self, place: Path, old: x509.Certificate, now_ms: int | None, issue: Callable[[], KeyPair]) -> bool:
        authority = self._folder.authority
        trust = authority.trust
        # A certificate by another CA is kept until it is due.
        ours = _issuer(old) in {item.id for item in (*trust.issuing, *trust.former)}
        due = self._due(old, now_ms) or (ours and _issuer(old) != authority.issuer)
        leaf = issue().certificate if due else old
        content = pem([leaf]) + authority.presented_pem()
        if not due and (not ours or place.read_bytes() == content):
            return False
        files.replace(place, content)
        return True

    def _due(self, certificate: x509.Certificate, now_ms: int | None) -> bool:
        began, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        now = dt.datetime.fromtimestamp((self._clock.now_ms() if now_ms is None else now_ms) / 1000, dt.UTC)
        return now >= began + (ends - began) * _RENEW_AT

    def _follow(self) -> None:
        for context in list(self._behind):
            context.load_cert_chain(*self._folder.server)
            self._behind.discard(context)

    def _server(self) -> KeyPair:
        return self._folder.server_pair()


def _issuer(certificate: x509.Certificate) -> str | None:
    try:
        return issuer_id(certificate)
    except ValueError:
        return None
