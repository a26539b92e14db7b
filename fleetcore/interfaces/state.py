"""What a plugin keeps over a restart beside its own files: a few named pieces of bytes, in the fleet's store."""

from collections.abc import Awaitable, Callable, Iterator, MutableMapping

from fleetcore.errors import Refused

#: All names (as UTF-8) and values of one piece together.
STATE_LIMIT_BYTES = 64 * 1024


async def _nowhere(_values: dict[str, bytes]) -> None:
    return


class PluginState(MutableMapping[str, bytes]):
    """A mapping of name to bytes that outlives the process, 64 KiB in all; lent as ``context.state``.

    It is read before the opener is called. A change is in memory until it is written:

    - of a detector, notifier or cloud, in the commit that keeps the place in the feed up to which the piece has seen
      everything. So after a crash the state is that of the place from which the piece is shown the feed again;
    - of a protocol, service or admission, by ``await context.state.save()``.

    Not to be changed by two threads at a time.

    Args:
        values: what was kept.
        write: makes the values durable; without it they are in memory alone, as in a test.
    """

    def __init__(
        self, values: dict[str, bytes] | None = None, write: Callable[[dict[str, bytes]], Awaitable[None]] = _nowhere
    ) -> None:
        self._values = dict(values or {})
        self._write = write
        self._size = sum(map(_size, self._values, self._values.values()))
        #: How often it was changed.
        self.changes = 0

    def __getitem__(self, name: str) -> bytes:
        return self._values[name]

    def __setitem__(self, name: str, value: bytes) -> None:
        """Raises Refused, code ``limit_exceeded``, where the piece's state would be longer than the limit."""
        kinds = type(name), type(value)  # an author without a checker of types is told now, not when it is written
        if kinds != (str, bytes):
            raise TypeError(f"state is a mapping of str to bytes, not {kinds[0].__name__} to {kinds[1].__name__}")
        old = _size(name, self._values[name]) if name in self._values else 0
        size = self._size - old + _size(name, value)
        if size > STATE_LIMIT_BYTES:
            raise Refused(
                f"The state would be {size} bytes, and a plugin keeps up to {STATE_LIMIT_BYTES}",
                code="limit_exceeded",
                remedy="Keep less, or use files in context.data",
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
        """A copy of all of it."""
        return dict(self._values)

    async def save(self) -> None:
        """Makes the state durable by a commit of its own; raises what the store raises, and nothing is written then."""
        await self._write(self.snapshot())


def _size(name: str, value: bytes) -> int:
    return len(name.encode()) + len(value)
