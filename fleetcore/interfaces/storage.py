"""Storage: where the fleet's records, readings, events and artifacts are stored.

A store that passes ``fleetcore.testing.storage_contract.StorageContract`` may be offered under ``fleetcore_storages``.
All methods are coroutines of one event loop, and any number of calls may run at the same time.

A store implements twelve methods; the others are derived from them, and a store overrides those that it can do faster.
The docstring of each derived method gives its cost. The rules of a commit are in
:mod:`fleetcore.interfaces.commit_plan`, for stores that do not implement them in a faster way; records and requests are
in :mod:`fleetcore.model.store` and :mod:`fleetcore.model.telemetry`. ``examples/small_storage.py`` is a complete store.
"""

import asyncio
import contextlib
import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import ClassVar, cast

import numpy as np

from fleetcore.errors import Conflict, NotFound, Refused, StorageError
from fleetcore.model import values as named
from fleetcore.model.catalog import Catalog
from fleetcore.model.file_span import FileSpan
from fleetcore.model.store import (
    DUE,
    ArtifactInfo,
    Commit,
    Committed,
    Delete,
    Expired,
    FeedEntry,
    FoundRecords,
    Index,
    MessageMark,
    PartInfo,
    Put,
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

#: Every time that a reading can have lies between these, in ms.
_EVER = (-(2**63), 2**63 - 1)
#: How many records are read together where a query leaves most of them out.
_PAGE = 500
#: How often a value is read again when its holder was deleted meanwhile.
_READ_AGAIN = 3
#: The shortest and longest intervals at which a wait polls for new commits.
_POLL_S, _MAX_POLL_S = 0.01, 0.25
#: The size of an artifact's pieces; each is a blob.
_PIECE_BYTES = 256 * 1024
#: The kind of the records of unfinished uploads.
_PART = "artifact_part"
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Sharing(Enum):
    """How many processes may have a store open for writing."""

    #: One: the store's caches in memory would go stale. A store with files holds ``context.lease(folder)`` on their
    #: folder while it is open; the core holds the lease on the fleet's data folder.
    ONE_PROCESS = "one-process"
    #: Any number, on any number of machines: each commit is checked against all earlier ones, all share one feed in one
    #: order, and a series has one index for all. Each server has its own data folder (keys, control socket, checkpoints
    #: of the audit log), which it leases; the folders' ``pki/`` and fleet id are equal. Consequences for the fleet:
    #: consumers (detectors, notifiers, mirrors) have one cursor by name for all servers, so configure each on one
    #: server. Sessions, presence and rate limits are known only to the server that a device is connected to. The audit
    #: log is one chain, sealed by the first server that gets to it, and a server's checkpoints name only its own seals:
    #: verifying the log on another server finds them missing.
    SHARED = "shared"


class Storage(ABC):
    """The guarantees of a store.

    *Atomic and durable*: :meth:`commit` does all or nothing, and after it has returned its effect survives ``kill -9``
    and power loss. *Ordered*: the feed lists commits in one order and never skips one. *Idempotent*: committing the
    same readings again changes only the tally.

    **The winner's rule** (docs/reference/wire.md §3): one value is stored per (series, time). An equal value is a
    duplicate. Of two different values the higher ``seq`` wins, then the larger value; the event is one conflict. So any
    arrival order stores the same readings: the store remembers the highest ``seq`` of an equal value, and of readings
    equal in both the lower quality. ``-0.0`` counts as ``0.0``. A reading whose quality has ``SERVER_TIME`` is never a
    duplicate: where its time is taken it moves on by 1 ms until it is free (past a long taken run, to right after the
    newest of its series), and within a commit it gives way to times of devices. Only their message ids identify repeats
    of such readings.

    **Stored of a reading** are time, value, quality and seq; ``received`` appears in the feed and need not be stored
    longer.

    **Positions**: a commit that changes records, readings or texts, or has events, takes the next position. A commit
    that does not (cursors, blobs, marks, counters, index entries, readings that are stored already) takes none and
    returns the position before, so a consumer that saves its cursor does not wake itself.

    Errors: :class:`~fleetcore.errors.VersionConflict`, :class:`~fleetcore.errors.Conflict` (a unique value is taken),
    :class:`~fleetcore.errors.Unavailable` with code ``storage_full`` (nothing is stored; it may work later),
    :class:`~fleetcore.errors.StorageError`. Cancelling a caller never splits a commit: it happens whole or not at all.

    **The twelve** that a store implements: :meth:`commit`, for all groups; records :meth:`get`, :meth:`page` and
    :meth:`values`; series :attr:`catalog`, :meth:`intern`, :meth:`read` and :meth:`read_texts`; feed :meth:`feed` and
    :meth:`position`; upkeep :meth:`forget` and :meth:`backup`. Artifacts are derived.

    Attributes:
        sharing: how many processes may have the store open for writing.
    """

    sharing: ClassVar[Sharing] = Sharing.ONE_PROCESS

    @abstractmethod
    async def commit(self, change: Commit) -> Committed:
        """Does all of ``change`` atomically and durably; raises and does none of it otherwise.

        When the caller is cancelled, the commit is done whole or not at all, before any later commit ends.

        A refused commit never becomes visible, neither now nor after the next opening; a commit that could not be
        synced may be there whole after a crash.

        It is one commit across all groups: records, readings, texts, marks, events, cursors, blobs, counters, floors.
        Deletes are applied before puts, and the unique values of all its records are released before new ones are
        taken. The store may keep references to the given columns: they must not change afterwards.

        Raises:
            NotFound: a reading's series does not exist or is forgotten; ``ids['series']`` names it.
        """

    # --- records ------------------------------------------------------------------------------------------------

    @abstractmethod
    async def get(self, kind: str, key: str) -> Record | None:
        """One record as of the last commit, or None."""

    @abstractmethod
    async def page(
        self, kind: str, index: Index | None, *, after: str | None, limit: int, newest: bool
    ) -> Sequence[tuple[str, Record]]:
        """Records of a kind in order, at most ``limit``, each with its place, starting after the place ``after``.

        The order is that of the keys (by code point); with ``index`` that of the record's ``sort`` in the index, then
        of the keys, without records that are not in the index: :func:`fleetcore.model.store.index_entries` gives a
        record's entries. A place is what :func:`fleetcore.model.store.place` gives for both.

        Args:
            newest: in reverse order, the last first; "after" then means before in order.
        """

    @abstractmethod
    async def values(self, space: str, names: Iterable[str] | None = None) -> Mapping[str, bytes]:
        """The named values of a space, those of ``names`` or all, by name; missing ones are left out.

        :mod:`fleetcore.model.values` lists the spaces and their content. Commits fill them: by ``cursors``, ``blobs``,
        ``add``, ``floors`` and ``marks``, and by the unique values of records.
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
        """Records of a kind in order, at most ``limit``, starting after ``after``.

        The order is that of the keys (by code point); with ``ref`` that of ``Put.sort``, then of the keys. The cost
        follows the number of records examined, not the number of records of the kind.

        By :meth:`page`; with ``where`` every examined record is read. Pages of one answer may be of different moments.

        Args:
            ref: selects through the index that :class:`~fleetcore.model.store.Put` filled.
            where: evaluated on the body by the rules of :mod:`fleetcore.query.evaluate`.
            after: the ``after`` of the page before, in the same direction; without ``sort`` also a key.
            newest: in reverse order, the last first.
            scan: how many records may be examined for ``where``; the page is cut short there.
        """
        items: list[Record] = []
        last, looked_at = "", 0
        bound = None if where is None else scan
        while True:
            # One more than requested shows whether there is a next page.
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
        """The records that hold values of a unique space, by value; values without a holder are left out.

        By :meth:`values`, and a :meth:`get` for each; a record that changes between the two is read again.
        """
        wanted, found = list(dict.fromkeys(values)), dict[str, Record]()
        for _ in range(_READ_AGAIN):
            if not wanted:
                break
            stored = await self.values(named.uniques_of(space), wanted)
            wanted = []
            for value, holder in stored.items():
                record = await self.get(*named.to_holder(holder))
                if record is not None:
                    found[value] = record
                else:
                    # It was deleted after its value was read; another record may hold the value by now.
                    wanted.append(value)
        return found

    async def due(self, kind: str, until: int, limit: int = 1000) -> Sequence[Record]:
        """Records of a kind whose ``due`` is at or before ``until`` (ms), earliest first. By :meth:`page`."""
        last = due_sort(until)
        found = await self.page(kind, DUE, after=None, limit=limit, newest=False)
        return [record for at, record in found if split_place(at)[0] <= last]

    async def counters(self, space: str) -> Mapping[str, int]:
        """The counters of a space that are not 0, by name; as of the last commit. By :meth:`values`."""
        stored = await self.values(named.counters_of(space))
        return {name: named.to_number(value) for name, value in stored.items()}

    async def floor(self, space: str, name: str) -> int:
        """The highest number that a commit set in ``floors``, or 0. It outlives the records that it is about.

        By :meth:`values`.
        """
        stored = (await self.values(named.floors_of(space), [name])).get(name)
        return 0 if stored is None else named.to_number(stored)

    async def marks(self, device: str, ids: Sequence[str]) -> dict[str, MessageMark]:
        """The message ids among ``ids`` that the device has used; at least the last 10,000 of 24 h are known.

        By :meth:`values`.
        """
        stored = await self.values(named.marks_of(device), ids) if ids else {}
        return {name: named.to_mark(device, name, stored[name]) for name in ids if name in stored}

    # --- series -------------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def catalog(self) -> Catalog:
        """Every interned series by index; look-ups are in memory."""

    @abstractmethod
    async def intern(self, wanted: Sequence[SeriesRequest]) -> Sequence[Series]:
        """The requested series, in order; new ones are made durably.

        The kind is that of the first call, the unit that of the first call with a unit.
        """

    @abstractmethod
    def read(self, series: int, start: int, end: int) -> AsyncIterator[SeriesData]:
        """The points of a series with ``start <= time < end`` (ms), in time order, in pieces of bounded size.

        Each time occurs once. Quarantined points are included; their quality marks them. A series that does not exist,
        or is forgotten, has no points.
        """

    @abstractmethod
    def read_texts(self, series: int, start: int, end: int) -> AsyncIterator[TextReading]:
        """The text readings of a series with ``start <= time < end``, in time order, each time once.

        A series that does not exist, or is forgotten, has none.
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
        """The reading with the newest event time of each requested series, number or text; None where it has none.

        By :meth:`read` and :meth:`read_texts`: each series is read from its start, so a store with ordered readings
        overrides it.
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
            NotFound: code ``not_found``; the position was trimmed. ``ids['oldest']`` is the oldest available one.
        """

    @abstractmethod
    async def position(self) -> int:
        """The position of the last commit; 0 where there is none."""

    async def wait_feed(self, after: int, timeout_s: float) -> bool:
        """Returns True as soon as the feed has something after ``after``, False after the time-out. A hint.

        By polling :meth:`position`, 100 times a second at first, then less often, down to four times a second.
        """
        pause_s = _POLL_S
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while await self.position() <= after:
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, _MAX_POLL_S)
                return True
        return False

    async def cursor(self, name: str) -> int | None:
        """A stored feed position, or None. By :meth:`values`."""
        stored = (await self.values(named.CURSORS, [name])).get(name)
        return None if stored is None else named.to_number(stored)

    async def blob(self, name: str) -> bytes | None:
        """A stored binary state, or None. By :meth:`values`."""
        return (await self.values(named.BLOBS, [name])).get(name)

    # --- artifacts ----------------------------------------------------------------------------------------------

    async def put_artifact(
        self, content: AsyncIterator[bytes], *, sha256: str | None, limit_bytes: int
    ) -> ArtifactInfo:
        """Streams an artifact in; nothing is visible before all of it is durable.

        Stored as blobs of 256 KiB, in one commit: the artifact is in memory while it is streamed, and stays in the same
        store as the records. A store for firmware images of many MiB overrides the three methods.

        Raises:
            Refused: ``limit_exceeded``, or the digest of the content is not ``sha256`` (``hash_mismatch``).
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
        """The artifact's size, or None where there is none."""
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

    def artifact_spans(self, sha256: str, start: int = 0, end: int | None = None) -> AsyncIterator[FileSpan] | None:
        """As :meth:`read_artifact`, for a store that keeps an artifact in a file as it is; None by default."""
        del sha256, start, end
        return None

    async def drop_artifact(self, sha256: str) -> None:
        """Removes an artifact; does nothing where there is none. A reader that has begun gets all of it, or an error.

        In one commit.
        """
        found = await self.artifact(sha256)
        if found is not None:
            pieces = (_piece(sha256, number) for number in range(-(-found.size_bytes // _PIECE_BYTES)))
            await self.commit(Commit(blobs=dict.fromkeys((*pieces, _artifact(sha256)))))

    # A part is an artifact of which only the beginning has come. It is never an artifact itself: :meth:`artifact` and
    # :meth:`read_artifact` do not know it, and a backup has none. Two parts may differ in their announced size alone.
    # The caller appends to one part from one place at a time, and drops old parts.

    async def parts(self) -> Sequence[PartInfo]:
        """The unfinished uploads, by digest and size. By :meth:`page`."""
        found: list[PartInfo] = []
        after: str | None = None
        while page := await self.page(_PART, None, after=after, limit=_PAGE, newest=False):
            found += (_part_of(record) for _, record in page)
            after = page[-1][0]
        return found

    async def append_part(
        self, content: AsyncIterator[bytes], *, sha256: str, size_bytes: int, offset: int, now_ms: int
    ) -> int:
        """Streams more of an artifact in, and returns how much of it is stored now.

        What came stays when the stream breaks, the caller is cancelled or the store is full, and survives ``kill -9``;
        but for the last piece of at most 256 KiB.

        A commit for each piece of 256 KiB. A store for firmware images of many MiB overrides the four methods.

        Args:
            sha256, size_bytes: of the whole artifact; an unknown part is begun.
            offset: how much is stored already.
            now_ms: the part's ``changed`` from now on.

        Raises:
            Conflict: ``offset_mismatch``, another number of bytes is stored; ``ids['received']`` is that number.
            Refused: ``size_mismatch``, there is more than was announced; the excess is not stored.
            Unavailable: ``storage_full``.
        """
        record = await self.get(_PART, _part(sha256, size_bytes))
        came = 0 if record is None else _part_of(record).received
        check_offset(offset, came)
        last = came // _PIECE_BYTES * _PIECE_BYTES
        waiting = bytearray(await self.blob(_part_piece(sha256, size_bytes, last)) or b"")[: came - last]
        version = 0 if record is None else record.version

        async def store() -> None:
            nonlocal last, version
            size = last + len(waiting)
            body = {"sha256": sha256, "size": size_bytes, "received": size, "changed": now_ms}
            put = Put(kind=_PART, key=_part(sha256, size_bytes), body=body, expect=version)
            piece = {_part_piece(sha256, size_bytes, last): bytes(waiting)}
            version = (await self.commit(Commit(puts=(put,), blobs={**piece}))).versions[0]
            if len(waiting) == _PIECE_BYTES:
                last += _PIECE_BYTES
                waiting.clear()

        if record is None:
            await store()
        stored = came
        try:
            async for some in content:
                check_part_size(last + len(waiting) + len(some), size_bytes)
                taken = 0
                while taken < len(some):
                    fits = some[taken : taken + _PIECE_BYTES - len(waiting)]
                    waiting += fits
                    taken += len(fits)
                    if len(waiting) == _PIECE_BYTES:
                        await store()
                        stored = last
        finally:
            if last + len(waiting) > stored:
                await store()
        return last + len(waiting)

    async def finish_part(self, sha256: str, size_bytes: int) -> ArtifactInfo:
        """Makes a part that is complete an artifact; a part with another digest is dropped.

        By :meth:`put_artifact`, which has the artifact in memory.

        Raises:
            Refused: ``hash_mismatch``; ``size_mismatch``, bytes are missing, and the part stays.
        """
        record = await self.get(_PART, _part(sha256, size_bytes))
        check_complete(0 if record is None else _part_of(record).received, size_bytes)

        async def pieces() -> AsyncIterator[bytes]:
            for at in range(0, size_bytes, _PIECE_BYTES):
                yield await self.blob(_part_piece(sha256, size_bytes, at)) or b""

        try:
            made = await self.put_artifact(pieces(), sha256=sha256, limit_bytes=size_bytes)
        except Refused:
            await self.drop_part(sha256, size_bytes)
            raise
        await self.drop_part(sha256, size_bytes)
        return made

    async def drop_part(self, sha256: str, size_bytes: int) -> None:
        """Removes a part; does nothing where there is none. In one commit."""
        blobs = [_part_piece(sha256, size_bytes, at) for at in range(0, size_bytes, _PIECE_BYTES)]
        delete = Delete(kind=_PART, key=_part(sha256, size_bytes))
        await self.commit(Commit(deletes=(delete,), blobs=dict.fromkeys(blobs)))

    # --- upkeep -------------------------------------------------------------------------------------------------

    async def maintain(self, now_ms: int) -> None:
        """Seals, trims and purges what is due. The runtime calls it regularly; reads are the same before and after.

        The feed keeps every commit that some cursor has not passed, up to the store's documented bound. Message marks
        older than 24 h, and those before a device's last 10,000, may go. By default it does nothing: feed and marks
        grow.
        """
        del now_ms

    async def give_up_feed(self, until: int) -> None:
        """Lets the feed's commits up to a position go, although cursors have not passed them; readings stay stored.

        A consumer that has not passed them finds them trimmed. Some of the newest may stay. By default it does nothing.
        """
        del until

    @abstractmethod
    async def forget(self, device: str) -> None:
        """Erases a device's series, readings, texts and marks permanently; events about it and its records stay."""

    async def expire(self, series: Sequence[int], before: int, *, late_ms: int = 0, count: bool = False) -> Expired:
        """Drops readings and texts of some series that are older than ``before`` (ms): a bounded number of them.

        Call it again while the answer has ``more``. Commits continue between and during the calls, and a read in
        progress may see either state. A call that is killed has dropped its part whole or not at all.

        Readings at ``before`` and later stay, and so do the newest number and the newest text of each series: they are
        a device's last known values. Stores group readings into larger units, so older ones may stay up to ``late_ms``
        longer, and readings that :meth:`maintain` has not sealed yet stay until it has. The feed is not changed. A
        dropped reading that is sent again counts as new. Series that do not exist or are forgotten are skipped.

        Args:
            series: about a thousand at a time: the work follows the number of their old readings.
            before: an event time.
            late_ms: how much longer readings may stay.
            count: only report what all the calls would drop, once the store has sealed its readings.

        Raises:
            Refused: the store does not support it (the default).
        """
        del series, before, late_ms, count
        raise Refused(
            "This store does not drop readings by age",
            remedy="Leave [retention] out of fleet.toml, and use the retention of the store's database",
        )

    @abstractmethod
    async def backup(self, target: Path) -> None:
        """Writes a copy, consistent as of some moment of the call, into the folder ``target``; writes continue.

        The folder is empty, or missing: then it is created. The copy has every commit made before the call.

        Raises:
            Refused: the folder is not empty; or the store cannot make a copy, and its database's tools can.
        """

    async def size(self) -> StoreSize:
        """How much room the store takes, by part, and its limit. By default there are no parts."""
        return StoreSize()

    @property
    def failure(self) -> StorageError | None:
        """Why the store no longer works, while it is open; the process must then be restarted. None by default."""
        return None

    async def check(self) -> Sequence[str]:
        """Problems of the stored data that a quick check finds, one sentence each. By default it checks nothing."""
        return ()

    async def verify(self, after: str | None = None) -> Verified:
        """Reads and checks a part of all that is stored; ``after`` of its answer names the next part.

        A part takes about a second, and commits continue between and during the parts. By default :meth:`check`, as one
        part.

        Raises:
            Refused: ``after`` does not name a part.
        """
        del after
        return Verified(problems=tuple(await self.check()), done=1, total=1, after=None)


def check_artifact_size(size: int, limit_bytes: int) -> None:
    """Raises Refused (``limit_exceeded``) where an artifact exceeds the limit."""
    if size > limit_bytes:
        raise Refused(
            f"The content is longer than {limit_bytes} bytes",
            code="limit_exceeded",
            limit=limit_bytes,
            unit="bytes",
            scope="artifact",
        )


def check_artifact_digest(found: str, wanted: str | None) -> None:
    """Raises Refused (``hash_mismatch``) where an artifact's digest is not the stated one."""
    if wanted is not None and found != wanted.lower():
        raise Refused(
            f"The content's SHA-256 is {found}, not {wanted}",
            code="hash_mismatch",
            remedy="Send the file again",
            sha256=found,
        )


def check_offset(offset: int, received: int) -> None:
    """Raises Conflict (``offset_mismatch``) where an upload does not continue where its part ends."""
    if offset != received:
        raise Conflict(
            f"{received} bytes of this upload are stored, and it continues at {offset}",
            code="offset_mismatch",
            remedy="Ask how far the upload has come, and continue there",
            received=received,
        )


def check_part_size(came: int, size_bytes: int) -> None:
    """Raises Refused (``size_mismatch``) where more comes than was announced."""
    if came > size_bytes:
        raise Refused(
            f"There are more than the {size_bytes} bytes that were announced",
            code="size_mismatch",
            remedy="Send the file as it was when its digest was computed",
        )


def check_complete(received: int, size_bytes: int) -> None:
    """Raises Refused (``size_mismatch``) where bytes of an upload are missing."""
    if received != size_bytes:
        raise Refused(f"There are {received} of the {size_bytes} bytes that were announced", code="size_mismatch")


def artifact_unknown(sha256: str) -> NotFound:
    """The error for an artifact that does not exist."""
    return NotFound(f"Artifact {sha256} does not exist", code="artifact_unknown", sha256=sha256)


def _artifact(sha256: str) -> str:
    return f"artifact/{sha256}"


def _piece(sha256: str, number: int) -> str:
    return f"artifact/{sha256}/{number}"


def _part(sha256: str, size_bytes: int) -> str:
    return f"{sha256}-{size_bytes}"


def _part_piece(sha256: str, size_bytes: int, at: int) -> str:
    return f"artifact_part/{sha256}-{size_bytes}/{at // _PIECE_BYTES}"


def _part_of(record: Record) -> PartInfo:
    body = record.body
    return PartInfo(
        sha256=str(body["sha256"]),
        size_bytes=cast("int", body["size"]),
        received=cast("int", body["received"]),
        changed=cast("int", body["changed"]),
    )
