"""A bounded memory of what was decided lately, so that a device or an operator that asks again costs no work again."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

V = TypeVar("V")


class LruCache(Generic[V]):
    """The last ``limit`` values by key; the longest unused goes first. Keys are digests or ids, never secrets."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._values: OrderedDict[bytes | str, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: bytes | str) -> V | None:
        """The value, which is now the latest used, or None."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def put(self, key: bytes | str, value: V) -> None:
        """Remembers a value."""
        self._values[key] = value
        self._values.move_to_end(key)
        if len(self._values) > self._limit:
            self._values.popitem(last=False)

    def clear(self) -> None:
        """Forgets everything."""
        self._values.clear()

    def forget(self, chosen: Callable[[V], bool]) -> None:
        """Forgets every value that ``chosen`` picks."""
        for key in [key for key, value in self._values.items() if chosen(value)]:
            del self._values[key]
