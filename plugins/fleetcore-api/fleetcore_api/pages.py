"""Pages ``{"items", "next"}``: ``next`` is an opaque cursor, null at the end."""

import base64
import binascii
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Annotated, Generic, TypeVar

import attrs
import msgspec
from litestar.params import QueryParameter

from fleetcore.errors import Refused
from fleetcore.fleet import repository

T = TypeVar("T")
S = TypeVar("S")
R = TypeVar("R", bound=attrs.AttrsInstance)

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
    return text


def answered(page: repository.Page[R], show: Callable[[R], T]) -> Page[T]:
    """A page of the fleet's as it is answered."""
    return Page(items=[show(item) for item in page.items], next=encode(page.after))


def of_few(
    items: Sequence[S], cursor: str | None, limit: int, key: Callable[[S], str], show: Callable[[S], T]
) -> Page[T]:
    """A page of what is in memory, few by its nature and sorted by ``key``."""
    after = decode(cursor)
    first = 0 if after is None else bisect_right(items, after, key=key)
    part = items[first : first + limit]
    more = encode(key(part[-1])) if len(items) > first + limit else None
    return Page(items=[show(item) for item in part], next=more)
