"""Storage: where the fleet's records, readings, events and artifacts are kept.

A store that passes ``fleetcore.testing.storage_contract.StorageContract`` may be offered under ``fleetcore_storages``.
All methods are coroutines of one event loop, and any number of them may be under way at once.

Twelve methods are the store's own; the others are derived from them, and a store overrides those that it can do more
quickly. What each costs as it is derived stands with it. The rules of a commit are in
:mod:`fleetcore.interfaces.commit_plan`, for stores that have no faster way of their own; records and requests are in
:mod:`fleetcore.model.store` and :mod:`fleetcore.model.telemetry`. ``examples/small_storage.py`` is a complete store.
"""

import asyncio
import contextlib
import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import ClassVar

import numpy as np

from fleetcore.errors import NotFound, Refused, StorageError
from fleetcore.model import values as named
from fleetcore.model.catalog import Catalog
from fleetcore.model.store import (
    DUE,
    ArtifactInfo,
    Commit,
    Committed,
    Expired,
    FeedEntry,
    FoundRecords,
    Index,
    MessageMark,
    Record,
    SeriesRequest,
    StoreSize,
    Verified,
    due_sort,
    split_place,
)
from fleetcore.model.telemetry import Aggregates, Latest, Series, SeriesData, TextReading, shown_value
from fleetcore.query.ast import Clause
from fleetcore.query.evaluate import matches

__all__ = ["Sharing", "Storage"]

#: Every time that a reading can have lies between them, in ms.
_EVER = (-(2**63), 2**63 - 1)
#: Records looked at together where a query leaves most of them out.
_PAGE = 500
#: How often a value is read again whose holder was deleted meanwhile.
_READ_AGAIN = 3
#: How soon, and how often at least, a wait looks for new commits.
_POLL_S, _POLL_MOST_S = 0.01, 0.25
#: The length of an artifact's pieces, each a blob.
_PIECE_BYTES = 256 * 1024
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Sharing(Enum):
    """How many processes may have a store open for writing."""

    #: One: what the store keeps in memory would go stale. A store that keeps files holds ``context.lease(folder)`` on
    #: their folder as long as it is open; on the fleet's data folder the core holds the lease already.
    ONE_PROCESS = "one-process"
    #: Any number, on any number of machines: each commit is judged against what all of them committed, the feed is one
    #: and in one order for all, and a series has one index for all. Each server needs a data folder of its own (keys,
    #: control socket, checkpoints of the audit log), which it leases as ever; the folders' ``pki/`` and fleet id are
    #: equal. What follows for the fleet: consumers (detectors, notifiers, mirrors) keep one cursor by name for all
    #: servers, so each is configured on one server. Sessions, presence and rate limits are known only to the server
    #: that a device is connected to. The audit log stays one chain, sealed by whichever server comes first, and a
    #: server's checkpoints name only what it sealed itself: verifying the log on another one finds them missing.
    SHARED = "shared"


