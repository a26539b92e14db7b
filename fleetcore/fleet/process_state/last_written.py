"""Items as this process wrote them last, so that the next change of one begins from there and reads nothing.

It assumes that this process alone writes them, as the lease on the data folder sees to. The store stays the truth: a
change is made with the version that is known here, and where that is refused, the item is read again.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class LastWritten(Generic[T]):
    """The items that were written last, by key, within a bound of bytes; the one unused for longest goes first.

    Args:
        size: how many bytes an item takes in memory, roughly.
    """

    def __init__(self, size: Callable[[T], int], limit_bytes: int) -> None:
        self._size, self._limit_bytes = size, limit_bytes
        self._items: OrderedDict[str, tuple[T, int]] = OrderedDict()
        self._bytes = 0

    @property
    def size_bytes(self) -> int:
        """What is kept, in bytes."""
        return self._bytes

    def get(self, key: str) -> T | None:
        """The item, which is now the latest used, or None."""
        known = self._items.get(key)
        if known is None:
            return None
        self._items.move_to_end(key)
        return known[0]

    def put(self, key: str, item: T) -> None:
        """Keeps an item as it was committed."""
        self.forget(key)
        size = self._size(item)
        self._items[key] = (item, size)
        self._bytes += size
        while self._bytes > self._limit_bytes:
            _, (_, gone) = self._items.popitem(last=False)
            self._bytes -= gone

    def forget(self, key: str) -> None:
        """The item was removed, or it is not known how a commit ended."""
        known = self._items.pop(key, None)
        if known is not None:
            self._bytes -= known[1]
