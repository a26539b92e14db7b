"""Firmware trust roots, ``fleetcore.trust/1``: the keys that a device trusts, and how versions follow each other.

A trust root names keys and what each may sign: the next trust root (``root``), firmware of any model (``firmware``), or
firmware of one model (``models``; that model then accepts no other keys). It is sent in a DSSE envelope. The rule
for a new version is that of The Update Framework (TUF, §5.3): it must be the next one, signed by a threshold of the old
root keys *and* of its own, so that the old holders hand over, and the new ones prove that they have their keys. The
first version is trusted because it came with the device.
"""

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from attrs import field, frozen
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fleetcore.errors import NotAuthenticated, Refused
from fleetcore.model.names import check_label
from fleetcore.wire import dsse
from fleetcore.wire.members import Members
from fleetcore.wire.strict_json import dumps
from fleetcore.wire.times import format_time

TRUST_TYPE = "application/vnd.fleetcore.trust+json"
FORMAT = "fleetcore.trust/1"
TRUST_BYTES = 64 * 1024
#: One envelope holds old and new signatures, and at most 16 are examined.
MAX_SIGNERS = dsse.MAX_SIGNATURES // 2
_MAX_KEYS, _MAX_MODELS = 64, 200


@frozen(kw_only=True)
class Role:
    """Keys by their ids, and the number of them that must sign."""

    keys: frozenset[str]
    threshold: int = 1


def _keys(keys: Mapping[str, bytes]) -> Mapping[str, bytes]:
    return MappingProxyType(dict(keys))


def _roles(roles: Mapping[str, Role]) -> Mapping[str, Role]:
    return MappingProxyType(dict(roles))


@frozen(kw_only=True)
class FirmwareRoot:
    """One version of a trust root.

    Attributes:
        expires: ms since the epoch; after it, it verifies nothing new.
        keys: raw Ed25519 public keys by :func:`~fleetcore.wire.dsse.key_id`.
        root: the keys that sign the next version.
        firmware: the keys that sign manifests for models without keys of their own, or None.
        models: the keys that sign manifests for one model, instead of ``firmware``.
    """

    version: int
    expires: int
    keys: Mapping[str, bytes] = field(converter=_keys)
    root: Role
    firmware: Role | None = None
    models: Mapping[str, Role] = field(factory=dict, converter=_roles)

    def role_of(self, model: str | None) -> Role | None:
        """The keys that sign firmware for a model, or None."""
        return self.firmware if model is None else self.models.get(model, self.firmware)

    def public(self, ids: Iterable[str] | None = None) -> list[Ed25519PublicKey]:
        """The public keys for verification: those of some ids, or all."""
        wanted = self.keys if ids is None else ids
        return [Ed25519PublicKey.from_public_bytes(self.keys[item]) for item in wanted if item in self.keys]

    def check_time(self, now: int) -> None:
        """Raises Refused with ``trust_expired`` once it has expired."""
        if now >= self.expires:
            raise Refused(
                f"The trust root, version {self.version}, expired at {format_time(self.expires)}",
                code="trust_expired",
                remedy="Sign the next version: fleetcore firmware trust init --after",
            )


def read_trust(payload: bytes) -> FirmwareRoot:
    """Decodes only the document, without its signatures. Raises Refused for any invalid bytes."""
    members = Members.of(payload, "The trust root", limit_bytes=TRUST_BYTES, form=FORMAT)
    version, expires = members.integer("version", 1, 1_000_000), members.time("expires")
    listed = members.inner("keys")
    keys = {name: _key(name, listed) for name in listed.names()}
    listed.end()
    if not 0 < len(keys) <= _MAX_KEYS:
        raise members.wrong("keys", f"1 to {_MAX_KEYS} keys")
    root = _role(members.inner("root"), keys)
    firmware = _role(members.inner("firmware"), keys) if members.has("firmware") else None
    models: dict[str, Role] = {}
    if members.has("models"):
        for model, role in members.inner("models").items():
            check_label(model, "model")
            models[model] = _role(role, keys)
    members.end()
    if len(models) > _MAX_MODELS:
        raise members.wrong("models", f"at most {_MAX_MODELS}")
    if firmware is None and not models:
        raise Refused("The trust root has no key for firmware", remedy="Name keys in firmware or in models")
    return FirmwareRoot(version=version, expires=expires, keys=keys, root=root, firmware=firmware, models=models)


