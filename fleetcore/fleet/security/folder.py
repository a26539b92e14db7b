"""Where a fleet's keys lie on disk: ``<data>/pki``, mode 0700, every file in it 0600.

    root.pem issuing.pem            the CAs; root.key may be taken away and kept offline
    root.key issuing.key            their keys, encrypted where a passphrase is set
    server.pem server.key           the listeners' chain and key
    service.pem service.key         by which fleetcore is a client of a broker
    command.key command.pub         Ed25519, signs commands
    ca.pem crl.pem                  what devices and brokers are given

The folder appears whole or not at all: it is made beside its place and renamed. Nothing here is ever overwritten by
``create``; single files are replaced by rename.
"""

import os
import shutil
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from attrs import field, frozen
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from fleetcore.errors import ConfigError, Conflict, NotFound
from fleetcore.fleet.security.authority import Authority, KeyPair, pem
from fleetcore.fleet.security.profiles import names_of, service_uri
from fleetcore.interfaces.clock import Clock

_PRIVATE_FOLDER, _PRIVATE_FILE = 0o700, 0o600

#: The name of the service certificate; its common name is ``fleetcore:consumer``.
CONSUMER = "consumer"


def write_private(path: Path, content: bytes) -> None:
    """Replaces a file atomically and durably; nobody but the owner can read it at any moment."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)  # mode 0600 by its promise
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@frozen(kw_only=True)
class PkiFolder:
    """An opened PKI folder: the authority, and the paths of what others read."""

    path: Path
    authority: Authority
    command_key: ed25519.Ed25519PrivateKey = field(repr=False)

    @property
    def server(self) -> tuple[Path, Path]:
        """Paths of the server's chain and key."""
        return self.path / "server.pem", self.path / "server.key"

    def server_pair(self) -> KeyPair:
        """The server's certificate and key; raises ConfigError where they cannot be read."""
        certificate, key = self.server
        return KeyPair(certificate=_certificate(certificate), key=_ec_key(key, None))

    def service_pair(self) -> KeyPair:
        """The consumer's certificate and key; raises ConfigError where they cannot be read."""
        certificate, key, _ = self.service
        return KeyPair(certificate=_certificate(certificate), key=_ec_key(key, None))

    @property
    def service(self) -> tuple[Path, Path, Path]:
        """Paths of the consumer's chain, its key and the CA bundle."""
        return self.path / "service.pem", self.path / "service.key", self.path / "ca.pem"

    @property
    def crl(self) -> Path:
        """Where the revocation list is written for brokers."""
        return self.path / "crl.pem"

    @classmethod
    def create(
        cls, path: Path, fleet: str, hosts: Sequence[str], clock: Clock, *, passphrase: str | None = None
    ) -> Self:
        """Makes a fleet's CA and everything else the folder holds.

        Args:
            path: the folder; must not exist. Its parent is made where missing.
            fleet: the fleet's name, part of every identity.
            clock: what the certificates' dates follow.
            hosts: DNS names and addresses by which devices reach the server.
            passphrase: encrypts the keys of the CAs and the command key. The server's and the service's keys are
                read unattended, by others too, and stay plain.

        Raises:
            Conflict: the folder exists. Keys are never overwritten.
            Refused: the fleet or a host has an impossible name; nothing is made.
        """
        if path.exists():
            raise Conflict(f"{path} exists", remedy="Keep it: a new CA would lock every enrolled device out")
        authority = Authority.create(fleet, clock)
        command_key = ed25519.Ed25519PrivateKey.generate()
        server, service = authority.issue_server(hosts), authority.issue_service(CONSUMER)
        root_key = authority.root_key
        assert root_key is not None  # just created
        files = {
            "root.pem": pem(authority.roots),
            "root.key": _key_pem(root_key, passphrase),
            "issuing.pem": authority.chain_pem(),
            "issuing.key": _key_pem(authority.issuing.key, passphrase),
            "server.pem": pem([server.certificate]) + authority.chain_pem(),
            "server.key": server.key_pem(),
            "service.pem": pem([service.certificate]) + authority.chain_pem(),
            "service.key": service.key_pem(),
            "command.key": _key_pem(command_key, passphrase),
            "command.pub": command_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
            "ca.pem": authority.ca_pem(),
            "crl.pem": authority.crl([], 1),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))  # mode 0700 by its promise
        try:
            for name, content in files.items():
                write_private(made / name, content)
            _sync_folder(made)
            try:
                made.rename(path)  # onto an empty folder it succeeds; onto one with files it fails, as it must
            except OSError as error:
                raise Conflict(f"{path} was made meanwhile by another process") from error
            _sync_folder(path.parent)
        finally:
            shutil.rmtree(made, ignore_errors=True)
        return cls(path=path, authority=authority, command_key=command_key)

    @classmethod
    def load(cls, path: Path, fleet: str, clock: Clock, *, passphrase: str | None = None) -> Self:
        """Opens an existing folder.

        Raises:
            NotFound: there is none.
            ConfigError: a file is missing, unreadable, readable by others, or does not belong to the rest.
        """
        if not path.is_dir():
            raise NotFound(f"There is no PKI folder {path}", remedy="Run `fleetcore init`")
        for place in (path, *path.glob("*.key")):
            _check_private(place)
        root = _certificate(path / "root.pem")
        _check_fleet(path / "service.pem", fleet)
        issuing = KeyPair(certificate=_certificate(path / "issuing.pem"), key=_ec_key(path / "issuing.key", passphrase))
        if issuing.key.public_key() != issuing.certificate.public_key():
            raise ConfigError("The key is not that of issuing.pem", file=str(path / "issuing.key"))
        try:
            issuing.certificate.verify_directly_issued_by(root)
        except Exception as error:  # three families of cryptography's, and all mean the same here
            raise ConfigError("The issuing CA is not below root.pem", file=str(path / "issuing.pem")) from error
        root_key = path / "root.key"
        authority = Authority(
            fleet,
            clock,
            root=root,
            root_key=_ec_key(root_key, passphrase) if root_key.exists() else None,
            issuing=issuing,
        )
        command_key = _private_key(path / "command.key", passphrase)
        if not isinstance(command_key, ed25519.Ed25519PrivateKey):
            raise ConfigError("The command key is not Ed25519", file=str(path / "command.key"))
        return cls(path=path, authority=authority, command_key=command_key)


