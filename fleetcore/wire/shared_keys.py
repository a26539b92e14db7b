"""The shared key derived from a device token, for protocols that prove a key instead of sending it: PSK and OSCORE.

A token's secret is hashed once, and the store has that SHA-256. Its first 16 hexadecimal digits are in the token's id,
which operators and the audit log see. The key is its last 32: 128 bits, as printable ASCII text, since many tools take
a key as text and many stacks take at most 32 bytes.
"""

import hashlib
import re

from attrs import field, frozen

from fleetcore.model.credential import DEVICE_TOKEN

_TOKEN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}:[0-9a-f]{16}", re.ASCII)


@frozen
class SharedKey:
    """A token's id, ``<device>:<16 hex digits>``, and its key, 32 bytes."""

    token: str
    key: bytes = field(repr=False)


def digest_of(secret: str) -> str:
    """SHA-256 of a token's secret, 64 hexadecimal digits, as stored."""
    return hashlib.sha256(secret.encode()).hexdigest()


def token_id(device: str, digest: str) -> str:
    """The id of a device's token."""
    return f"{device}:{digest[:16]}"


def is_token_id(text: str) -> bool:
    """Whether text has the form of a token's id; a peer may send anything."""
    return _TOKEN_ID.fullmatch(text) is not None


def key_of(digest: str) -> bytes:
    """The key of a token, from its stored digest."""
    return digest[32:].encode("ascii")


def shared_key(device: str, token: str) -> SharedKey:
    """The id and the key of a token ``fc_dev_<device>_<secret>``, for the device's side."""
    digest = digest_of(token.removeprefix(f"{DEVICE_TOKEN}{device}_"))
    return SharedKey(token_id(device, digest), key_of(digest))