def _key(name: str, listed: Members) -> bytes:
    text = listed.take(name)
    try:
        raw = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        raw = b""
    # One key under two ids would count twice toward a threshold.
    if len(raw) != 32 or dsse.key_id(Ed25519PublicKey.from_public_bytes(raw)) != name:
        raise listed.wrong(name[:64], "an Ed25519 key, 32 bytes in base64, under its own key id")
    return raw


def _role(members: Members, keys: Mapping[str, bytes]) -> Role:
    ids = members.texts("keys", MAX_SIGNERS)
    if len(set(ids)) != len(ids) or not set(ids) <= keys.keys():
        raise members.wrong("keys", "different ids of keys of this trust root")
    threshold = members.integer("threshold", 1, len(ids))
    members.end()
    return Role(keys=frozenset(ids), threshold=threshold)


def write_trust(trust: FirmwareRoot) -> bytes:
    """The document that is signed."""

    def role(item: Role) -> dict[str, object]:
        return {"keys": sorted(item.keys), "threshold": item.threshold}

    document: dict[str, object] = {
        "format": FORMAT,
        "version": trust.version,
        "expires": format_time(trust.expires),
        "keys": {name: base64.b64encode(raw).decode() for name, raw in sorted(trust.keys.items())},
        "root": role(trust.root),
    }
    if trust.firmware is not None:
        document["firmware"] = role(trust.firmware)
    if trust.models:
        document["models"] = {model: role(item) for model, item in sorted(trust.models.items())}
    return dumps(document)


def raw_key(key: Ed25519PublicKey) -> bytes:
    """The 32 bytes of a key in a trust root."""
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def signers(envelope: object, trust: FirmwareRoot, role: Role, what: str) -> frozenset[str]:
    """The keys of a role that have signed; raises Refused with ``signature_invalid`` below its threshold."""
    try:
        found = dsse.verify(envelope, TRUST_TYPE, trust.public(role.keys)).signers
    except NotAuthenticated:
        found = frozenset()
    if len(found) < role.threshold:
        raise Refused(
            f"{len(found)} of the {role.threshold} signatures that {what} asks for are there",
            code="signature_invalid",
            remedy="Add one: fleetcore firmware trust sign",
        )
    return found


def first_trust(envelope: object) -> FirmwareRoot:
    """A trust root that is trusted because of its source; its own threshold has signed it."""
    trust = read_trust(dsse.opened(envelope, TRUST_TYPE))
    signers(envelope, trust, trust.root, f"version {trust.version}")
    return trust


def follow(old: FirmwareRoot, envelope: object) -> FirmwareRoot:
    """The version after ``old``.

    Raises Refused: ``signature_invalid`` without a threshold of the old and of the new root keys, ``trust_invalid``
    where it is not the next version, ``schema_invalid`` and others where it cannot be read.
    """
    signers(envelope, old, old.root, f"the version before, {old.version},")
    new = first_trust(envelope)
    if new.version != old.version + 1:
        raise Refused(
            f"After version {old.version} comes {old.version + 1}, not {new.version}",
            code="trust_invalid",
            remedy="Give every version in order, without gaps",
        )
    return new


def follow_all(trust: FirmwareRoot, chain: Sequence[object]) -> FirmwareRoot:
    """Follows a chain step by step; versions that are stored already are skipped."""
    for envelope in chain:
        if read_trust(dsse.opened(envelope, TRUST_TYPE)).version > trust.version:
            trust = follow(trust, envelope)
    return trust
