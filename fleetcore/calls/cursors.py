"""Cursors: the key after which a page continues, encoded as opaque text."""

import base64
import binascii
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import TypeVar

from fleetcore.calls.types import Page
from fleetcore.errors import Refused

T = TypeVar("T")
S = TypeVar("S")


def encode(after: str | None) -> str | None:
    """The cursor that continues after a key."""
    return None if after is None else base64.urlsafe_b64encode(after.encode()).decode().rstrip("=")


def decode(cursor: str | None) -> str | None:
    """The key; raises Refused for a cursor that no page gave."""
    if cursor is None:
        return None
    try:
        return base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise foreign() from error


def foreign() -> Refused:
    """The error for a cursor that no page gave."""
    return Refused(
        "/cursor: no page gave it", remedy="Use the `next` of the page before, or leave it out", pointer="/cursor"
    )


def page_of(
    items: Sequence[S], cursor: str | None, limit: int, key: Callable[[S], str], show: Callable[[S], T]
) -> Page[T]:
    """A page of a short list in memory, sorted by ``key``."""
    after = decode(cursor)
    first = 0 if after is None else bisect_right(items, after, key=key)
    part = items[first : first + limit]
    more = encode(key(part[-1])) if len(items) > first + limit else None
    return Page([show(item) for item in part], more)