def _check_fleet(service: Path, fleet: str) -> None:
    """The fleet's name is in every identity: under another one nobody could come in any more."""
    wanted = service_uri(fleet, CONSUMER)
    found = [name.value for name in names_of(_certificate(service))]
    if found != [wanted]:
        raise ConfigError(
            f"The CA was made for another fleet than {fleet!r}: {', '.join(map(str, found))}",
            file=str(service),
            remedy="Give [fleet] the name that it had, or make a new data folder",
        )


def _sync_folder(path: Path) -> None:
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _key_pem(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey, passphrase: str | None) -> bytes:
    encryption: KeySerializationEncryption = (
        BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
    )
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def _check_private(path: Path) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if os.name == "posix" and mode & 0o077:
        want = _PRIVATE_FOLDER if path.is_dir() else _PRIVATE_FILE
        raise ConfigError(
            f"Others can reach it (mode {mode:04o})", file=str(path), remedy=f"Run `chmod {want:o} {path}`"
        )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"Cannot be read: {error.strerror}", file=str(path)) from error


def _certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(_read(path))
    except ValueError as error:
        raise ConfigError("Is no certificate", file=str(path)) from error


def _private_key(path: Path, passphrase: str | None) -> PrivateKeyTypes:
    content = _read(path)
    encrypted = b"ENCRYPTED" in content
    if encrypted and not passphrase:
        raise ConfigError("The key is encrypted", file=str(path), remedy="Set [ca] passphrase to env:NAME or file:PATH")
    try:
        return load_pem_private_key(content, passphrase.encode() if encrypted and passphrase else None)
    except ValueError as error:
        raise ConfigError(
            "The key cannot be read" + (": a wrong passphrase, or damage" if encrypted else ""), file=str(path)
        ) from error


def _ec_key(path: Path, passphrase: str | None) -> ec.EllipticCurvePrivateKey:
    key = _private_key(path, passphrase)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError("The key is not an EC key", file=str(path))
    return key
