"""DSSE envelopes: a payload, its type, and Ed25519 signatures over exactly those bytes.

Commands and firmware manifests are sent in them. The signature covers the bytes as sent (the pre-authentication
encoding of the DSSE specification, v1.0), so the JSON need not be reproducible. The type is signed too: a signed
manifest is never mistaken for a command.
"""

import base64
import binascii
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from attrs import frozen
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fleetcore.errors import NotAuthenticated, Refused

#: The payload type of a signed command (wire.md §9).
COMMAND_TYPE = "application/vnd.fleetcore.command+json"

#: How many signatures of one envelope are examined; each costs a verification, and the sender chooses their number.
MAX_SIGNATURES = 16


@frozen
class Verified:
    """The payload of an envelope and the ids of the trusted keys that signed it, each once."""

    payload: bytes
    signers: frozenset[str]


def key_id(key: Ed25519PublicKey) -> str:
    """A key's id: SHA-256 (hex) of its SubjectPublicKeyInfo."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


@lru_cache(maxsize=16)
def _signer(key: Ed25519PrivateKey) -> str:
    # A server signs every command with one key, and computing its id costs a third of the signature.
    return key_id(key.public_key())


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """The signed bytes: type and payload with their lengths, so that no two pairs give the same bytes."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign(payload: bytes, payload_type: str, keys: Sequence[Ed25519PrivateKey]) -> dict[str, object]:
    """An envelope, ready for JSON, with a signature by each key."""
    signed = pre_authentication_encoding(payload_type, payload)
    return {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": payload_type,
        "signatures": [{"keyid": _signer(key), "sig": base64.b64encode(key.sign(signed)).decode()} for key in keys],
    }


def add_signature(envelope: object, payload_type: str, key: Ed25519PrivateKey) -> dict[str, object]:
    """The same envelope with one more signature, replacing an earlier one by the same key.

    Raises Refused where it is not a valid envelope, or is full.
    """
    payload = opened(envelope, payload_type)
    assert isinstance(envelope, Mapping)
    made = sign(payload, payload_type, [key])
    name = key_id(key.public_key())
    others = [signature for signature in _signatures(envelope, least=0) if signature.get("keyid") != name]
    if len(others) == MAX_SIGNATURES:
        raise Refused(f"A DSSE envelope has at most {MAX_SIGNATURES} signatures")
    added = made["signatures"]
    assert isinstance(added, list)
    return {**made, "signatures": [*map(dict, others), *added]}


def opened(envelope: object, payload_type: str) -> bytes:
    """The payload without verification of the signatures: for display only. Raises Refused for an invalid envelope."""
    if not isinstance(envelope, Mapping):
        raise Refused("A DSSE envelope must be an object")
    kind = envelope.get("payloadType")
    if kind != payload_type:
        raise Refused(f"The envelope holds {str(kind)[:128]!r}, not {payload_type!r}")
    return _decoded(envelope.get("payload"), "payload")


def _signatures(envelope: Mapping[str, object], *, least: int = 1) -> list[Mapping[str, object]]:
    signatures = envelope.get("signatures")
    if not isinstance(signatures, list | tuple) or not least <= len(signatures) <= MAX_SIGNATURES:
        raise Refused(f"A DSSE envelope must have 1 to {MAX_SIGNATURES} signatures")
    for signature in signatures:
        if not isinstance(signature, Mapping):
            raise Refused("A DSSE signature must be an object")
    return list(signatures)


def verify(envelope: object, payload_type: str, trusted: Iterable[Ed25519PublicKey]) -> Verified:
    """Opens an envelope that at least one trusted key has signed; the caller checks a threshold.

    A ``keyid`` is an unauthenticated hint: it saves trials and decides nothing.

    Raises:
        Refused: ``schema_invalid``; it is not an envelope, or one of another type.
        NotAuthenticated: no trusted key has signed it.
    """
    payload = opened(envelope, payload_type)
    assert isinstance(envelope, Mapping)
    signatures = _signatures(envelope)

    keys = {key_id(key): key for key in trusted}
    signed = pre_authentication_encoding(payload_type, payload)
    signers: set[str] = set()
    for signature in signatures:
        bits, hint = _decoded(signature.get("sig"), "sig"), signature.get("keyid")
        candidates = [hint] if isinstance(hint, str) and hint in keys else list(keys) if not hint else []
        signers.update(name for name in candidates if _signed(keys[name], bits, signed))
    if not signers:
        raise NotAuthenticated("No trusted key has signed the envelope")
    return Verified(payload, frozenset(signers))


def _decoded(text: object, member: str) -> bytes:
    if not isinstance(text, str):
        raise Refused(f"{member} is not text")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:  # ValueError: a character outside ASCII
        raise Refused(f"{member} is not base64") from error


def _signed(key: Ed25519PublicKey, signature: bytes, content: bytes) -> bool:
    try:
        key.verify(signature, content)
    except InvalidSignature:
        return False
    return True
