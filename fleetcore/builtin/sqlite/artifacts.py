"""Artifacts: blobs named by their SHA-256, as files ``artifacts/ab/abcd…`` or, for a store in memory, as bytes.

A blob is streamed into a temporary file, synced, and renamed into place, so a visible blob is complete and durable.
An unfinished upload is the file ``artifacts/parts/DIGEST-SIZE``; its length is how far it has come.
"""

import asyncio
import hashlib
import os
import re
import shutil
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from array import array
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from contextlib import aclosing, suppress
from math import inf
from pathlib import Path
from tempfile import _TemporaryFileWrapper
from typing import Any, BinaryIO, ParamSpec, TypeVar
from zlib import crc32

import numpy as np

from fleetcore.builtin.sqlite import checksum, folder
from fleetcore.builtin.sqlite.failure import translated
from fleetcore.errors import Refused, StorageError
from fleetcore.files import make_private
from fleetcore.interfaces.storage import (
    artifact_unknown,
    check_artifact_digest,
    check_artifact_size,
    check_complete,
    check_offset,
    check_part_size,
)
from fleetcore.model.file_span import FileSpan
from fleetcore.model.store import ArtifactInfo, PartInfo

P = ParamSpec("P")
T = TypeVar("T")

_PIECE_BYTES = 256 * 1024
_SECTOR_BYTES = 4096
#: So many pieces are read at a time, while those before are sent: each download has twice these in memory. Those that
#: are only checked are in a buffer of the thread.
_READ_PIECES, _CHECKED_PIECES = 2, 8
_buffers = threading.local()
_TEMPORARY, _PARTS = "tmp", "parts"
#: Blobs whose pieces' checksums are cached: 64 bytes a MiB each.
_KNOWN = 1000
#: A piece that was checked less than so long ago is in the memory of the system. It is not checked again, unless its
#: file was written to since.
_CHECKED_FOR_S = 60.0
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PART_NAME = re.compile(r"([0-9a-f]{64})-([0-9]{1,15})", re.ASCII)
#: An unfinished upload: the digest and the size of the whole.
Part = tuple[str, int]


class _Known:
    """The checksum of each piece of a blob, and when which piece was last found intact, monotonic."""

    def __init__(self, sums: Sequence[int]) -> None:
        self.sums = sums
        self._intact_s = array("d", [-inf]) * len(sums)
        self._written: tuple[int, int] | None = None

    def seen(self, file: BinaryIO) -> None:
        """Forgets the checks where the file was written to since."""
        state = os.fstat(file.fileno())
        if (state.st_ino, state.st_mtime_ns) != self._written:
            self._written = (state.st_ino, state.st_mtime_ns)
            self._intact_s = array("d", [-inf]) * len(self.sums)

    def is_intact(self, pieces: slice) -> bool:
        """Whether all of some pieces were intact a short time ago."""
        return min(self._intact_s[pieces], default=-inf) > time.monotonic() - _CHECKED_FOR_S

    def found_intact(self, pieces: slice) -> None:
        """Some pieces were checked."""
        now = time.monotonic()
        self._intact_s[pieces] = array("d", [now]) * len(self._intact_s[pieces])


class Artifacts(ABC):
    """Where the store puts blobs; see :class:`~fleetcore.interfaces.Storage` for the guarantees."""

    @abstractmethod
    async def put(self, content: AsyncIterator[bytes], sha256: str | None, limit_bytes: int) -> ArtifactInfo:
        """Writes a blob from a stream."""

    @abstractmethod
    def info(self, sha256: str) -> ArtifactInfo | None:
        """The blob's size."""

    @abstractmethod
    def read(self, sha256: str, start: int, end: int | None) -> AsyncIterator[bytes]:
        """Reads a part of a blob."""

    def spans(self, sha256: str, start: int, end: int | None) -> AsyncIterator[FileSpan] | None:
        """The parts of a file that hold a part of a blob; None if the store keeps blobs elsewhere."""
        del sha256, start, end
        return None

    @abstractmethod
    async def remove(self, sha256: str) -> None:
        """Removes a blob; does nothing where there is none."""

    @abstractmethod
    async def parts(self) -> Sequence[PartInfo]:
        """The unfinished uploads."""

    @abstractmethod
    async def append(self, part: Part, content: AsyncIterator[bytes], offset: int, now_ms: int) -> int:
        """Adds to an unfinished upload."""

    @abstractmethod
    async def finish(self, part: Part) -> ArtifactInfo:
        """Makes a complete upload a blob."""

    @abstractmethod
    async def drop(self, part: Part) -> None:
        """Removes an unfinished upload."""

    @abstractmethod
    def copy_to(self, target: Path) -> None:
        """Writes all blobs into an empty folder."""

    @abstractmethod
    def verify(self, after: str | None) -> tuple[list[str], int, str | None]:
        """Checks the next blob; returns its fault, its bytes, and its name, None at the end."""

    @abstractmethod
    def size(self) -> int:
        """The total bytes of all blobs."""

    @abstractmethod
    def taken(self) -> int:
        """The total bytes of all blobs and unfinished uploads."""


