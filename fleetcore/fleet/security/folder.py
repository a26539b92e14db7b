"""A fleet's keys on disk: ``<data>/pki``, mode 0700, every file in it 0600.

    root.pem issuing.pem            the first CAs; root.key may be taken away and kept offline
    root.key issuing.key            their keys, encrypted where a passphrase is set
    root-2.pem issuing-3.key …      CAs that came later, by their number
    cross-2.pem                     the second root by the one before
    generations.json                which of them are trusted and which signs; without it, the first do
    server.pem server.key           the listeners' chain and key
    service.pem service.key         by which fleetcore is a client of a broker
    command.key command.pub         Ed25519, signs commands
    ca.pem crl.pem                  what devices and brokers are given
    fleet.id                        whose keys these are: the fleet's id, as fleet.toml and the store have it

The folder appears whole or not at all: it is made beside its place and renamed. ``create`` never overwrites anything;
single files are replaced by rename. A change of the CAs takes effect when ``generations.json`` is replaced: files that
it does not name belong to an incomplete change, and :meth:`PkiFolder.reconcile` makes the files that follow from it
again.
"""

import json
import os
import shlex
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

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

from fleetcore import files
from fleetcore.errors import ConfigError, Conflict, NotFound
from fleetcore.fleet.security.authority import Authority, IssuingCa, KeyPair, RootCa, TrustBundle, key_id, pem
from fleetcore.fleet.security.profiles import names_of, service_uri
from fleetcore.interfaces.clock import Clock

#: The name of the service certificate; its common name is ``fleetcore:consumer``.
CONSUMER = "consumer"

_GENERATIONS = "generations.json"


