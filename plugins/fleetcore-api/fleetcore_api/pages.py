"""Pages ``{"items", "next"}``: ``next`` is an opaque cursor, null at the end."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Annotated, Generic, TypeVar

import attrs
import msgspec
from litestar.params import QueryParameter

from fleetcore.calls.cursors import decode, encode
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
