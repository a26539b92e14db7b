"""Deltas: what turns one image into another, so that a device downloads a small part of it.

A delta is an artifact with the digests of both images. It is offered to a device by the digest of the image that the
device reports to run, never by its version: a delta fits one image alone. It is not signed; the device verifies the
resulting image by the signed manifest.
"""

import asyncio
import importlib.util
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from fleetcore.errors import Conflict, NotFound, Refused
from fleetcore.fleet.repository import Repository
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage, artifact_unknown
from fleetcore.interfaces.waits import end_process
from fleetcore.model.firmware import Delta
from fleetcore.model.store import ArtifactInfo, Event

#: What making a delta may take. bsdiff needs 17 bytes for each byte of the base and 3 for each of the target (measured:
#: 94 MiB for 4.7 MB, tests/firmware/test_deltas.py), so images may have about 100 MB.
MEMORY_BYTES = 2 << 30
SECONDS = 300
_BASE_FACTOR, _TARGET_FACTOR = 17, 3
#: A delta may have this part of the compressed image.
_USEFUL = 0.5
#: How compressed files begin: gzip, xz, zstd, bzip2, zip, lz4.
_COMPRESSED = (b"\x1f\x8b", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd", b"BZh", b"PK\x03\x04", b"\x04\x22\x4d\x18")
_PIECE_BYTES = 1 << 20


class Deltas:
    """Makes deltas, and finds them.

    Args:
        memory_bytes, seconds: the limits of the process that makes one.
    """

    def __init__(
        self, storage: Storage, clock: Clock, *, memory_bytes: int = MEMORY_BYTES, seconds: int = SECONDS
    ) -> None:
        self._storage, self._clock = storage, clock
        self._memory_bytes, self._seconds = memory_bytes, seconds
        self.records = _repository(storage)
        #: One at a time: each may take gigabytes.
        self._turn = asyncio.Lock()

    async def make(self, base: str, target: str, *, actor: str = "system", reason: str = "") -> Delta:
        """Makes and stores the delta between two images; the same again changes nothing.

        Args:
            base, target: each a release, ``NAME:SEQ``, or the SHA-256 of an image.

        Raises:
            NotFound: ``not_found``, ``artifact_unknown``.
            Refused: ``limit_exceeded``, it takes too much memory or time; or bsdiff4 is not installed.
            Conflict: ``delta_unsuitable``, the images are equal or compressed, or the delta is over half as large as
                the compressed target.
        """
        old, new = await self._image(base), await self._image(target)
        key = f"{old.sha256}:{new.sha256}"
        async with self._turn:
            known = await self.records.get(key)
            if known is not None:
                return known
            await self._check(old, new)
            with tempfile.TemporaryDirectory(prefix="fleetcore-delta-") as folder:
                delta, size, compressed = await self._made(Path(folder), old, new)
                if size > compressed * _USEFUL:
                    raise _unsuitable(
                        f"The delta has {size} bytes, {_percent(size, compressed)} of the {compressed} bytes of the "
                        f"compressed image, and is not kept: the limit is {_USEFUL:.0%}"
                    )
                stored = await self._storage.put_artifact(_read(delta), sha256=None, limit_bytes=size)
            made = Delta(
                id=key,
                base=old.sha256,
                target=new.sha256,
                sha256=stored.sha256,
                size=size,
                full_size=new.size_bytes,
                compressed_size=compressed,
                added=self._clock.now_ms(),
                by=actor,
            )
            event = Event(
                type="delta.made",
                subject=key,
                time=made.added,
                actor=actor,
                reason=reason,
                data={"sha256": made.sha256, "size": size, "full_size": made.full_size},
            )
            return await self.records.create(made, [event])

    async def _image(self, name: str) -> ArtifactInfo:
        release = await self._storage.get("release", name)
        sha256 = name if release is None else str(release.body["sha256"])
        found = await self._storage.artifact(sha256)
        if found is None and release is None and len(name) != 64:
            raise NotFound(
                f"{name!r} is neither a release nor the SHA-256 of an image",
                remedy="`fleetcore firmware release list` names the releases",
            )
        if found is None:
            raise artifact_unknown(sha256)
        return found

    async def _check(self, old: ArtifactInfo, new: ArtifactInfo) -> None:
        if old.sha256 == new.sha256:
            raise _unsuitable(f"Both images are {old.sha256}")
        for image in (old, new):
            if await self._begins_compressed(image.sha256):
                raise _unsuitable(
                    f"The image {image.sha256} is compressed, and a small change makes all of it different"
                )
        needed = _BASE_FACTOR * old.size_bytes + _TARGET_FACTOR * new.size_bytes
        if needed > self._memory_bytes:
            raise Refused(
                f"Images of {old.size_bytes} and {new.size_bytes} bytes need {needed} bytes of memory",
                code="limit_exceeded",
                remedy="Offer the whole image",
                limit=self._memory_bytes,
                unit="bytes",
                scope="memory for a delta",
            )
        if importlib.util.find_spec("bsdiff4") is None:
            raise Refused("Deltas need bsdiff4", remedy="pip install 'fleetcore[delta]' on the server")

    async def _begins_compressed(self, sha256: str) -> bool:
        head = b"".join([piece async for piece in self._storage.read_artifact(sha256, 0, 8)])
        return head.startswith(_COMPRESSED)

    async def _made(self, folder: Path, old: ArtifactInfo, new: ArtifactInfo) -> tuple[Path, int, int]:
        """The delta's file, its size, and that of the compressed target."""
        base, target, delta = folder / "base", folder / "target", folder / "delta"
        for image, place in ((old, base), (new, target)):
            with place.open("wb") as file:
                async for piece in self._storage.read_artifact(image.sha256):
                    await asyncio.to_thread(file.write, piece)
        limits = (str(self._memory_bytes), str(self._seconds))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", str(Path(__file__).with_name("delta_worker.py")),
            str(base), str(target), str(delta), *limits,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env={},
        )  # fmt: skip
        try:
            async with asyncio.timeout(self._seconds):
                said, failed = await process.communicate()
        except TimeoutError:
            raise self._exceeded("time", self._seconds, "seconds") from None
        finally:
            await end_process(process)
        code = process.returncode or 0
        if code < 0:  # by a signal: the limit of processor time or of the delta's size
            raise self._exceeded("time, or more bytes than the image has,", self._seconds, "seconds")
        if code:
            last = failed.decode(errors="replace").strip().rsplit("\n", 1)[-1]
            if last.startswith("MemoryError"):
                raise self._exceeded("memory", self._memory_bytes, "bytes")
            raise _unsuitable(f"The delta cannot be made: {last[:200]}")
        size, compressed = said.split()
        return delta, int(size), int(compressed)

    @staticmethod
    def _exceeded(what: str, limit: int, unit: str) -> Refused:
        return Refused(
            f"Making the delta takes more {what} than it may: {limit} {unit}",
            code="limit_exceeded",
            remedy="Offer the whole image",
            limit=limit,
            unit=unit,
            scope="making a delta",
        )


async def offered_deltas(storage: Storage, running: str | None, target: str) -> list[dict[str, object]]:
    """What an offer says of the deltas from the image that a device reports to run."""
    found = None if running is None else await _repository(storage).get(f"{running}:{target}")
    if found is None:
        return []
    return [
        {
            "from": found.base,
            "format": found.format,
            "sha256": found.sha256,
            "size": found.size,
            "path": f"/device/v1/artifacts/{found.sha256}",
        }
    ]


async def is_delta_to(storage: Storage, target: str | None, sha256: str) -> bool:
    """Whether an artifact is a delta to an image."""
    found = [] if target is None else await _repository(storage).find(ref=("target", target))
    return any(delta.sha256 == sha256 for delta in found)


def _repository(storage: Storage) -> Repository[Delta]:
    return Repository(storage, "delta", Delta, refs=lambda delta: [("target", delta.target)])


def _unsuitable(message: str) -> Conflict:
    return Conflict(message, code="delta_unsuitable", remedy="Offer the whole image; devices take it without a delta")


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "all"


async def _read(file: Path) -> AsyncIterator[bytes]:
    with file.open("rb") as opened:
        while piece := await asyncio.to_thread(opened.read, _PIECE_BYTES):
            yield piece
