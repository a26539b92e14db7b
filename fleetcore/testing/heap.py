"""What stays on the heap: of connections that have ended, and of work that is repeated."""

import gc
import tracemalloc
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def without_collector() -> Iterator[None]:
    """Without the collector of cycles: what is in a ring of references stays."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def connections_of(protocol: type[Any]) -> "Iterator[list[weakref.ref[Any]]]":
    """Weak references to the connections of a class of protocols, and to their TLS states, made meanwhile.

    Without the collector of cycles.
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
    """Does the work twice; what the second time leaves on the heap, in bytes."""
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
