"""Memory left on the heap: by ended connections, and by repeated work."""

import gc
import tracemalloc
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def without_collector() -> Iterator[None]:
    """Disables the garbage collector: objects in a reference cycle stay."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def connections_of(protocol: type[Any]) -> "Iterator[list[weakref.ref[Any]]]":
    """Weak references to the connections of a class of protocols created in the block, and to their TLS states.

    The garbage collector is off meanwhile.
    """
    made: list[weakref.ref[Any]] = []
    begin = protocol.connection_made

    def noted(self: Any, transport: Any) -> None:
        made.extend((weakref.ref(self), weakref.ref(transport.get_extra_info("ssl_object"))))
        begin(self, transport)

    protocol.connection_made = noted
    try:
        with without_collector():
            yield made
    finally:
        protocol.connection_made = begin


async def grown_bytes(work: Callable[[], Awaitable[object]]) -> int:
    """Does the work twice; returns the bytes that the second time leaves on the heap."""
    await work()
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        await work()
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return after - before
