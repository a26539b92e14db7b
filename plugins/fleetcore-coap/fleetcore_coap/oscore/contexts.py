"""The kept contexts: authenticated ones, a few that are not yet, and challenges for both.

Memory is limited, so a context may be dropped while its device is active. When the device sends again it is made again,
and nothing is known of earlier messages: the device first has to return an Echo value. After an authenticated context
was dropped the value must be new, otherwise earlier messages could be replayed. After an unauthenticated one it stays
the same: so an attacker cannot keep a device in challenges by pushing out its context.
"""

import hmac
import secrets
import zlib
from collections import OrderedDict
from typing import Generic, Protocol, TypeVar

#: Contexts whose key was looked up but not proved.
MAX_UNPROVED = 256
#: RFC 9175 §2.3: long enough to be unguessable.
_ECHO_BYTES = 8
#: Counts of dropped contexts, by a hash of their token ids: a change affects one token and few others.
_GENERATIONS = 4096


class Keepable(Protocol):
    """A context, as it is kept here."""

    @property
    def token(self) -> str:
        """The id of its token."""


K = TypeVar("K", bound=Keepable)


class Kept(Generic[K]):
    """The contexts; see the module.

    Args:
        most: authenticated contexts.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._proved: OrderedDict[str, K] = OrderedDict()
        self._unproved: OrderedDict[str, K] = OrderedDict()
        self._secret = secrets.token_bytes(32)
        self._generations = [0] * _GENERATIONS

    def __len__(self) -> int:
        return len(self._proved)

    def all(self) -> tuple[K, ...]:
        """All kept contexts."""
        return (*self._proved.values(), *self._unproved.values())

    def find(self, token: str) -> K | None:
        """The context of a token."""
        return self._proved.get(token) or self._unproved.get(token)

    def echo(self, token: str) -> bytes:
        """The Echo value that shows that the device of a token made its request after this challenge."""
        text = f"{self._generations[_part(token)]} {token}"
        return hmac.digest(self._secret, text.encode(), "sha256")[:_ECHO_BYTES]

    def enter(self, context: K) -> K | None:
        """Adds a new context; returns the one dropped for it."""
        self._unproved[context.token] = context
        return next(iter(self._unproved.values())) if len(self._unproved) > MAX_UNPROVED else None

    def heard(self, context: K) -> K | None:
        """It is authenticated, now or before, and has sent something; returns the one dropped for it."""
        self._unproved.pop(context.token, None)
        self._proved[context.token] = context
        self._proved.move_to_end(context.token)
        return next(iter(self._proved.values())) if len(self._proved) > self._most else None

    def leave(self, context: K) -> None:
        """It is dropped; idempotent."""
        if self._unproved.get(context.token) is context:
            del self._unproved[context.token]
        if self._proved.get(context.token) is context:
            del self._proved[context.token]
            self._generations[_part(context.token)] += 1


def _part(token: str) -> int:
    return zlib.crc32(token.encode()) % _GENERATIONS
