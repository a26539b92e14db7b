"""The items that this process wrote last, so that the next change of one starts from memory without a read.

It relies on this process being the only writer, which the lease on the data folder ensures. The store is authoritative:
a change is made with the cached version, and where the store refuses that, the item is read again.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class LastWritten(Generic[T]):
    """The items that were written last, by key, within a bound of bytes; the least recently used goes first.

    Args:
        size: how many bytes an item takes in memory, roughly.
    """

    def __init__(self, size: Callable[[T], int], limit_bytes: int) -> None:
        self._size, self._limit_bytes = size, limit_bytes
        self._items: OrderedDict[str, tuple[T, int]] = OrderedDict()
        self._bytes = 0

    @property
    def size_bytes(self) -> int:
        """The size of the cached items, in bytes."""
        return self._bytes

    def get(self, key: str) -> T | None:
        """The item, which is now the most recently used, or None."""
        known = self._items.get(key)
        if known is None:
            return None
        self._items.move_to_end(key)
        return known[0]

    def put(self, key: str, item: T) -> None:
        """Caches an item as it was committed."""
        self.forget(key)
        size = self._size(item)
        self._items[key] = (item, size)
        self._bytes += size
        while self._bytes > self._limit_bytes:
            _, (_, gone) = self._items.popitem(last=False)
            self._bytes -= gone

    def forget(self, key: str) -> None:
        """Drops an item that was removed, or whose commit has an unknown result."""
        known = self._items.pop(key, None)
        if known is not None:
            self._bytes -= known[1]