class MemoryArtifacts(Artifacts):
    """Blobs in memory; they end with the process."""

    def __init__(self) -> None:
        self._blobs: dict[str, bytes] = {}
        self._parts: dict[Part, tuple[bytearray, int]] = {}

    async def put(self, content: AsyncIterator[bytes], sha256: str | None, limit_bytes: int) -> ArtifactInfo:
        whole = bytearray()
        async for some in content:
            check_artifact_size(len(whole) + len(some), limit_bytes)
            whole += some
        digest = hashlib.sha256(whole).hexdigest()
        check_artifact_digest(digest, sha256)
        self._blobs.setdefault(digest, bytes(whole))
        return ArtifactInfo(digest, len(whole))

    def info(self, sha256: str) -> ArtifactInfo | None:
        blob = self._blobs.get(sha256)
        return ArtifactInfo(sha256, len(blob)) if blob is not None else None

    async def read(self, sha256: str, start: int, end: int | None) -> AsyncIterator[bytes]:
        if sha256 not in self._blobs:
            raise artifact_unknown(sha256)
        part = self._blobs[sha256][start:end]
        for at in range(0, len(part), _PIECE_BYTES):
            yield part[at : at + _PIECE_BYTES]

    async def remove(self, sha256: str) -> None:
        self._blobs.pop(sha256, None)

    async def parts(self) -> Sequence[PartInfo]:
        return [
            PartInfo(sha256=sha256, size_bytes=size, received=len(came), changed=changed)
            for (sha256, size), (came, changed) in sorted(self._parts.items())
        ]

    async def append(self, part: Part, content: AsyncIterator[bytes], offset: int, now_ms: int) -> int:
        came, _ = self._parts.get(part, (bytearray(), 0))
        check_offset(offset, len(came))
        self._parts[part] = (came, now_ms)
        async for some in content:
            check_part_size(len(came) + len(some), part[1])
            came += some
        return len(came)

    async def finish(self, part: Part) -> ArtifactInfo:
        came = self._parts[part][0] if part in self._parts else b""
        check_complete(len(came), part[1])
        self._parts.pop(part, None)
        check_artifact_digest(hashlib.sha256(came).hexdigest(), part[0])
        self._blobs.setdefault(part[0], bytes(came))
        return ArtifactInfo(part[0], len(came))

    async def drop(self, part: Part) -> None:
        self._parts.pop(part, None)

    def copy_to(self, target: Path) -> None:
        for digest, blob in self._blobs.items():
            place = target / digest[:2] / digest
            make_private(place.parent)
            place.write_bytes(blob)

    def verify(self, after: str | None) -> tuple[list[str], int, str | None]:
        del after
        return [], 0, None

    def size(self) -> int:
        return 0

    def taken(self) -> int:
        return 0


