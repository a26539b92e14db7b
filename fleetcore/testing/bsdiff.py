"""Applies a delta as a device does: BSDIFF40, in bounded memory whatever the delta says.

The format: 32 bytes of head (``BSDIFF40``, and three numbers of 8 bytes, little-endian with a sign bit: the lengths of
the first two blocks, and the size of the new image), then three blocks, each compressed by bzip2. The first has triples
of such numbers: how many bytes to add to those of the old image, how many to copy from the third block, and how far to
move on in the old image. The second has the bytes to add, the third those to copy.
"""

import bz2
from collections.abc import Iterator

import numpy as np

from fleetcore.errors import Refused

FORMAT = "bsdiff4"
_MAGIC = b"BSDIFF40"
_HEAD, _NUMBER = 32, 8
_PIECE_BYTES = 64 * 1024
#: Triples that make nothing are allowed, and there are few of them.
_MAX_IDLE = 10_000


class _Block:
    """A compressed block, read in pieces."""

    def __init__(self, content: bytes) -> None:
        self._packed, self._unpack, self._got = content, bz2.BZ2Decompressor(), bytearray()

    def take(self, count: int) -> bytes:
        while len(self._got) < count:
            if self._unpack.eof:
                raise _damaged("a block ends early")
            try:
                some = self._unpack.decompress(self._packed, count - len(self._got))
            except OSError as error:
                raise _damaged("a block is not bzip2") from error
            if not some and self._unpack.needs_input and not self._packed:
                raise _damaged("a block ends early")
            self._packed = b""
            self._got += some
        taken = bytes(self._got[:count])
        del self._got[:count]
        return taken

    def number(self) -> int:
        return _number(self.take(_NUMBER))


def apply(old: bytes, delta: bytes, size: int) -> Iterator[bytes]:
    """The new image in pieces of at most 64 KiB, at most ``size`` bytes of it.

    Raises Refused: ``size_mismatch``, the delta is for an image of another size; ``hash_mismatch``, it is damaged.
    """
    if len(delta) < _HEAD or not delta.startswith(_MAGIC):
        raise _damaged("it does not begin as BSDIFF40")
    first, second, new_size = (_number(delta[at : at + _NUMBER]) for at in range(_NUMBER, _HEAD, _NUMBER))
    if new_size != size:
        raise Refused(f"The delta is for an image of {new_size} bytes, not {size}", code="size_mismatch")
    if first < 0 or second < 0 or _HEAD + first + second > len(delta):
        raise _damaged("its blocks are longer than it is")
    control = _Block(delta[_HEAD : _HEAD + first])
    added = _Block(delta[_HEAD + first : _HEAD + first + second])
    extra = _Block(delta[_HEAD + first + second :])
    before, at, made, idle = np.frombuffer(old, np.uint8), 0, 0, 0
    while made < size:
        add, copy, move = control.number(), control.number(), control.number()
        idle += add + copy == 0
        if add < 0 or copy < 0 or add + copy > size - made or idle > _MAX_IDLE:
            raise _damaged("it makes more bytes than it says, or none")
        for start in range(0, add, _PIECE_BYTES):
            piece = np.frombuffer(added.take(min(_PIECE_BYTES, add - start)), np.uint8)
            # Bytes before the start or after the end of the old image count as 0.
            places = np.arange(at + start, at + start + len(piece))
            inside = (places >= 0) & (places < len(before))
            base = np.zeros(len(piece), np.uint8)
            base[inside] = before[places[inside]]
            yield (piece + base).tobytes()
        for start in range(0, copy, _PIECE_BYTES):
            yield extra.take(min(_PIECE_BYTES, copy - start))
        made += add + copy
        at += add + move


def _number(content: bytes) -> int:
    value = int.from_bytes(content, "little")
    return -(value & ~(1 << 63)) if value >> 63 else value


def _damaged(what: str) -> Refused:
    return Refused(f"The delta is damaged: {what}", code="hash_mismatch")