class Storage(ABC):
    """The promises of a store.

    *Atomic and durable*: :meth:`commit` does all or nothing, and what it did survives ``kill -9`` and power loss
    once it has returned. *Ordered*: the feed shows commits in one order and never skips one. *Idempotent*: committing
    the same readings again changes nothing but the tally.

    **The winner's rule** (docs/reference/wire.md §3): at one (series, time) one value is kept. An equal value is a
    duplicate. Of two different values the higher ``seq`` wins, then the larger value; the event is one conflict. So any
    arrival order stores the same readings: the store remembers the highest ``seq`` of an equal value, and of readings
    equal in both the lower quality. ``-0.0`` counts as ``0.0``. A reading whose quality says ``SERVER_TIME`` is never a
    duplicate: where its time is taken it moves on by 1 ms until it is free (past a long taken run, to right after the
    newest of its series), and within a commit it gives way to times that devices gave. Repeats of such readings are
    told by their message's id alone.

    **Kept of a reading** are time, value, quality and seq; ``received`` is shown by the feed and need not be kept
    longer.

    **Positions**: a commit that changes records, readings or texts, or has events, takes the next position. One that
    does not (cursors, blobs, marks, counters, index entries, readings that are there already) takes none and returns
    the one before, so a consumer that saves its cursor does not wake itself.

    Errors: :class:`~fleetcore.errors.VersionConflict`, :class:`~fleetcore.errors.Conflict` (a unique value is taken),
    :class:`~fleetcore.errors.Unavailable` with code ``storage_full`` (nothing is stored; it may work later),
    :class:`~fleetcore.errors.StorageError`. Cancelling a caller never tears a commit: it happens whole or not at all.

    **The twelve** that a store writes itself: :meth:`commit`, for all groups; records :meth:`get`, :meth:`page` and
    :meth:`values`; series :attr:`catalog`, :meth:`intern`, :meth:`read` and :meth:`read_texts`; feed :meth:`feed` and
    :meth:`position`; upkeep :meth:`forget` and :meth:`backup`. Artifacts are derived whole.

    Attributes:
        sharing: how many processes may have the store open for writing.
    """

    sharing: ClassVar[Sharing] = Sharing.ONE_PROCESS

    @abstractmethod
    async def commit(self, change: Commit) -> Committed:
        """Does all of ``change`` atomically and durably; raises and does none of it otherwise.

        Of a commit whose caller was cancelled all is done or nothing, and that before one that is given later ends.

        What is refused is not shown, neither now nor after the next opening; a commit that could not be synced may
        be there whole after a crash.

        It is one commit across all groups: records, readings, texts, marks, events, cursors, blobs, counters, floors.
        Deletes are applied before puts, and unique values of all records of the commit are given free before new ones
        are taken. The store may keep the columns it is given: they must not change afterwards.

        Raises:
            NotFound: a reading's series was never given out or is forgotten; ``ids['series']`` says which.
        """

    # --- records ------------------------------------------------------------------------------------------------

    @abstractmethod
    async def get(self, kind: str, key: str) -> Record | None:
        """One record as of the last commit, or None."""

    @abstractmethod
    async def page(
        self, kind: str, index: Index | None, *, after: str | None, limit: int, newest: bool
    ) -> Sequence[tuple[str, Record]]:
        """Records of a kind in order, at most ``limit``, each with its place, beginning behind the place ``after``.

        The order is that of the keys (by code point); with ``index`` that of the record's ``sort`` in the index, then
        of the keys, and records that are not in the index are left out:
        :func:`fleetcore.model.store.index_entries` tells where a record stands. A place is what
        :func:`fleetcore.model.store.place` gives for both.

        Args:
            newest: the other way round, the last first; then what is "behind" ``after`` lies before it.
        """

    @abstractmethod
    async def values(self, space: str, names: Iterable[str] | None = None) -> Mapping[str, bytes]:
        """The named values of a space, those of ``names`` or all, by name; what is not there is left out.

        :mod:`fleetcore.model.values` says which spaces there are and what is in them. Commits fill them: by
        ``cursors``, ``blobs``, ``add``, ``floors`` and ``marks``, and by the unique values of records.
        """

    async def find(
        self,
        kind: str,
        *,
        ref: Index | None = None,
        where: Clause | None = None,
        after: str | None = None,
        limit: int = 1000,
        newest: bool = False,
        scan: int | None = None,
    ) -> FoundRecords:
        """Records of a kind in order, at most ``limit``, beginning behind ``after``.

        The order is that of the keys (by code point); with ``ref`` that of ``Put.sort``, then of the keys. The work
        is that of the records looked at, however many there are of the kind.

        By :meth:`page`; with ``where`` every record that is looked at is read. Pages of one answer may be of different
        moments.

        Args:
            ref: selects through the index that :class:`~fleetcore.model.store.Put` filled.
            where: evaluated on the body by the rules of :mod:`fleetcore.query.evaluate`.
            after: the ``after`` of the page before, in the same direction; without ``sort`` also a key.
            newest: the other way round, the last first.
            scan: how many records may be looked at for ``where``; the page is cut short there.
        """
        items: list[Record] = []
        last, looked_at = "", 0
        bound = None if where is None else scan
        while True:
            # One more than asked for tells whether there is a next page.
            size = limit - len(items) + 1 if where is None else _PAGE
            if bound is not None:
                size = min(size, bound - looked_at + 1)
            found = await self.page(kind, ref, after=after, limit=size, newest=newest)
            for at, record in found:
                if bound is not None and looked_at == bound:
                    return FoundRecords(items=tuple(items), after=after)
                if matches(where, record.body):
                    if len(items) == limit:
                        return FoundRecords(items=tuple(items), after=last)
                    items.append(record)
                    last = at
                after, looked_at = at, looked_at + 1
            if len(found) < size:
                return FoundRecords(items=tuple(items))

    async def get_many(self, kind: str, keys: Iterable[str]) -> Mapping[str, Record]:
        """The records of some keys, by key; keys without a record are left out. By a :meth:`get` for each."""
        wanted = list(dict.fromkeys(keys))
        found = await asyncio.gather(*(self.get(kind, key) for key in wanted))
        return {key: record for key, record in zip(wanted, found, strict=True) if record is not None}

    async def find_unique(self, space: str, value: str) -> Record | None:
        """The record that holds a unique value, or None. By :meth:`holders`."""
        return (await self.holders(space, [value])).get(value)

    async def holders(self, space: str, values: Iterable[str]) -> Mapping[str, Record]:
        """The records that hold values of a unique space, by value; values that none holds are left out.

        By :meth:`values`, and a :meth:`get` for each; a record that changes between the two is read again.
        """
        wanted, found = list(dict.fromkeys(values)), dict[str, Record]()
        for _ in range(_READ_AGAIN):
            if not wanted:
                break
            kept = await self.values(named.uniques_of(space), wanted)
            wanted = []
            for value, holder in kept.items():
                record = await self.get(*named.to_holder(holder))
                if record is not None:
                    found[value] = record
                else:
                    # It was deleted after its value was read; another may hold the value by now.
                    wanted.append(value)
        return found

    async def due(self, kind: str, until: int, limit: int = 1000) -> Sequence[Record]:
        """Records of a kind whose ``due`` is at or before ``until`` (ms), earliest first. By :meth:`page`."""
        last = due_sort(until)
        found = await self.page(kind, DUE, after=None, limit=limit, newest=False)
        return [record for at, record in found if split_place(at)[0] <= last]

    async def counters(self, space: str) -> Mapping[str, int]:
        """The counters of a space that are not 0, by name; as of the last commit. By :meth:`values`."""
        kept = await self.values(named.counters_of(space))
        return {name: named.to_number(value) for name, value in kept.items()}

    async def floor(self, space: str, name: str) -> int:
        """The highest number that a commit named in ``floors``, or 0. It outlives the records that it is about.

        By :meth:`values`.
        """
        kept = (await self.values(named.floors_of(space), [name])).get(name)
        return 0 if kept is None else named.to_number(kept)

    async def marks(self, device: str, ids: Sequence[str]) -> dict[str, MessageMark]:
        """The message ids among ``ids`` that the device used before; at least the last 10,000 of 24 h are known.

        By :meth:`values`.
        """
        kept = await self.values(named.marks_of(device), ids) if ids else {}
        return {name: named.to_mark(device, name, kept[name]) for name in ids if name in kept}

    # --- series -------------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def catalog(self) -> Catalog:
        """Every interned series by index; look-ups are in memory."""

    @abstractmethod
    async def intern(self, wanted: Sequence[SeriesRequest]) -> Sequence[Series]:
        """The series asked for, in order; new ones are made durably.

        The kind is that of the first call, the unit that of the first call that has one.
        """

    @abstractmethod
    def read(self, series: int, start: int, end: int) -> AsyncIterator[SeriesData]:
        """The points of a series with ``start <= time < end`` (ms), in time order, in pieces of bounded size.

        Each time occurs once. Quarantined points are included; their quality says so. A series that was never given
        out, or is forgotten, has none.
        """

    @abstractmethod
    def read_texts(self, series: int, start: int, end: int) -> AsyncIterator[TextReading]:
        """The text readings of a series with ``start <= time < end``, in time order, each time once.

        None of a series that was never given out, or is forgotten.
        """

    async def series_of(self, device: str | None = None) -> Sequence[Series]:
        """All series, or those of one device, by device and metric. By :attr:`catalog`."""
        return self.catalog.of(device)

    async def aggregate(self, series: int, start: int, end: int, bucket_ms: int) -> Aggregates:
        """The points with ``start <= time < end`` in buckets of ``bucket_ms`` aligned to the epoch.

        By :meth:`read`: all points of the range are read and held in memory, 16 bytes each.
        """
        pieces = [piece async for piece in self.read(series, start, end)]
        time = np.concatenate([piece.time for piece in pieces]) if pieces else np.empty(0, np.int64)
        value = np.concatenate([piece.value for piece in pieces]) if pieces else np.empty(0)
        buckets, first = np.unique(time // bucket_ms, return_index=True)
        count = np.diff(first, append=len(time))
        total = np.add.reduceat(value, first) if len(first) else value
        return Aggregates(
            series=self.catalog.series(series),
            start=buckets * bucket_ms,
            count=count,
            min=np.minimum.reduceat(value, first) if len(first) else value,
            max=np.maximum.reduceat(value, first) if len(first) else value,
            mean=total / count,
            sum=total,
            first=value[first],
            last=value[first + count - 1],
        )

    async def latest(self, series: Sequence[int]) -> Sequence[Latest | None]:
        """The reading with the newest event time of each series asked for, number or text; None where there is none.

        By :meth:`read` and :meth:`read_texts`: each series is read from its start, so a store that keeps its readings
        in order overrides it.
        """
        return [await self._latest(index) for index in series]

    async def _latest(self, index: int) -> Latest | None:
        newest: Latest | None = None
        async for piece in self.read(index, *_EVER):
            value = shown_value(piece.series, float(piece.value[-1]), int(piece.quality[-1]))
            newest = Latest(piece.series, int(piece.time[-1]), value)
        async for text in self.read_texts(index, *_EVER):
            if newest is None or text.time >= newest.time:
                newest = Latest(self.catalog.series(index), text.time, text.value)
        return newest

    # --- feed ---------------------------------------------------------------------------------------------------

    @abstractmethod
    async def feed(self, after: int, limit: int = 1000) -> Sequence[FeedEntry]:
        """Commits with a position greater than ``after``, in order, at most ``limit``.

        Raises:
            NotFound: code ``not_found``; the position was trimmed. ``ids['oldest']`` is the oldest that is left.
        """

    @abstractmethod
    async def position(self) -> int:
        """The position of the last commit; 0 where there is none."""

    async def wait_feed(self, after: int, timeout_s: float) -> bool:
        """Returns True as soon as the feed has something after ``after``, False after the time-out. A hint.

        By :meth:`position`, which is asked 100 times a second at first, and then more and more rarely, down to four
        times a second.
        """
        pause_s = _POLL_S
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while await self.position() <= after:
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, _POLL_MOST_S)
                return True
        return False

    async def cursor(self, name: str) -> int | None:
        """A kept feed position, or None. By :meth:`values`."""
        kept = (await self.values(named.CURSORS, [name])).get(name)
        return None if kept is None else named.to_number(kept)

    async def blob(self, name: str) -> bytes | None:
        """A kept binary state, or None. By :meth:`values`."""
        return (await self.values(named.BLOBS, [name])).get(name)

    # --- artifacts ----------------------------------------------------------------------------------------------

    async def put_artifact(
        self, content: AsyncIterator[bytes], *, sha256: str | None, limit_bytes: int
    ) -> ArtifactInfo:
        """Streams a blob in; nothing is visible before all of it is durable.

        Kept as blobs of 256 KiB, in one commit: the artifact is in memory as long as it is streamed, and beside the
        records for ever. A store of firmware images of many MiB overrides the three methods.

        Raises:
            Refused: ``limit_exceeded``, or the content has another digest than ``sha256`` (``hash_mismatch``).
        """
        whole = bytearray()
        async for some in content:
            whole += some
            check_artifact_size(len(whole), limit_bytes)
        digest = hashlib.sha256(whole).hexdigest()
        check_artifact_digest(digest, sha256)
        pieces = range(0, len(whole), _PIECE_BYTES)
        blobs: dict[str, bytes | None] = {
            _piece(digest, number): bytes(whole[at : at + _PIECE_BYTES]) for number, at in enumerate(pieces)
        }
        await self.commit(Commit(blobs={**blobs, _artifact(digest): named.from_number(len(whole))}))
        return ArtifactInfo(digest, len(whole))

    async def artifact(self, sha256: str) -> ArtifactInfo | None:
        """The blob's size, or None where there is none."""
        size = await self.blob(_artifact(sha256)) if _DIGEST.fullmatch(sha256) else None
        return None if size is None else ArtifactInfo(sha256, named.to_number(size))

    async def read_artifact(self, sha256: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Bytes ``start <= i < end`` in pieces; raises NotFound (``artifact_unknown``) at the first step."""
        found = await self.artifact(sha256)
        if found is None:
            raise artifact_unknown(sha256)
        end = found.size_bytes if end is None else min(end, found.size_bytes)
        while start < end:
            number, offset = divmod(start, _PIECE_BYTES)
            piece = await self.blob(_piece(sha256, number)) or b""
            part = piece[offset : offset + end - start]
            if not part:
                return
            yield part
            start += len(part)

    # --- upkeep -------------------------------------------------------------------------------------------------

    async def maintain(self, now_ms: int) -> None:
        """Seals, trims and purges what is due. The runtime calls it now and then; reads stay the same before and after.

        The feed keeps every commit that some cursor has not passed, up to the store's documented bound. Message marks
        older than 24 h, and those before a device's last 10,000, may go. Does nothing: feed and marks grow.
        """
        del now_ms

    @abstractmethod
    async def forget(self, device: str) -> None:
        """Erases a device's series, readings, texts and marks for good; events about it and its records stay."""

    async def expire(self, series: Sequence[int], before: int, *, late_ms: int = 0, count: bool = False) -> Expired:
        """Drops readings and texts of some series that are older than ``before`` (ms): a bounded number of them.

        Call it again while the answer has ``more``. Commits go on between and beside the calls, and a read that is
        under way shows what it comes to as it is then. A call that is killed has dropped its part whole or not at all.

        Readings at ``before`` and later stay, and so do the newest number and the newest text of each series: they
        are a device's last known values. A store keeps readings in larger units than one, so older ones may stay up
        to ``late_ms`` longer, and those that :meth:`maintain` has not put away yet as long as it has not. The feed is
        not changed. What went is forgotten: where the same reading is sent again, it counts as new. Series that were
        never given out or are forgotten are skipped.

        Args:
            series: a thousand at a time, or so: the work is that of their readings which are old.
            before: an event time.
            late_ms: how much longer readings may stay.
            count: only tell what all the calls would drop, once the store has put away what it has.

        Raises:
            Refused: the store does not do it (by default).
        """
        del series, before, late_ms, count
        raise Refused(
            "This store does not drop readings by their age",
            remedy="Leave [retention] out of fleet.toml, and see what the store's database can do",
        )

    @abstractmethod
    async def backup(self, target: Path) -> None:
        """Writes a copy, consistent as of some moment of the call, into the folder ``target``; writes go on.

        The folder is empty, or missing: then it is made. What was committed before the call is in the copy.

        Raises:
            Refused: the folder is not empty; or the store has no copy of its own to give, and its database's tools do.
        """

    async def size(self) -> StoreSize:
        """How much room the store takes, by its parts, and its limit. Says nothing: no parts."""
        return StoreSize()

    @property
    def failure(self) -> StorageError | None:
        """Why the store does not work any more, before it is closed; the process is then to be started anew. None."""
        return None

    async def check(self) -> Sequence[str]:
        """What is wrong with the stored data as far as a quick look shows it, one sentence each. Looks at nothing."""
        return ()

    async def verify(self, after: str | None = None) -> Verified:
        """Reads and checks a part of all that is stored; ``after`` of its answer names the next part.

        A part takes a second or so, and commits go on between and beside them. Does :meth:`check`, as one part.

        Raises:
            Refused: ``after`` names no part.
        """
        del after
        return Verified(problems=tuple(await self.check()), done=1, total=1, after=None)


def check_artifact_size(size: int, limit_bytes: int) -> None:
    """Raises Refused (``limit_exceeded``) where an artifact is longer than it may be."""
    if size > limit_bytes:
        raise Refused(
            f"The content is longer than {limit_bytes} bytes",
            code="limit_exceeded",
            limit=limit_bytes,
            unit="bytes",
            scope="artifact",
        )


def check_artifact_digest(found: str, wanted: str | None) -> None:
    """Raises Refused (``hash_mismatch``) where an artifact has another digest than was said."""
    if wanted is not None and found != wanted.lower():
        raise Refused(
            f"The content's SHA-256 is {found}, not {wanted}",
            code="hash_mismatch",
            remedy="Send the file again",
            sha256=found,
        )


def artifact_unknown(sha256: str) -> NotFound:
    """The error of an artifact that is not there."""
    return NotFound(f"Artifact {sha256} does not exist", code="artifact_unknown", sha256=sha256)


def _artifact(sha256: str) -> str:
    return f"artifact/{sha256}"


def _piece(sha256: str, number: int) -> str:
    return f"artifact/{sha256}/{number}"
