"""Artifacts: blobs named by their SHA-256, as files ``artifacts/ab/abcd…`` or, for a store in memory, as bytes.

A blob is streamed into a temporary file, synced, and renamed into place, so what can be seen is whole and durable.
"""

import asyncio
import hashlib
import os
import re
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from tempfile import _TemporaryFileWrapper
from typing import ParamSpec, TypeVar

from fleetcore.builtin.sqlite import folder
from fleetcore.builtin.sqlite.failure import translated
from fleetcore.interfaces.storage import artifact_unknown, check_artifact_digest, check_artifact_size
from fleetcore.model.store import ArtifactInfo

P = ParamSpec("P")
T = TypeVar("T")

_PIECE_BYTES = 256 * 1024
_TEMPORARY = "tmp"
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Artifacts(ABC):
    """What the store asks of a place for blobs; see :class:`~fleetcore.interfaces.Storage` for the promises."""

    @abstractmethod
    async def put(self, content: AsyncIterator[bytes], sha256: str | None, limit_bytes: int) -> ArtifactInfo:
        """Streams a blob in."""

    @abstractmethod
    def info(self, sha256: str) -> ArtifactInfo | None:
        """The blob's size."""

    @abstractmethod
    def read(self, sha256: str, start: int, end: int | None) -> AsyncIterator[bytes]:
        """A part of a blob."""

    @abstractmethod
    def copy_to(self, target: Path) -> None:
        """Writes all blobs into an empty folder."""

    @abstractmethod
    def damaged(self) -> list[str]:
        """One sentence for each blob whose content is not what its name says."""


class MemoryArtifacts(Artifacts):
    """Blobs that end with the process."""

    def __init__(self) -> None:
        self._blobs: dict[str, bytes] = {}

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

    def copy_to(self, target: Path) -> None:
        for digest, blob in self._blobs.items():
            place = target / digest[:2] / digest
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(blob)

    def damaged(self) -> list[str]:
        return []


class FileArtifacts(Artifacts):
    """Blobs below a folder that this process alone writes to."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def clean(self) -> None:
        """Removes what a process that ended in the middle of a stream left."""
        shutil.rmtree(self._root / _TEMPORARY, ignore_errors=True)

    async def put(self, content: AsyncIterator[bytes], sha256: str | None, limit_bytes: int) -> ArtifactInfo:
        file = await _in_thread(self._begin)
        try:
            digest, size = hashlib.sha256(), 0
            async for some in content:
                size += len(some)
                check_artifact_size(size, limit_bytes)
                await _in_thread(digest.update, some)
                await _in_thread(file.write, some)
            check_artifact_digest(digest.hexdigest(), sha256)
            await _in_thread(self._finish, file, digest.hexdigest())
        finally:
            # A full disk lets a buffered file not even close in peace.
            with suppress(OSError):
                file.close()
            # Renamed away where all went well.
            await asyncio.shield(asyncio.to_thread(lambda: Path(file.name).unlink(missing_ok=True)))
        return ArtifactInfo(digest.hexdigest(), size)

    def _begin(self) -> "_TemporaryFileWrapper[bytes]":
        for made in (self._root, self._root / _TEMPORARY):
            made.mkdir(mode=0o700, exist_ok=True)
        return tempfile.NamedTemporaryFile(dir=self._root / _TEMPORARY, delete=False, buffering=_PIECE_BYTES)

    def _finish(self, file: "_TemporaryFileWrapper[bytes]", digest: str) -> None:
        file.flush()
        os.fsync(file.fileno())
        place = self._place(digest)
        place.parent.mkdir(mode=0o700, exist_ok=True)
        Path(file.name).replace(place)
        # The name is durable only with its folder, and that with the folder above it.
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
        if self.info(sha256) is None:
            raise artifact_unknown(sha256)
        with await _in_thread(self._place(sha256).open, "rb") as file:
            file.seek(start)
            left = None if end is None else max(0, end - start)
            while left is None or left > 0:
                some = await _in_thread(file.read, _PIECE_BYTES if left is None else min(left, _PIECE_BYTES))
                if not some:
                    return
                left = None if left is None else left - len(some)
                yield some

    def copy_to(self, target: Path) -> None:
        for place in self._all():
            copy = target / place.parent.name / place.name
            copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            shutil.copyfile(place, copy)
            copy.chmod(folder.FILE_MODE)
            with copy.open("rb") as file:
                os.fsync(file.fileno())

    def damaged(self) -> list[str]:
        found = []
        for place in self._all():
            with place.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != place.name:
                    found.append(f"The artifact {place.name} has other content than its name says.")
        return found

    def _all(self) -> list[Path]:
        return sorted(place for place in self._root.glob("??/*") if _DIGEST.fullmatch(place.name))

    def _place(self, digest: str) -> Path:
        return self._root / digest[:2] / digest


async def _in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Runs file work on another thread; its errors are the store's, unlike those of a stream that is put in."""
    try:
        return await asyncio.to_thread(work, *args, **kwargs)
    except OSError as error:
        raise translated(error) from error


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