@frozen(kw_only=True)
class PkiFolder:
    """An opened PKI folder: the authority, and the paths of files for others."""

    path: Path
    authority: Authority
    command_key: ed25519.Ed25519PrivateKey = field(repr=False)
    passphrase: str | None = field(default=None, repr=False)

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
        """The path of the revocation list for brokers."""
        return self.path / "crl.pem"

    @classmethod
    def create(
        cls,
        path: Path,
        fleet: str,
        hosts: Sequence[str],
        clock: Clock,
        *,
        identity: str = "",
        passphrase: str | None = None,
    ) -> Self:
        """Makes a fleet's CA and everything else the folder holds.

        Args:
            path: the folder; must not exist, or be empty. Its parent is made where missing.
            fleet: the fleet's name, part of every identity.
            clock: the time for the certificates' dates.
            identity: the fleet's id, which is stored in the folder.
            hosts: DNS names and addresses at which devices reach the server.
            passphrase: encrypts the keys of the CAs and the command key. The server's and the service's keys are
                read unattended, by others too, and stay plain.

        Raises:
            Conflict: the folder is not empty. Keys are never overwritten.
            Refused: the fleet or a host has an invalid name; nothing is made.
        """
        if path.exists() and not (path.is_dir() and not has_keys(path)):
            raise Conflict(f"{path} exists", remedy="Keep it: a new CA would lock every enrolled device out")
        authority = Authority.create(fleet, clock)
        command_key = ed25519.Ed25519PrivateKey.generate()
        server, service = authority.issue_server(hosts), authority.issue_service(CONSUMER)
        root_key = authority.root_key
        assert root_key is not None  # just created
        contents = {
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
            **({"fleet.id": f"{identity}\n".encode()} if identity else {}),
        }
        files.make_private(path.parent)
        made = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))  # mkdtemp creates it with mode 0700
        try:
            for name, content in contents.items():
                files.replace(made / name, content)
            _sync_folder(made)
            try:
                made.rename(path)  # onto an empty folder it succeeds; onto one with files it fails, as it must
            except OSError as error:
                raise Conflict(f"{path} was made meanwhile by another process") from error
            _sync_folder(path.parent)
        finally:
            shutil.rmtree(made, ignore_errors=True)
        return cls(path=path, authority=authority, command_key=command_key, passphrase=passphrase)

    @classmethod
    def load(cls, path: Path, fleet: str, clock: Clock, *, passphrase: str | None = None) -> Self:
        """Opens an existing folder.

        Raises:
            NotFound: there is none.
            ConfigError: a file is missing, unreadable, readable by others, or does not belong to the rest.
        """
        if not path.is_dir():
            raise NotFound(f"PKI folder {path} does not exist", remedy="Run `fleetcore init`")
        for place in (path, *path.glob("*.key")):
            _check_private(place)
        _check_fleet(path / "service.pem", fleet)
        authority = Authority(fleet, clock, _trust(path, passphrase))
        command_key = _private_key(path / "command.key", passphrase)
        if not isinstance(command_key, ed25519.Ed25519PrivateKey):
            raise ConfigError("The command key must be Ed25519", file=str(path / "command.key"))
        return cls(path=path, authority=authority, command_key=command_key, passphrase=passphrase)

    def save(self, trust: TrustBundle, change: Mapping[str, object]) -> None:
        """Stores another trust than the authority's present one; it takes effect when ``generations.json`` is replaced.

        ``change`` says who made it and why, for :meth:`last_change`. Raises OSError; then the trust is as before.
        """
        old = self.authority.trust
        for path, content in self._files(trust, beside=old):
            files.replace(path, content)
        names = _names(trust)
        gone = [name for name in (*_names(old), *self._gone()) if name not in names]
        generations = {
            "version": trust.version,
            "roots": [root.number for root in trust.roots],
            "issuing": [item.number for item in trust.issuing],
            "signing": trust.signing,
            "cross": [number for number, _ in _crossed(trust)],
            "former": [item.number for item in trust.former],
            "last": trust.last,
            "gone": gone,
            "change": dict(change),
        }
        _sync_folder(self.path)
        files.replace(self.path / _GENERATIONS, json.dumps(generations, indent=1).encode())
        _sync_folder(self.path)

    def reconcile(self) -> None:
        """Completes the last change after a crash: removes the files that it dropped and writes the bundle again."""
        gone = [self.path / name for name in self._gone() if (self.path / name).exists()]
        for path in gone:
            path.unlink(missing_ok=True)
        bundle, place = self.authority.ca_pem(), self.path / "ca.pem"
        stale = not place.exists() or place.read_bytes() != bundle
        if stale:
            files.replace(place, bundle)
        if gone or stale:
            _sync_folder(self.path)

    def last_change(self) -> Mapping[str, object]:
        """The ``change`` of the last :meth:`save`; empty where only the first CAs exist."""
        change = _generations(self.path).get("change", {})
        return change if isinstance(change, dict) else {}

    def take_root_offline(self, root: RootCa, file: Path, passphrase: str | None) -> None:
        """Moves a root's key to ``file``, mode 0600, encrypted where a passphrase is given or the folder has one.

        The key is removed from the folder only after the new file was read back. Raises Conflict where the file exists,
        OSError where it cannot be written.
        """
        assert root.key is not None  # the caller has checked that
        passphrase = passphrase or self.passphrase  # it must not become unencrypted on its way out
        try:
            handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, files.PRIVATE_FILE)
        except FileExistsError:
            raise Conflict(f"{file} exists", remedy="Name a new file: keys are never overwritten") from None
        with os.fdopen(handle, "wb") as stream:
            stream.write(_key_pem(root.key, passphrase))
            stream.flush()
            os.fsync(stream.fileno())
        _sync_folder(file.parent)
        if _ec_key(file, passphrase).public_key() != root.key.public_key():
            raise ConfigError("The written key is not the root's; nothing was removed", file=str(file))
        (self.path / _name("root", root.number, "key")).unlink(missing_ok=True)
        _sync_folder(self.path)

    def _files(self, trust: TrustBundle, *, beside: TrustBundle) -> Iterator[tuple[Path, bytes]]:
        """The files of CAs that ``extra_puts`` does not have, keys first."""
        roots, issuing = (
            {root.number for root in beside.roots},
            {item.number for item in (*beside.issuing, *beside.former)},
        )
        for root in trust.roots:
            if root.number not in roots:
                assert root.key is not None  # just made
                yield self.path / _name("root", root.number, "key"), _key_pem(root.key, self.passphrase)
                yield self.path / _name("root", root.number), pem([root.certificate])
        for item in trust.issuing:
            if item.number not in issuing:
                yield self.path / _name("issuing", item.number, "key"), _key_pem(item.key, self.passphrase)
                yield self.path / _name("issuing", item.number), pem([item.certificate])
        for number, cross in _crossed(trust):
            yield self.path / _name("cross", number), pem([cross])

    def _gone(self) -> list[str]:
        gone = _generations(self.path).get("gone", [])
        return [name for name in gone if isinstance(name, str)] if isinstance(gone, list) else []


def _name(kind: str, number: int, suffix: str = "pem") -> str:
    """The first CAs' files have no number: they are from before numbers."""
    return f"{kind}.{suffix}" if number == 1 else f"{kind}-{number}.{suffix}"


def _crossed(trust: TrustBundle) -> list[tuple[int, x509.Certificate]]:
    """The cross certificates, each with the number of its root."""
    numbers = {key_id(root.certificate): root.number for root in trust.roots}
    return [(numbers[key_id(cross)], cross) for cross in trust.cross]


def _names(trust: TrustBundle) -> list[str]:
    """The files of a trust's CAs; a root's key may be elsewhere."""
    found = [_name("root", root.number, suffix) for root in trust.roots for suffix in ("pem", "key")]
    found += [
        _name("issuing", item.number, suffix) for item in (*trust.issuing, *trust.former) for suffix in ("pem", "key")
    ]
    return found + [_name("cross", number) for number, _ in _crossed(trust)]


def _generations(path: Path) -> dict[str, Any]:
    place = path / _GENERATIONS
    if not place.exists():
        return {}
    try:
        found = json.loads(_read(place))
        if isinstance(found, dict):
            return found
    except ValueError:
        pass
    raise ConfigError("It cannot be read", file=str(place), remedy="fleetcore restore from a backup")


