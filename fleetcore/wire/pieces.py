"""A file as pieces, so that firmware is never held in memory whole."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

PIECE_BYTES = 1 << 20

Step = Callable[[int], None]


def size_of(file: str) -> int:
    """Bytes of a file. Raises OSError."""
    return Path(file).stat().st_size


def pieces(file: Path, step: Step | None = None) -> Iterator[bytes]:
    """The file's bytes; ``step`` is told of each piece's length once it was taken. Raises OSError."""
    with file.open("rb") as source:
        while piece := source.read(PIECE_BYTES):
            yield piece
            if step is not None:
                step(len(piece))


async def async_pieces(file: Path, step: Step | None = None) -> AsyncIterator[bytes]:
    """The same, read on another thread."""
    with await asyncio.to_thread(file.open, "rb") as source:
        while piece := await asyncio.to_thread(source.read, PIECE_BYTES):
            yield piece
            if step is not None:
                step(len(piece))
