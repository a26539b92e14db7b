"""Lists as JSON in parts of a bounded length."""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec


def split(items: Sequence[Any], limit_bytes: int) -> Iterator[tuple[Sequence[Any], bytes]]:
    """The items in parts, in order, each with its JSON; only a part of one item may be longer than the limit."""
    body = msgspec.json.encode(items)
    if len(items) == 1 or len(body) <= limit_bytes:
        yield items, body
        return
    half = len(items) // 2
    yield from split(items[:half], limit_bytes)
    yield from split(items[half:], limit_bytes)