def _trust(path: Path, passphrase: str | None) -> TrustBundle:
    """The CAs in a folder."""
    generations: dict[str, Any] = {
        "version": 1,
        "roots": [1],
        "issuing": [1],
        "signing": 1,
        "cross": [],
        "former": [],
        "last": 1,
    }
    generations |= _generations(path)
    roots = tuple(_root(path, number, passphrase) for number in generations["roots"])
    issuing, former = (
        tuple(_issuing(path, number, passphrase) for number in generations[name]) for name in ("issuing", "former")
    )
    trust = TrustBundle(
        version=generations["version"],
        roots=roots,
        issuing=issuing,
        signing=generations["signing"],
        cross=tuple(_certificate(path / _name("cross", number)) for number in generations["cross"]),
        former=former,
        last=generations["last"],
    )
    for item in issuing:
        file = path / _name("issuing", item.number)
        root = trust.root_of(item)
        try:
            if root is None:
                raise ValueError("it is not signed by a root")
            item.certificate.verify_directly_issued_by(root.certificate)
        except Exception as error:  # three exception families of cryptography, with the same meaning here
            above = " or ".join(_name("root", root.number) for root in roots)
            raise ConfigError(f"The issuing CA is not under {above}", file=str(file)) from error
    return trust


def _root(path: Path, number: int, passphrase: str | None) -> RootCa:
    key = path / _name("root", number, "key")
    return RootCa(
        number=number,
        certificate=_certificate(path / _name("root", number)),
        key=_ec_key(key, passphrase) if key.exists() else None,
    )


def _issuing(path: Path, number: int, passphrase: str | None) -> IssuingCa:
    name, file = path / _name("issuing", number), path / _name("issuing", number, "key")
    item = IssuingCa(number=number, certificate=_certificate(name), key=_ec_key(file, passphrase))
    if item.key.public_key() != item.certificate.public_key():
        raise ConfigError(f"The key does not belong to {name.name}", file=str(file))
    return item


def read_key(content: bytes, passphrase: str | None, *, file: str) -> ec.EllipticCurvePrivateKey:
    """An EC key from PEM; raises ConfigError, naming ``file``."""
    key = _parsed(content, passphrase, file)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError("The key must be an EC key", file=file)
    return key


def has_keys(path: Path) -> bool:
    """Whether a folder contains keys; an empty one may be an unmounted disk, or was emptied."""
    return path.is_dir() and any(path.iterdir())


def fleet_name(path: Path) -> str | None:
    """The name of the fleet whose keys are in a folder, or None where its certificates do not say."""
    try:
        names = names_of(_certificate(path / "service.pem"))
    except ConfigError:
        return None
    parts = [str(name.value).split(":") for name in names]
    return next((words[3] for words in parts if words[:3] == ["urn", "fleetcore", "service"] and len(words) == 5), None)


def issuers(path: Path) -> frozenset[str]:
    """The key ids of the issuing CAs, former ones included, whose certificates are in a folder.

    Raises ConfigError where one cannot be read.
    """
    return frozenset(key_id(_certificate(file)) for file in path.glob("issuing*.pem"))


def _check_fleet(service: Path, fleet: str) -> None:
    """Checks the fleet's name, which is in every identity: under another name no device could connect."""
    wanted = service_uri(fleet, CONSUMER)
    found = [name.value for name in names_of(_certificate(service))]
    if found != [wanted]:
        raise ConfigError(
            f"The CA was made for another fleet than {fleet!r}: {', '.join(map(str, found))}",
            file=str(service),
            remedy="Use the old name in [fleet], or make a new data folder",
        )


def _sync_folder(path: Path) -> None:
    if os.name != "posix":  # on other systems a folder cannot be opened
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
        want = files.PRIVATE_FOLDER if path.is_dir() else files.PRIVATE_FILE
        raise ConfigError(
            f"Other users can access it (mode {mode:04o})",
            file=str(path),
            remedy=f"Run `chmod {want:o} {shlex.quote(str(path))}`",
        )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"Cannot be read: {error.strerror}",
            file=str(path),
            remedy=f"Restore it from a backup of {path.parent} (`fleetcore restore`)",
        ) from error


def _certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(_read(path))
    except ValueError as error:
        raise ConfigError("It is not a certificate", file=str(path)) from error


def _private_key(path: Path, passphrase: str | None) -> PrivateKeyTypes:
    return _parsed(_read(path), passphrase, str(path))


def _parsed(content: bytes, passphrase: str | None, file: str) -> PrivateKeyTypes:
    encrypted = b"ENCRYPTED" in content
    if encrypted and not passphrase:
        raise ConfigError(
            "The key is encrypted",
            file=file,
            remedy="Set [ca] passphrase to env:NAME or file:PATH, or give that of this file",
        )
    try:
        return load_pem_private_key(content, passphrase.encode() if encrypted and passphrase else None)
    except ValueError as error:
        raise ConfigError(
            "The key cannot be read" + (": a wrong passphrase, or damage" if encrypted else ""), file=file
        ) from error


def _ec_key(path: Path, passphrase: str | None) -> ec.EllipticCurvePrivateKey:
    return read_key(_read(path), passphrase, file=str(path))
