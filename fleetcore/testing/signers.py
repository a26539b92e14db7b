"""Signers of firmware for tests: keys by name, and valid or invalid trust roots and manifests."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attrs import evolve
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fleetcore.wire import dsse
from fleetcore.wire.manifest import MANIFEST_TYPE, Chunks, Manifest, write_manifest
from fleetcore.wire.trust import TRUST_TYPE, FirmwareRoot, Role, raw_key, write_trust

#: The start of the movable clock.
START_MS = 1_767_225_600_000
DAY_MS = 86_400_000
IMAGE = bytes(range(256)) * 64


def digest(content: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(content).hexdigest()


class Signers:
    """Keys by name, created at their first use."""

    def __init__(self) -> None:
        self._keys: dict[str, Ed25519PrivateKey] = {}

    def key(self, name: str) -> Ed25519PrivateKey:
        """The key of that name."""
        return self._keys.setdefault(name, Ed25519PrivateKey.generate())

    def id(self, name: str) -> str:
        """Its id in a trust root."""
        return dsse.key_id(self.key(name).public_key())

    def role(self, names: Iterable[str], threshold: int = 1) -> Role:
        """Some of them as a role."""
        return Role(keys=frozenset(self.id(name) for name in names), threshold=threshold)

    def trust(
        self,
        version: int = 1,
        *,
        root: Sequence[str] = ("root",),
        threshold: int = 1,
        firmware: Sequence[str] | None = ("maker",),
        firmware_threshold: int = 1,
        models: Mapping[str, Sequence[str]] | None = None,
        by: Sequence[str] | None = None,
        **changes: Any,
    ) -> dict[str, object]:
        """A trust root in its envelope, valid for a year; signed ``by`` these, or by its own root keys if empty."""
        models = models or {}
        names = {*root, *(firmware or ()), *(name for some in models.values() for name in some)}
        made = FirmwareRoot(
            version=version,
            expires=START_MS + 365 * DAY_MS,
            keys={self.id(name): raw_key(self.key(name).public_key()) for name in sorted(names)},
            root=self.role(root, threshold),
            firmware=None if firmware is None else self.role(firmware, firmware_threshold),
            models={model: self.role(some) for model, some in models.items()},
        )
        return dsse.sign(write_trust(evolve(made, **changes)), TRUST_TYPE, [self.key(name) for name in by or root])

    def manifest(
        self, image: bytes = IMAGE, *, by: Sequence[str] = ("maker",), chunk: int | None = None, **changes: Any
    ) -> dict[str, object]:
        """A manifest in its envelope: ``thermo`` for the model T-1000, seq 2, valid for 30 days."""
        seq = changes.get("seq", 2)
        if chunk is not None:
            pieces = tuple(digest(image[at : at + chunk]) for at in range(0, len(image), chunk))
            changes["chunks"] = Chunks(size=chunk, sha256=pieces)
        made = Manifest(
            name="thermo",
            version=f"{seq}.0.0",
            seq=seq,
            models=("T-1000",),
            size=len(image),
            sha256=digest(image),
            created=START_MS,
            expires=START_MS + 30 * DAY_MS,
        )
        return dsse.sign(write_manifest(evolve(made, **changes)), MANIFEST_TYPE, [self.key(name) for name in by])
