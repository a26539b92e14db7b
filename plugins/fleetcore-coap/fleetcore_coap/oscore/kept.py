"""The contexts that are kept: those that have proved themselves, few that have not yet, and challenges for both.

What is kept of a device bounds the memory, so a context may go while its device lives; it is made anew when the device
speaks again, and then nothing is known of what came before: the device is asked for an Echo value first. The value has
to be a new one each time that a context goes that has proved itself, else what the device sent then would pass again.
Of one that has not, the value stays: so an attacker cannot have a device asked for ever by crowding its context out.
"""

import hmac
import secrets
import zlib
from collections import OrderedDict
from typing import Generic, Protocol, TypeVar

#: Contexts of which a key was looked up and nothing has been proved.
MAX_UNPROVED = 256
#: RFC 9175 §2.3: as good as unguessable for what it does.
_ECHO_BYTES = 8
#: Counts of contexts that went, by what their tokens' ids hash to: a change for one token is one for few others.
_GENERATIONS = 4096


class Keepable(Protocol):
    """A context, as it is kept."""

    @property
    def token(self) -> str:
        """The id of its token."""


K = TypeVar("K", bound=Keepable)


class Kept(Generic[K]):
    """See the module.

    Args:
        most: contexts that have proved themselves.
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
        """Those that are kept."""
        return (*self._proved.values(), *self._unproved.values())

    def find(self, token: str) -> K | None:
        """The context of a token."""
        return self._proved.get(token) or self._unproved.get(token)

    def echo(self, token: str) -> bytes:
        """The Echo value by which the device of a token shows that a request was made after this was asked."""
        text = f"{self._generations[_part(token)]} {token}"
        return hmac.digest(self._secret, text.encode(), "sha256")[:_ECHO_BYTES]

    def enter(self, context: K) -> K | None:
        """A new context; returns the one that has to go for it."""
        self._unproved[context.token] = context
        return next(iter(self._unproved.values())) if len(self._unproved) > MAX_UNPROVED else None

    def heard(self, context: K) -> K | None:
        """It has proved itself, now or before, and said something; returns the one that has to go for it."""
        self._unproved.pop(context.token, None)
        self._proved[context.token] = context
        self._proved.move_to_end(context.token)
        return next(iter(self._proved.values())) if len(self._proved) > self._most else None

    def leave(self, context: K) -> None:
        """It goes; idempotent."""
        if self._unproved.get(context.token) is context:
            del self._unproved[context.token]
        if self._proved.get(context.token) is context:
            del self._proved[context.token]
            self._generations[_part(context.token)] += 1


def _part(token: str) -> int:
    return zlib.crc32(token.encode()) % _GENERATIONS
