"""Pages ``{"items", "next"}``: ``next`` is an opaque cursor, null at the end."""

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Annotated, Generic, TypeVar

import msgspec
from litestar.params import QueryParameter

from fleetcore.errors import Refused

T = TypeVar("T")
S = TypeVar("S")

Limit = Annotated[int, QueryParameter(ge=1, le=1000, description="How many items at most.")]
Cursor = Annotated[str | None, QueryParameter(max_length=512, description="The `next` of the page before.")]


class Page(msgspec.Struct, Generic[T], kw_only=True):
    """Some items, and how to go on."""

    items: list[T]
    next: str | None


def encode(after: str | None) -> str | None:
    """The cursor that continues after a key."""
    return None if after is None else base64.urlsafe_b64encode(after.encode()).decode().rstrip("=")


def decode(cursor: str | None) -> str | None:
    """The key; raises Refused for what no page gave."""
    if cursor is None:
        return None
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise Refused("This is no cursor", remedy="Send the `next` of the page before, or none") from error
    if "\0" in text:
        raise Refused("This is no cursor", remedy="Send the `next` of the page before, or none")
    return text


def cut(items: Sequence[S], cursor: str | None, limit: int, key: Callable[[S], str], show: Callable[[S], T]) -> Page[T]:
    """A page of a whole list that is sorted by ``key``."""
    after = decode(cursor)
    rest = [one for one in items if after is None or key(one) > after]
    more = encode(key(rest[limit - 1])) if len(rest) > limit else None
    return Page(items=[show(one) for one in rest[:limit]], next=more)
