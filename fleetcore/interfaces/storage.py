"""Storage: where the fleet's records, readings, events and artifacts are kept.

A store that passes ``fleetcore.testing.StorageContract`` may be offered under ``fleetcore_storages``. All methods
are coroutines of one event loop, and any number of them may be under way at once.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path

from attrs import frozen

from fleetcore.model.store import Commit, Committed, FeedEntry, FoundRecords, MessageMark, Record
from fleetcore.model.telemetry import Aggregates, Latest, Series, SeriesCatalog, SeriesData, SeriesKind, TextReading
from fleetcore.query.ast import Clause


@frozen
class SeriesRequest:
    """A series that shall exist; unit and kind count only if it is new."""

    device: str
    metric: str
    unit: str | None = None
    kind: SeriesKind = SeriesKind.NUMBER


@frozen
class ArtifactInfo:
    """A stored blob: SHA-256 as 64 hex digits, and its size."""

    sha256: str
    size_bytes: int


class Storage(ABC):
    """The promises of a store.

    *Atomic and durable*: :meth:`commit` does all or nothing, and what it did survives ``kill -9`` and power loss
    once it has returned. *Ordered*: the feed shows commits in one order and never skips one. *Idempotent*: committing
    the same readings again changes nothing but the tally.

    **The winner's rule** (WIRE.md §3): at one (series, time) one value is kept. An equal value is a duplicate. Of two
    different values the higher ``seq`` wins, then the larger value; the event is one conflict. So any arrival order
    stores the same readings: the store remembers the highest ``seq`` of an equal value, and of readings equal in both
    the lower quality. ``-0.0`` counts as ``0.0``. A reading whose quality says ``SERVER_TIME`` is never a duplicate:
    where its time is taken it moves on by 1 ms until it is free (past a long taken run, to right after the newest of
    its series), and within a commit it gives way to times that devices gave. Repeats of such readings are told by their
    message's id alone.

    **Kept of a reading** are time, value, quality and seq; ``received`` is shown by the feed and need not be kept
    longer.

    **Positions**: a commit that changes records, readings or texts, or has events, takes the next position. One that
    does not (cursors, blobs, marks, counters, index entries, readings that are there already) takes none and returns
    the one before, so a consumer that saves its cursor does not wake itself.

    Errors: :class:`~fleetcore.errors.VersionConflict`, :class:`~fleetcore.errors.Conflict` (a unique value is taken),
    :class:`~fleetcore.errors.Unavailable` with code ``storage_full`` (nothing is stored; it may work later),
    :class:`~fleetcore.errors.StorageError`. Cancelling a caller never tears a commit: it happens whole or not at all.
    """

    @property
    @abstractmethod
    def catalog(self) -> SeriesCatalog:
        """Every interned series by index; look-ups are in memory."""

    @abstractmethod
    async def commit(self, change: Commit) -> Committed:
        """Does all of ``change`` atomically and durably; raises and does none of it otherwise.

        Deletes are applied before puts, and unique values of all records of the commit are given free before new ones
        are taken. The store may keep the columns it is given: they must not change afterwards.

        Raises:
            NotFound: a reading's series was never given out or is forgotten; ``ids['series']`` says which.
        """

    @abstractmethod
    async def get(self, kind: str, key: str) -> Record | None:
        """One record as of the last commit, or None."""

    @abstractmethod
    async def find(
        self,
        kind: str,
        *,
        ref: tuple[str, str] | None = None,
        where: Clause | None = None,
        after: str | None = None,
        limit: int = 1000,
        newest: bool = False,
        scan: int | None = None,
    ) -> FoundRecords:
        """Records of a kind in order, at most ``limit``, beginning behind ``after``.

        The order is that of the keys (by code point); with ``ref`` that of ``Put.sort``, then of the keys. The work
        is that of the records looked at, however many there are of the kind.

        Args:
            ref: selects through the index that :class:`~fleetcore.model.store.Put` filled.
            where: evaluated on the body by the rules of :mod:`fleetcore.query.evaluate`.
            after: the ``after`` of the page before, in the same direction; without ``sort`` also a key.
            newest: the other way round, the last first.
            scan: how many records may be looked at for ``where``; the page is cut short there.
        """

    @abstractmethod
    async def find_unique(self, space: str, value: str) -> Record | None:
        """The record that holds a unique value, or None."""

    async def holders(self, space: str, values: Iterable[str]) -> Mapping[str, Record]:
        """The records that hold values of a unique space, by value; values that none holds are left out.

        A store that can ask for many at once overrides it.
        """
        found = {value: await self.find_unique(space, value) for value in dict.fromkeys(values)}
        return {value: record for value, record in found.items() if record is not None}

    @abstractmethod
    async def counters(self, space: str) -> Mapping[str, int]:
        """The counters of a space that are not 0, by name; as of the last commit."""

    @abstractmethod
    async def floor(self, space: str, name: str) -> int:
        """The highest number that a commit named in ``floors``, or 0. It outlives the records that it is about."""

    @abstractmethod
    async def due(self, kind: str, until: int, limit: int = 1000) -> Sequence[Record]:
        """Records of a kind whose ``due`` is at or before ``until`` (ms), earliest first."""

    @abstractmethod
    async def marks(self, device: str, ids: Sequence[str]) -> dict[str, MessageMark]:
        """The message ids among ``ids`` that the device used before; at least the last 10,000 of 24 h are known."""

    @abstractmethod
    async def intern(self, wanted: Sequence[SeriesRequest]) -> Sequence[Series]:
        """The series asked for, in order; new ones are made durably. Unit and kind are those of the first call."""

    @abstractmethod
    async def series_of(self, device: str | None = None) -> Sequence[Series]:
        """All series, or those of one device, by device and metric."""

    @abstractmethod
    def read(self, series: int, start: int, end: int) -> AsyncIterator[SeriesData]:
        """The points of a series with ``start <= time < end`` (ms), in time order, in pieces of bounded size.

        Each time occurs once. Quarantined points are included; their quality says so.
        """

    @abstractmethod
    def read_texts(self, series: int, start: int, end: int) -> AsyncIterator[TextReading]:
        """The text readings of a series with ``start <= time < end``, in time order, each time once."""

    @abstractmethod
    async def aggregate(self, series: int, start: int, end: int, bucket_ms: int) -> Aggregates:
        """The points with ``start <= time < end`` in buckets of ``bucket_ms`` aligned to the epoch."""

    @abstractmethod
    async def latest(self, series: Sequence[int]) -> Sequence[Latest | None]:
        """The reading with the newest event time of each series asked for, number or text; None where there is none."""

    @abstractmethod
    async def feed(self, after: int, limit: int = 1000) -> Sequence[FeedEntry]:
        """Commits with a position greater than ``after``, in order, at most ``limit``.

        Raises:
            NotFound: code ``not_found``; the position was trimmed. ``ids['oldest']`` is the oldest that is left.
        """

    @abstractmethod
    async def wait_feed(self, after: int, timeout_s: float) -> bool:
        """Returns True as soon as the feed has something after ``after``, False after the time-out. A hint."""

    @abstractmethod
    async def position(self) -> int:
        """The position of the last commit; 0 where there is none."""

    @abstractmethod
    async def cursor(self, name: str) -> int | None:
        """A kept feed position, or None."""

    @abstractmethod
    async def blob(self, name: str) -> bytes | None:
        """A kept binary state, or None."""

    @abstractmethod
    async def maintain(self, now_ms: int) -> None:
        """Seals, trims and purges what is due. The runtime calls it now and then; reads stay the same before and after.

        The feed keeps every commit that some cursor has not passed, up to the store's documented bound. Message marks
        older than 24 h, and those before a device's last 10,000, may go.
        """

    @abstractmethod
    async def forget(self, device: str) -> None:
        """Erases a device's series, readings, texts and marks for good; events about it and its records stay."""

    @abstractmethod
    async def put_artifact(
        self, content: AsyncIterator[bytes], *, sha256: str | None, limit_bytes: int
    ) -> ArtifactInfo:
        """Streams a blob in; nothing is visible before all of it is durable.

        Raises:
            Refused: ``limit_exceeded``, or the content has another digest than ``sha256`` (``hash_mismatch``).
        """

    @abstractmethod
    async def artifact(self, sha256: str) -> ArtifactInfo | None:
        """The blob's size, or None where there is none."""

    @abstractmethod
    def read_artifact(self, sha256: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Bytes ``start <= i < end`` in pieces; raises NotFound (``artifact_unknown``) at the first step."""

    @abstractmethod
    async def backup(self, target: Path) -> None:
        """Writes a copy, consistent as of some moment of the call, into the empty folder ``target``; writes go on."""

    @abstractmethod
    async def check(self) -> Sequence[str]:
        """What is wrong with the stored data, one sentence each; empty where all is well."""
