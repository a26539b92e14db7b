"""A plugin's durable state apart from its files: a few named byte strings in the fleet's store."""

from collections.abc import Awaitable, Callable, Iterator, MutableMapping

from fleetcore.errors import Refused

#: The limit for all names (as UTF-8) and values of one component together.
STATE_LIMIT_BYTES = 64 * 1024


async def _nowhere(_values: dict[str, bytes]) -> None:
    return


class PluginState(MutableMapping[str, bytes]):
    """A mapping of name to bytes that outlives the process, 64 KiB in all; given as ``context.state``.

    It is read before the opener is called. A change stays in memory until it is written:

    - for a detector, notifier or cloud, in the commit that stores its place in the feed. So after a crash the state
      matches the place from which the component reads the feed again;
    - for a protocol, service or admission, by ``await context.state.save()``.

    Not thread-safe: change it from one thread at a time.

    Args:
        values: the stored state.
        write: makes the values durable; without it they stay in memory, as in a test.
    """

    def __init__(
        self, values: dict[str, bytes] | None = None, write: Callable[[dict[str, bytes]], Awaitable[None]] = _nowhere
    ) -> None:
        self._values = dict(values or {})
        self._write = write
        self._size = sum(map(_size, self._values, self._values.values()))
        #: The number of changes so far.
        self.changes = 0

    def __getitem__(self, name: str) -> bytes:
        return self._values[name]

    def __setitem__(self, name: str, value: bytes) -> None:
        """Raises Refused, code ``limit_exceeded``, where the component's state would exceed the limit."""
        kinds = type(name), type(value)  # tells an author without a type checker now, not at the write
        if kinds != (str, bytes):
            raise TypeError(f"state is a mapping of str to bytes, not {kinds[0].__name__} to {kinds[1].__name__}")
        old = _size(name, self._values[name]) if name in self._values else 0
        size = self._size - old + _size(name, value)
        if size > STATE_LIMIT_BYTES:
            raise Refused(
                f"The state would be {size} bytes; the limit for a plugin is {STATE_LIMIT_BYTES}",
                code="limit_exceeded",
                remedy="Store less, or use files in context.data",
                limit=STATE_LIMIT_BYTES,
                size=size,
                unit="bytes",
                scope="plugin state",
            )
        self._values[name] = value
        self._size = size
        self.changes += 1

    def __delitem__(self, name: str) -> None:
        self._size -= _size(name, self._values.pop(name))
        self.changes += 1

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._values))

    def __len__(self) -> int:
        return len(self._values)

    def snapshot(self) -> dict[str, bytes]:
        """A copy of the whole state."""
        return dict(self._values)

    async def save(self) -> None:
        """Makes the state durable in a separate commit; raises the store's errors, and nothing is written then."""
        await self._write(self.snapshot())


def _size(name: str, value: bytes) -> int:
    return len(name.encode()) + len(value)
