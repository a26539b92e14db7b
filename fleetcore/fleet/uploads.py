"""Uploads of images that survive an interruption: how far one has come, and what of it comes next.

An upload is named by the SHA-256 and the size of the whole image, so that any client that has the file can go on with
it. The announced sizes of all unfinished uploads count towards a quota, and one that gets nothing for a day is removed.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from attrs import frozen

from fleetcore.errors import Conflict, Refused, Unavailable
from fleetcore.fleet.campaigns import ARTIFACT_BYTES
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage, check_artifact_size
from fleetcore.interfaces.waits import end_tasks
from fleetcore.model.days import DAY_MS
from fleetcore.model.store import PartInfo

#: How many uploads may be unfinished: each is a file.
_MAX_UPLOADS = 100
_KEPT_MS = DAY_MS


@frozen(kw_only=True)
class Upload:
    """How far an upload has come; ``complete`` once its image is stored and verified."""

    sha256: str
    size_bytes: int
    received: int
    complete: bool


class Uploads:
    """Takes uploads, one request for each at a time.

    Args:
        quota_bytes: the limit of the announced sizes of all unfinished uploads.
    """

    def __init__(self, storage: Storage, clock: Clock, quota_bytes: int) -> None:
        self._storage, self._clock, self._quota_bytes = storage, clock, quota_bytes
        #: Upload → the request that continues it, and what tells that request to stop.
        self._running: dict[tuple[str, int], tuple[asyncio.Lock, asyncio.Event]] = {}

    async def get(self, sha256: str, size_bytes: int) -> Upload:
        """How far an upload has come: 0 bytes where nothing has.

        Raises:
            Refused: ``size_mismatch``, the image is stored and has another size.
        """
        stored = await self._storage.artifact(sha256)
        if stored is not None:
            if stored.size_bytes != size_bytes:
                raise Refused(f"The image has {stored.size_bytes} bytes, not {size_bytes}", code="size_mismatch")
            return Upload(sha256=sha256, size_bytes=size_bytes, received=size_bytes, complete=True)
        part = await self._part(sha256, size_bytes)
        received = 0 if part is None else part.received
        return Upload(sha256=sha256, size_bytes=size_bytes, received=received, complete=False)

    async def append(self, content: AsyncIterator[bytes], sha256: str, size_bytes: int, offset: int) -> Upload:
        """Continues an upload at its end; the last byte makes it an image, if its digest is right.

        A later request for the same upload takes its place: the client that went away may look connected for long.

        Raises:
            Refused: ``limit_exceeded``; ``quota_exceeded``; ``size_mismatch``, more comes than was announced;
                ``hash_mismatch``, and what came is removed.
            Conflict: ``offset_mismatch``; ``session_taken_over``, another request continues it.
            Unavailable: ``storage_full``; what came stays.
        """
        check_artifact_size(size_bytes, ARTIFACT_BYTES)
        upload = (sha256, size_bytes)
        lock, running = self._running.get(upload, (asyncio.Lock(), asyncio.Event()))
        running.set()
        mine = asyncio.Event()
        self._running[upload] = (lock, mine)
        try:
            async with lock:
                there = await self.get(sha256, size_bytes)
                if there.complete:
                    return there
                await self._check_quota(upload)
                await self._append(_until(mine, content), upload, offset)
                there = await self.get(sha256, size_bytes)
                if there.received == size_bytes:
                    await self._storage.finish_part(sha256, size_bytes)
                    there = await self.get(sha256, size_bytes)
                return there
        finally:
            if self._running.get(upload) == (lock, mine):
                del self._running[upload]

    async def _append(self, content: AsyncIterator[bytes], upload: tuple[str, int], offset: int) -> None:
        sha256, size_bytes = upload
        try:
            await self._storage.append_part(
                content, sha256=sha256, size_bytes=size_bytes, offset=offset, now_ms=self._clock.now_ms()
            )
        except Unavailable as error:
            if error.code != "storage_full":
                raise
            part = await self._part(sha256, size_bytes)
            raise Unavailable(
                f"The store is full; it keeps {0 if part is None else part.received} of the {size_bytes} bytes",
                code="storage_full",
                retry_after_s=error.retry_after_s,
                remedy="Free disk space, or raise limit_bytes of [storage], and upload the file again: it continues",
            ) from error

    async def _part(self, sha256: str, size_bytes: int) -> PartInfo | None:
        wanted = (sha256, size_bytes)
        return next((part for part in await self._storage.parts() if (part.sha256, part.size_bytes) == wanted), None)

    async def _check_quota(self, upload: tuple[str, int]) -> None:
        others = {(part.sha256, part.size_bytes) for part in await self._storage.parts()} | set(self._running)
        others.discard(upload)
        announced = sum(size for _, size in others)
        if announced + upload[1] > self._quota_bytes:
            raise Refused(
                f"Unfinished uploads have announced {announced} of {self._quota_bytes} bytes, and this one {upload[1]}",
                code="quota_exceeded",
                remedy="Finish them, wait a day until they are removed, or raise upload_quota_bytes of [firmware]",
                limit=self._quota_bytes,
                unit="bytes",
                scope="unfinished uploads",
            )
        if len(others) >= _MAX_UPLOADS:
            raise Refused(
                f"{len(others)} uploads are unfinished",
                code="quota_exceeded",
                remedy="Finish them, or wait a day until they are removed",
                limit=_MAX_UPLOADS,
                unit="uploads",
                scope="unfinished uploads",
            )

    async def tick(self) -> None:
        """Removes the uploads that got nothing for a day."""
        since = self._clock.now_ms() - _KEPT_MS
        for part in await self._storage.parts():
            if part.changed < since and (part.sha256, part.size_bytes) not in self._running:
                await self._storage.drop_part(part.sha256, part.size_bytes)


async def _until(stop: asyncio.Event, content: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """The content, which ends with Conflict as soon as another request takes the upload over."""
    stopped = asyncio.ensure_future(stop.wait())
    try:
        while True:
            coming = asyncio.ensure_future(anext(content, None))
            try:
                await asyncio.wait({coming, stopped}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not coming.done():
                    await end_tasks(coming)
            if stop.is_set():
                raise Conflict(
                    "Another request continues this upload",
                    code="session_taken_over",
                    remedy="Let one client upload a file at a time",
                )
            piece = coming.result()
            if piece is None:
                return
            yield piece
    finally:
        await end_tasks(stopped)
