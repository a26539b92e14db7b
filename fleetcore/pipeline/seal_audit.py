"""Seals the audit log: commits become the next rows of the hash chain, each once, in the feed's order.

One commit saves the rows, the feed position and the end of the chain, so a crash neither skips nor repeats a row. Every
thousand rows, or every hour with new rows, a signed checkpoint is appended to a separate file.
"""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from msgspec import json

from fleetcore.fleet.audit import HEAD, Head, Signer, sealed, signed
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.model.audit import GENESIS, Checkpoint
from fleetcore.model.days import HOUR_MS
from fleetcore.model.events import EventTypes
from fleetcore.model.store import Commit, Event, FeedEntry, Put
from fleetcore.pipeline.consumer import Consumer

_CHECKPOINT_ROWS, _CHECKPOINT_MS = 1000, HOUR_MS
#: Rows of a commit, unless one change alone has more: other commits and messages wait for it.
_TOGETHER = 128


class AuditSealer(Consumer):
    """The consumer ``audit``.

    Args:
        types: decides which events are audited.
        sign: signs a checkpoint; None in memory, which has no separate file.
        file: where checkpoints are appended.
        fleet: the fleet's id, which checkpoints contain.
    """

    def __init__(
        self,
        storage: Storage,
        clock: Clock,
        types: EventTypes,
        sign: Signer | None,
        file: Path | None,
        fleet: str = "",
    ) -> None:
        super().__init__("audit", storage, clock)
        self._types, self._sign, self._file, self._fleet = types, sign, file, fleet
        self._seq, self._hash = 0, GENESIS
        self._marked, self._marked_ms = 0, 0

    async def start(self) -> None:
        """Begins with the oldest commit that is still there; a row reports what was trimmed before."""
        if await self._storage.cursor(self.name) is None:
            await self._storage.commit(Commit(cursors={self.name: 0}))

    async def _open(self) -> None:
        kept = await self._storage.blob(HEAD)
        if kept is not None:
            head = json.decode(kept, type=Head)
            self._seq, self._hash = head.seq, head.hash
            self._marked, self._marked_ms = head.marked, head.marked_ms

    async def _handle(self, entries: Sequence[FeedEntry]) -> bool:
        some: list[FeedEntry] = []
        count = 0
        for entry in entries:
            if some and count + len(entry.events) > _TOGETHER:
                await self._seal(some)
                some, count = [], 0
            some.append(entry)
            count += len(entry.events)
        await self._seal(some)
        return False

    async def _seal(self, entries: Sequence[FeedEntry]) -> None:
        """Adds the rows of some entries in one commit."""
        lost, self.status.lost = self.status.lost, 0
        rows: list[Put] = []
        seq, prev = self._seq, self._hash
        for entry in entries:
            events = [event for event in entry.events if self._types.is_audited(event)]
            if lost and not rows:
                events.insert(0, self._gap(lost))
            for event in events:
                seq += 1
                row, prev = sealed(event, entry.position, seq, prev)
                rows.append(row)
        if not rows:
            return
        mark = self._due(seq, prev)
        position = entries[-1].position
        await self._storage.commit(
            Commit(puts=tuple(rows), cursors={self.name: position}, blobs={HEAD: self._head(seq, prev)})
        )
        self._seq, self._hash = seq, prev
        self._kept, self._kept_at = position, self._clock.monotonic_s()
        if mark is not None:
            # It counts once it is written: a crash before that writes another one, and never counts a missing one.
            await self._append(mark)
            self._marked, self._marked_ms = mark.seq, mark.time
            await self._storage.commit(Commit(blobs={HEAD: self._head(seq, prev)}))

    def _head(self, seq: int, digest: str) -> bytes:
        return json.encode(Head(seq=seq, hash=digest, marked=self._marked, marked_ms=self._marked_ms))

    def _gap(self, lost: int) -> Event:
        return Event(
            type="audit.gap",
            subject="audit",
            time=self._clock.now_ms(),
            reason=f"{lost} commits were trimmed before they were sealed",
        )

    def _due(self, seq: int, digest: str) -> Checkpoint | None:
        if self._sign is None or self._file is None:
            return None
        now = self._clock.now_ms()
        if seq - self._marked < _CHECKPOINT_ROWS and now - self._marked_ms < _CHECKPOINT_MS:
            return None
        return Checkpoint(seq=seq, hash=digest, time=now, fleet=self._fleet)

    async def _append(self, mark: Checkpoint) -> None:
        assert self._sign is not None
        assert self._file is not None
        await asyncio.to_thread(_append, self._file, signed(mark, self._sign))


def _append(file: Path, line: bytes) -> None:
    handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, line)
        os.fsync(handle)
    finally:
        os.close(handle)
