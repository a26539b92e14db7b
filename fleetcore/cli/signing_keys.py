"""Signing keys as files: creates, protects and opens them. Private keys never leave the machine of the signer."""

import os
import shlex
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from fleetcore.errors import Conflict, Refused


def make(private: Path, public: Path, passphrase: str | None) -> Ed25519PublicKey:
    """A new key: the private half 0600, encrypted if there is a passphrase. Raises Conflict if the file exists."""
    for item in (private, public):
        if item.exists():
            raise Conflict(f"{item} exists already", remedy="Name another file: a lost signing key cannot be replaced")
    key = Ed25519PrivateKey.generate()
    lock: KeySerializationEncryption = NoEncryption()
    if passphrase is not None:
        lock = BestAvailableEncryption(passphrase.encode())
    handle = os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock))
        file.flush()
        os.fsync(file.fileno())
    public.touch(0o644)  # devices trust this key: only its owner may change the file, whatever the umask
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return key.public_key()


def open_private(path: Path, passphrase: str | None) -> Ed25519PrivateKey:
    """The key in a file that only its owner can read. Raises Refused for any other, and for a wrong passphrase."""
    if path.stat().st_mode & 0o077:
        raise Refused(f"Other users can read the key {path}", remedy=f"chmod 600 {shlex.quote(str(path))}")
    try:
        key = load_pem_private_key(path.read_bytes(), None if passphrase is None else passphrase.encode())
    except TypeError as error:
        needs = "needs a passphrase" if passphrase is None else "has no passphrase"
        raise Refused(
            f"The key {path} {needs}", remedy="Give --passphrase env:NAME or file:PATH, or leave it out"
        ) from error
    except ValueError as error:
        raise Refused(f"{path} is not a private key in PEM, or the passphrase is wrong") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise Refused(f"{path} is not an Ed25519 key", remedy="Make one: fleetcore firmware keygen")
    return key


def open_public(path: Path) -> Ed25519PublicKey:
    """The public key in a file. Raises Refused if it is not one."""
    try:
        key = load_pem_public_key(path.read_bytes())
    except ValueError as error:
        raise Refused(f"{path} is not a public key in PEM", remedy="Give the .pub file that keygen wrote") from error
    if not isinstance(key, Ed25519PublicKey):
        raise Refused(f"{path} is not an Ed25519 key", remedy="Make one: fleetcore firmware keygen")
    return key
