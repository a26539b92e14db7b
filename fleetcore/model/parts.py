"""Paged requests: each page names the next one."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def parts(
    ask: Callable[[str | None], Awaitable[T]], following: Callable[[T], str | None]
) -> AsyncGenerator[T, None]:
    """All pages, one after another.

    Args:
        ask: gives the page of a name, the first for None.
        following: the name of the page after a page; None at the end.
    """
    after: str | None = None
    while True:
        part = await ask(after)
        yield part
        after = following(part)
        if after is None:
            return
