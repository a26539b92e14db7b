"""The fleet's TLS for listeners and for the consumer behind a broker: what plugins are lent as ``context.tls``."""

import datetime as dt
import ssl
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

from cryptography import x509

from fleetcore.errors import ConfigError
from fleetcore.fleet.security.authority import KeyPair, pem
from fleetcore.fleet.security.folder import CONSUMER, PkiFolder, write_private
from fleetcore.fleet.security.profiles import names_of
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.provider import TlsProvider
from fleetcore.wire.tls import server_context

#: A server's certificate is renewed at this part of its lifetime, as a device's is.
_RENEW_AT = 2 / 3


class FleetTls(TlsProvider):
    """TLS contexts from a PKI folder; the listeners' follow the renewal of the server's certificate."""

    def __init__(self, folder: PkiFolder, clock: Clock) -> None:
        self._folder, self._clock = folder, clock
        # Weak: a context lives as long as its listener, and nobody says when one is closed.
        self._contexts: weakref.WeakSet[ssl.SSLContext] = weakref.WeakSet()
        #: Contexts that could not take the renewed certificate yet, out of file descriptors for one.
        self._behind: weakref.WeakSet[ssl.SSLContext] = weakref.WeakSet()
        self._enrolling: weakref.WeakSet[ssl.SSLContext] = weakref.WeakSet()
        self._admitted: dict[str, None] = {}
        #: Called with the reason where a handshake ends by a client's certificate.
        self.refused: Callable[[str], None] = lambda _why: None

    def server(self, *, client_certificates: bool = True, enrolling: bool = False) -> ssl.SSLContext:
        """A listener's context; raises ConfigError where the server's certificate or key cannot be used."""
        certificate, key = self._folder.server
        ca = self._folder.authority.ca_pem() + "".join(self._admitted if enrolling else ()).encode()
        try:
            context = server_context(
                certificate,
                key,
                ca,
                client_certificates=client_certificates,
                enrolling=enrolling,
                refused=self._told,
            )
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"The server's certificate cannot be used: {error}", file=str(certificate)) from error
        self._contexts.add(context)
        if enrolling:
            self._enrolling.add(context)
        return context

    def _told(self, why: str) -> None:
        self.refused(why)

    def admit(self, cas: Sequence[str]) -> None:
        """Lets peers of manufacturers' CAs (PEM) through the handshake where devices enrol; it gives no rights."""
        for ca in cas:
            self._admitted[ca] = None
            for context in self._enrolling:
                context.load_verify_locations(cadata=ca)

    def ca_bundle(self) -> bytes:
        return self._folder.authority.ca_pem()

    def evictor(self, device: str) -> tuple[bytes, bytes]:
        authority = self._folder.authority
        pair = authority.issue_evictor(device)
        return pem([pair.certificate]) + authority.chain_pem(), pair.key_pem()

    def service_client(self) -> tuple[Path, Path, Path]:
        return self._folder.service

    def expires(self) -> dt.datetime:
        """When the server's certificate expires."""
        return self._server().certificate.not_valid_after_utc

    def renew_if_due(self, now_ms: int | None = None) -> bool:
        """Renews the server's certificate at two thirds of its lifetime and says whether it did.

        Its names and its key stay: a certificate and its key are two files, and no crash may leave one of each pair.
        Connections that are open go on; new handshakes get the new certificate. Where a listener cannot take it the
        old one serves on, the error is raised, and the next call tries again.
        """
        self._follow()
        pair = self._server()
        if not self._due(pair.certificate, now_ms):
            return False
        authority = self._folder.authority
        hosts = [str(name.value) for name in names_of(pair.certificate) if not isinstance(name, x509.OtherName)]
        renewed = authority.issue_server(hosts, key=pair.key)
        write_private(self._folder.server[0], pem([renewed.certificate]) + authority.chain_pem())
        self._behind.update(self._contexts)
        self._follow()
        return True

    def renew_service_if_due(self, now_ms: int | None = None) -> bool:
        """The same for the certificate by which fleetcore is a client of a broker, with its own key again."""
        path, _, _ = self._folder.service
        pair = self._folder.service_pair()
        if not self._due(pair.certificate, now_ms):
            return False
        renewed = self._folder.authority.issue_service(CONSUMER, key=pair.key)
        write_private(path, pem([renewed.certificate]) + self._folder.authority.chain_pem())
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
