"""What is asked for in parts, each of which names the next one."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def parts(
    ask: Callable[[str | None], Awaitable[T]], following: Callable[[T], str | None]
) -> AsyncGenerator[T, None]:
    """All parts, one after another.

    Args:
        ask: gives the part of a name, the first for None.
        following: the name of the part behind a part; None at the end.
    """
    after: str | None = None
    while True:
        part = await ask(after)
        yield part
        after = following(part)
        if after is None:
            return