class FileArtifacts(Artifacts):
    """Blobs below a folder to which only this process writes.

    Args:
        admit: raises if there is no room for that many bytes.
    """

    def __init__(self, root: Path, admit: Callable[[int], None] = lambda _: None) -> None:
        self._root, self._admit = root, admit
        #: The bytes of all blobs, once counted, and of those being written.
        self._total: int | None = None
        #: The bytes of all unfinished uploads, once counted.
        self._unfinished: int | None = None
        self._counting = threading.Lock()
        self._coming = 0
        self._known: OrderedDict[str, _Known] = OrderedDict()

    def clean(self) -> None:
        """Removes temporary files of an earlier process that was killed."""
        shutil.rmtree(self._root / _TEMPORARY, ignore_errors=True)

    async def put(self, content: AsyncIterator[bytes], sha256: str | None, limit_bytes: int) -> ArtifactInfo:
        file = await _in_thread(self._begin)
        size = 0
        try:
            digest = hashlib.sha256()
            async for some in content:
                size += len(some)
                self._coming += len(some)
                check_artifact_size(size, limit_bytes)
                self._admit(self._coming)
                await _in_thread(digest.update, some)
                await _in_thread(file.write, some)
            check_artifact_digest(digest.hexdigest(), sha256)
            await _in_thread(self._finish, file, digest.hexdigest())
        finally:
            self._coming -= size
            # On a full disk even closing a buffered file fails.
            with suppress(OSError):
                file.close()
            # Already renamed on success.
            await asyncio.shield(asyncio.to_thread(lambda: Path(file.name).unlink(missing_ok=True)))
        return ArtifactInfo(digest.hexdigest(), size)

    async def remove(self, sha256: str) -> None:
        if _DIGEST.fullmatch(sha256) is not None:
            await _in_thread(self._remove, self._place(sha256))

    def _remove(self, place: Path) -> None:
        if not place.exists():
            return
        size = place.stat().st_size
        place.unlink()
        with self._counting:
            self._known.pop(place.name, None)
            if self._total is not None:
                self._total -= size
        _sync_folder(place.parent)

    async def parts(self) -> Sequence[PartInfo]:
        return await _in_thread(self._list_parts)

    def _list_parts(self) -> list[PartInfo]:
        found = []
        for place in sorted((self._root / _PARTS).glob("*-*")):
            name, there = _PART_NAME.fullmatch(place.name), place.stat()
            if name is not None:
                made = {"received": there.st_size, "changed": there.st_mtime_ns // 1_000_000}
                found.append(PartInfo(sha256=name[1], size_bytes=int(name[2]), **made))
        return found

    async def append(self, part: Part, content: AsyncIterator[bytes], offset: int, now_ms: int) -> int:
        file = await _in_thread(self._open_part, part)
        try:
            came = await _in_thread(lambda: os.fstat(file.fileno()).st_size)
            check_offset(offset, came)
            try:
                async for some in content:
                    check_part_size(came + len(some), part[1])
                    self._admit(self._coming + len(some))
                    await _in_thread(self._write, file, some)
                    came += len(some)
            finally:
                # The upload continues after a loss of power too.
                await asyncio.shield(asyncio.to_thread(_settle, file, now_ms))
            return came
        finally:
            file.close()

    def _open_part(self, part: Part) -> BinaryIO:
        place = self._part(part)
        for made in (self._root, place.parent):
            made.mkdir(mode=0o700, exist_ok=True)
        return open(place, "ab", buffering=0, opener=_private)

    def _write(self, file: BinaryIO, some: bytes) -> None:
        rest = memoryview(some)
        while rest:
            # On a full disk it writes less, and the next call fails.
            written = file.write(rest)
            rest = rest[written:]
            with self._counting:
                if self._unfinished is not None:
                    self._unfinished += written

    async def finish(self, part: Part) -> ArtifactInfo:
        return await _in_thread(self._finish_part, part)

    def _finish_part(self, part: Part) -> ArtifactInfo:
        place, (sha256, size) = self._part(part), part
        check_complete(place.stat().st_size if place.exists() else 0, size)
        with self._open_part(part) as file, place.open("rb") as content:
            try:
                check_artifact_digest(hashlib.file_digest(content, "sha256").hexdigest(), sha256)
            except Refused:
                self._drop(part)
                raise
            os.fsync(file.fileno())
            self._publish(place, sha256)
        self._recount()
        return ArtifactInfo(sha256, size)

    async def drop(self, part: Part) -> None:
        await _in_thread(self._drop, part)

    def _drop(self, part: Part) -> None:
        self._part(part).unlink(missing_ok=True)
        self._recount()

    def _recount(self) -> None:
        with self._counting:
            self._unfinished = None

    def _part(self, part: Part) -> Path:
        sha256, size = part
        if _DIGEST.fullmatch(sha256) is None:
            raise artifact_unknown(sha256)
        return self._root / _PARTS / f"{sha256}-{size}"

    def _begin(self) -> "_TemporaryFileWrapper[bytes]":
        for made in (self._root, self._root / _TEMPORARY):
            made.mkdir(mode=0o700, exist_ok=True)
        return tempfile.NamedTemporaryFile(dir=self._root / _TEMPORARY, delete=False, buffering=_PIECE_BYTES)

    def _finish(self, file: "_TemporaryFileWrapper[bytes]", digest: str) -> None:
        file.flush()
        os.fsync(file.fileno())
        self._publish(Path(file.name), digest)

    def _publish(self, written: Path, digest: str) -> None:
        """Makes a complete and synced file a blob."""
        place = self._place(digest)
        place.parent.mkdir(mode=0o700, exist_ok=True)
        with self._counting:
            if self._total is not None and not place.exists():
                self._total += written.stat().st_size
            written.replace(place)
        # The new name is durable only once its folder is synced, and that folder once its parent is.
        for above in (place.parent, self._root):
            _sync_folder(above)

    def info(self, sha256: str) -> ArtifactInfo | None:
        if _DIGEST.fullmatch(sha256) is None:
            return None
        try:
            return ArtifactInfo(sha256, self._place(sha256).stat().st_size)
        except FileNotFoundError:
            return None

    async def read(self, sha256: str, start: int, end: int | None) -> AsyncIterator[bytes]:
        end = self._end(sha256, end)
        async with aclosing(self._each(sha256, start, end, _READ_PIECES, _read_checked, _read)) as pieces:
            async for _, at, piece in pieces:
                yield piece[max(0, start - at) : end - at]

    async def spans(self, sha256: str, start: int, end: int | None) -> AsyncIterator[FileSpan]:
        end = self._end(sha256, end)
        async with aclosing(self._each(sha256, start, end, _CHECKED_PIECES, _check, _size_of)) as pieces:
            async for file, at, size in pieces:
                begin = max(start, at)
                yield FileSpan(file.fileno(), begin, min(end, at + size) - begin)

    def _end(self, sha256: str, end: int | None) -> int:
        info = self.info(sha256)
        if info is None:
            raise artifact_unknown(sha256)
        return info.size_bytes if end is None else min(end, info.size_bytes)

    async def _each(
        self, sha256: str, start: int, end: int, count: int, work: Callable[[BinaryIO, int, Sequence[int]], T],
        instead: Callable[[BinaryIO, int, Sequence[int]], T],
    ) -> AsyncGenerator[tuple[BinaryIO, int, T]]:  # fmt: skip
        """What ``work`` makes of ``count`` pieces at a time, with the file and where they are; of the next meanwhile.

        It gets the file, where to begin in it, and the checksums of the pieces. ``instead`` makes the same, on the
        loop, of pieces that were intact a short time ago.
        """
        if start >= end:
            return
        known = await _in_thread(self._sums, sha256)
        with await _in_thread(self._place(sha256).open, "rb", buffering=0) as file:
            known.seen(file)
            last = -(-end // _PIECE_BYTES)
            ahead: asyncio.Task[T] | None = None

            def begin(number: int) -> Coroutine[Any, Any, T]:
                return _in_thread(work, file, number * _PIECE_BYTES, known.sums[number : number + count])

            try:
                for number in range(start // _PIECE_BYTES, last, count):
                    pieces = slice(number, number + count)
                    if ahead is None and known.is_intact(pieces):
                        made = instead(file, number * _PIECE_BYTES, known.sums[pieces])
                    else:
                        made = await (ahead or begin(number))
                        if made:
                            known.found_intact(pieces)
                    ahead = None
                    if not made:
                        raise _damaged(sha256)
                    following = slice(number + count, number + 2 * count)
                    if number + count < last and not known.is_intact(following):
                        ahead = asyncio.create_task(begin(number + count))
                    yield file, number * _PIECE_BYTES, made
            finally:
                if ahead is not None:
                    await asyncio.gather(ahead, return_exceptions=True)  # it uses the file

    def _sums(self, sha256: str) -> _Known:
        """The checksum of each piece of a blob. For them it is read once as a whole and compared with its name.

        Raises StorageError (``data_damaged``) if the content differs.
        """
        kept = self._known.get(sha256)
        if kept is None:
            digest, sums = hashlib.sha256(), array("L")
            with self._place(sha256).open("rb") as file:
                while piece := file.read(_PIECE_BYTES):
                    digest.update(piece)
                    sums.append(_sum(piece))
            if digest.hexdigest() != sha256:
                raise _damaged(sha256)
            kept = self._known[sha256] = _Known(sums)
            while len(self._known) > _KNOWN:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(sha256)
        return kept

    def copy_to(self, target: Path) -> None:
        for place in self._all():
            copy = target / place.parent.name / place.name
            make_private(copy.parent)
            shutil.copyfile(place, copy)
            copy.chmod(folder.FILE_MODE)
            with copy.open("rb") as file:
                os.fsync(file.fileno())

    def verify(self, after: str | None) -> tuple[list[str], int, str | None]:
        place = self._next("" if after is None else after)
        if place is None:
            return [], 0, None
        with place.open("rb") as file:
            intact = hashlib.file_digest(file, "sha256").hexdigest() == place.name
            size = file.tell()
        return [] if intact else [f"{_damaged(place.name).message}."], size, place.name

    def size(self) -> int:
        with self._counting:
            if self._total is None:
                self._total = sum(place.stat().st_size for place in self._all())
            return self._total

    def taken(self) -> int:
        with self._counting:
            if self._unfinished is None:
                self._unfinished = sum(part.received for part in self._list_parts())
            unfinished = self._unfinished
        return self.size() + unfinished

    def _all(self) -> list[Path]:
        return [place for above in self._folders() for place in _blobs(above)]

    def _folders(self) -> list[Path]:
        return sorted(self._root.glob("??"))

    def _next(self, name: str) -> Path | None:
        """The first blob after a name; folders before it are not listed."""
        for above in self._folders():
            if above.name >= name[:2]:
                found = next((place for place in _blobs(above) if place.name > name), None)
                if found is not None:
                    return found
        return None

    def _place(self, digest: str) -> Path:
        return self._root / digest[:2] / digest


def _blobs(above: Path) -> list[Path]:
    return sorted(place for place in above.iterdir() if _DIGEST.fullmatch(place.name))


async def _in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Runs file work on another thread; its errors become the store's, while errors of a source stream do not."""
    try:
        return await asyncio.to_thread(work, *args, **kwargs)
    except OSError as error:
        raise translated(error) from error


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, folder.FILE_MODE)


def _settle(file: BinaryIO, now_ms: int) -> None:
    """Syncs an upload and stores when it changed."""
    with suppress(OSError):  # a full disk: what is stored is found by the file's length
        os.fsync(file.fileno())
        os.utime(file.fileno(), ns=(now_ms * 1_000_000, now_ms * 1_000_000))


def _read(file: BinaryIO, at: int, sums: Sequence[int]) -> bytes:
    """Reads as many pieces."""
    file.seek(at)
    return file.read(len(sums) * _PIECE_BYTES)


def _read_checked(file: BinaryIO, at: int, sums: Sequence[int]) -> bytes:
    """Reads pieces that have these checksums; nothing where their content has changed."""
    read = _read(file, at, sums)
    return read if _is_intact(memoryview(read), sums) else b""


def _check(file: BinaryIO, at: int, sums: Sequence[int]) -> int:
    """The size of pieces that have these checksums; 0 where their content has changed."""
    if not hasattr(_buffers, "checked"):
        _buffers.checked = memoryview(bytearray(_CHECKED_PIECES * _PIECE_BYTES))
    view, read = _buffers.checked[: len(sums) * _PIECE_BYTES], 0
    file.seek(at)
    while read < len(view) and (some := file.readinto(view[read:])):  # type: ignore[attr-defined]  # a raw file
        read += some
    return read if _is_intact(view[:read], sums) else 0


def _size_of(file: BinaryIO, at: int, sums: Sequence[int]) -> int:
    """The size of pieces that are not read."""
    return min(len(sums) * _PIECE_BYTES, os.fstat(file.fileno()).st_size - at)


def _is_intact(read: memoryview, sums: Sequence[int]) -> bool:
    return [_sum(read[at : at + _PIECE_BYTES]) for at in range(0, len(read), _PIECE_BYTES)] == list(sums)


def _sum(piece: bytes | memoryview) -> int:
    """A checksum of a piece: of the sums of its sectors. A tenth of the time of a CRC of it all.

    A flipped bit always changes it, and so do sectors in another order.
    """
    whole = len(piece) // _SECTOR_BYTES
    if not whole:
        return crc32(piece)
    words = np.frombuffer(piece, np.uint64, whole * _SECTOR_BYTES // 8)
    sectors = np.add.reduce(words.reshape(whole, -1), axis=1)
    return crc32(piece[whole * _SECTOR_BYTES :], crc32(sectors.tobytes()))


def _damaged(sha256: str) -> StorageError:
    return checksum.damaged(f"The artifact {sha256}", sha256=sha256)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
