"""A CA for one test run: a root, and the certificates of a server, a service and any device.

It replaces a fleet's own CA, also as the :class:`~fleetcore.interfaces.provider.TlsProvider` of a context. Its
certificates are valid for two days of the machine's real time, whatever a test's clock says: TLS uses the system's
clock.
"""

import datetime as dt
import shutil
import ssl
import tempfile
import weakref
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

from attrs import field, frozen
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from fleetcore.interfaces.protocol import DeviceSecrets
from fleetcore.interfaces.provider import TlsMaterial
from fleetcore.testing.certificates import CLIENT, SERVER, Forged, forge
from fleetcore.wire.tls import server_context

_LASTS = dt.timedelta(days=2)


@frozen(kw_only=True)
class Identity:
    """A certificate and its key, PEM, and their files."""

    certificate: bytes
    key: bytes = field(repr=False)
    certificate_path: Path
    key_path: Path

    @property
    def der(self) -> bytes:
        """The certificate, DER."""
        return x509.load_pem_x509_certificate(self.certificate).public_bytes(Encoding.DER)


class ThrowawayCa:
    """The CA; see the module.

    Args:
        folder: the folder of its files; by default a new one, deleted with the CA.
        fleet: the fleet's name in the certificates of devices.

    Attributes:
        pem, path: the root certificate, and its file.
        refusals: why client certificates ended handshakes, where the listener reports it.
    """

    def __init__(self, folder: Path | None = None, *, fleet: str = "default") -> None:
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="fleetcore-ca-"))
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._folder, self._fleet = folder, fleet
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._root = _root(self._key)
        self.pem = self._root.public_bytes(Encoding.PEM)
        self.path = self._write("ca.pem", self.pem)
        self._made: dict[str, Identity] = {}
        self.refusals: list[str] = []

    # identities

    def device(self, name: str) -> Identity:
        """A device's certificate; the same one at each call."""
        return self._issue(name, name, [x509.UniformResourceIdentifier(f"urn:fleetcore:device:{self._fleet}:{name}")])

    def another(self, name: str, key: CertificateIssuerPrivateKeyTypes | None = None) -> Forged:
        """Another certificate of a device, as after a renewal; with a new key unless one is given."""
        return forge(self._root, self._key, fleet=self._fleet, device=name, key=key, lasts=_LASTS)

    def server_identity(self) -> Identity:
        """The certificate of a server on this machine: ``localhost``, ``127.0.0.1`` and ``::1``."""
        addresses = [x509.IPAddress(ip_address(address)) for address in ("127.0.0.1", "::1")]
        return self._issue("server", "localhost", [x509.DNSName("localhost"), *addresses], usage=SERVER)

    def service_identity(self) -> Identity:
        """The certificate with which fleetcore connects to a broker."""
        return self._issue("service", "fleetcore", [x509.DNSName("fleetcore")])

    def secrets(self, device: str, *, token: str | None = None) -> DeviceSecrets:
        """A device's credentials: its certificate, or ``token`` instead."""
        if token is not None:
            return DeviceSecrets(device=device, ca=self.pem, token=token)
        own = self.device(device)
        return DeviceSecrets(device=device, certificate=own.certificate, key=own.key, ca=self.pem)

    def revoke(self, *devices: str) -> Path:
        """Writes a revocation list of exactly these devices, PEM; returns its file."""
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._root.subject)
            .last_update(now - dt.timedelta(minutes=1))
            .next_update(now + _LASTS)
        )
        for device in devices:
            serial = x509.load_pem_x509_certificate(self.device(device).certificate).serial_number
            revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
            builder = builder.add_revoked_certificate(revoked)
        return self._write("crl.pem", builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))

    # TlsProvider

    def server(self, *, client_certificates: bool = True, enrolling: bool = False) -> ssl.SSLContext:
        """A listener's context."""
        own = self.server_identity()
        return server_context(
            own.certificate_path,
            own.key_path,
            self.pem,
            client_certificates=client_certificates,
            enrolling=enrolling,
        )

    def material(self, *, enrolling: bool = False) -> TlsMaterial:
        """The server's chain and key, and the root."""
        del enrolling
        own = self.server_identity()
        return TlsMaterial(chain=own.certificate, key=own.key, trusted=self.pem)

    def certificate_refused(self, why: str) -> None:
        """Records the reason in ``refusals``."""
        self.refusals.append(why)

    def ca_bundle(self) -> bytes:
        """The root certificate, PEM."""
        return self.pem

    def service_client(self) -> tuple[Path, Path, Path]:
        """Paths of the service's certificate and key, and of the root."""
        own = self.service_identity()
        return own.certificate_path, own.key_path, self.path

    def takeover_certificate(self, device: str) -> tuple[bytes, bytes]:
        """A certificate and key, PEM, with which a broker takes the client for ``device``."""
        own = self.device(device)
        return own.certificate, own.key

    def _issue(
        self, name: str, cn: str, names: Sequence[x509.GeneralName], *, usage: x509.ObjectIdentifier = CLIENT
    ) -> Identity:
        if name not in self._made:
            made = forge(
                self._root, self._key, fleet=self._fleet, device=name, cn=cn, names=names, usages=(usage,), lasts=_LASTS
            )
            self._made[name] = Identity(
                certificate=made.pem,
                key=made.key_pem,
                certificate_path=self._write(f"{name}.pem", made.pem),
                key_path=self._write(f"{name}.key", made.key_pem),
            )
        return self._made[name]

    def _write(self, name: str, content: bytes) -> Path:
        path = self._folder / name
        path.write_bytes(content)
        return path


def _root(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Throwaway root")])
    now = dt.datetime.now(dt.UTC)
    usage = dict.fromkeys(
        ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
         "encipher_only", "decipher_only"), False,
    )  # fmt: skip
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + _LASTS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(key_cert_sign=True, crl_sign=True, **usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
