"""Bytes in pieces, so that firmware is never in memory whole."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import TypeAlias

from fleetcore.errors import Refused

PIECE_BYTES = 1 << 20

Step = Callable[[int], None]
#: The accepted forms of bytes: bytes, the path of a file, or pieces.
Source: TypeAlias = bytes | str | PathLike[str] | Iterable[bytes]
AsyncSource: TypeAlias = Source | AsyncIterable[bytes]


def pieces(source: Source, step: Step | None = None) -> Iterator[bytes]:
    """The bytes in pieces; ``step`` is called with each piece's length once it was taken. Raises OSError, Refused."""
    if isinstance(source, bytes | bytearray | memoryview):
        source = (bytes(source),)
    elif isinstance(source, str | PathLike):
        source = _of_file(Path(source))
    elif not isinstance(source, Iterable):
        raise _no_source(source)
    for piece in source:
        yield _checked(piece)
        if step is not None:
            step(len(piece))


async def async_pieces(source: AsyncSource, step: Step | None = None) -> AsyncIterator[bytes]:
    """The same, asynchronous; files and synchronous iterables are read on another thread."""
    if isinstance(source, AsyncIterable):
        async for piece in source:
            yield _checked(piece)
            if step is not None:
                step(len(piece))
        return
    taken = pieces(source, step)
    while (found := await asyncio.to_thread(next, taken, None)) is not None:
        yield found


def _of_file(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while piece := opened.read(PIECE_BYTES):
            yield piece


def _checked(piece: object) -> bytes:
    if not isinstance(piece, bytes):
        raise _no_source(piece)
    return piece


def _no_source(given: object) -> Refused:
    return Refused(
        f"{type(given).__name__} is not bytes", remedy="Give bytes, the path of a file, or an iterable of bytes"
    )
