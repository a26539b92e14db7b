"""A bounded cache of recent decisions, so that a repeated request from a device or an operator is cheap."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

V = TypeVar("V")


class LruCache(Generic[V]):
    """The last ``limit`` values by key; the least recently used goes first. Keys are digests or ids, never secrets."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._values: OrderedDict[bytes | str, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: bytes | str) -> V | None:
        """The value, which is now the most recently used, or None."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def put(self, key: bytes | str, value: V) -> None:
        """Stores a value."""
        self._values[key] = value
        self._values.move_to_end(key)
        if len(self._values) > self._limit:
            self._values.popitem(last=False)

    def clear(self) -> None:
        """Removes all values."""
        self._values.clear()

    def forget(self, chosen: Callable[[V], bool]) -> None:
        """Removes every value for which ``chosen`` is true."""
        for key in [key for key, value in self._values.items() if chosen(value)]:
            del self._values[key]
