"""What is written to and read from a store: records with versions, commits, and the feed of commits."""

from collections.abc import Mapping

from attrs import field, frozen
from msgspec import Struct
from msgspec import field as member

from fleetcore.model.telemetry import SeriesKind, Tally, TelemetryBatch, TextReading

#: A record's body: JSON-compatible plain data.
Body = Mapping[str, object]

#: A counter's ``(space, name)``: its group, and its name within it.
Counter = tuple[str, str]

#: An index of the records of a kind: name and value of a :attr:`Put.refs`, or :data:`DUE`.
Index = tuple[str, str]

#: The index of records with a due time, in the order of that time: see :func:`index_entries`.
DUE: Index = ("", "due")


@frozen
class SeriesRequest:
    """A series to intern; the kind counts only if the series is new, the unit where it has none yet."""

    device: str
    metric: str
    unit: str | None = None
    kind: SeriesKind = SeriesKind.NUMBER


@frozen
class ArtifactInfo:
    """A stored blob: SHA-256 as 64 hex digits, and its size."""

    sha256: str
    size_bytes: int


@frozen(kw_only=True)
class PartInfo:
    """An artifact of which only the beginning has come.

    Attributes:
        sha256, size_bytes: of the whole artifact, as announced.
        received: how many of its bytes are stored, from its start.
        changed: when bytes came last; ms since the epoch.
    """

    sha256: str
    size_bytes: int
    received: int
    changed: int


@frozen(kw_only=True)
class Verified:
    """The result of one part of a full check.

    Attributes:
        problems: one sentence for each problem in this part.
        done: how much was read so far, of ``total``; in bytes where the store knows the sizes.
        after: the name of the next part, None at the end.
    """

    problems: tuple[str, ...]
    done: int
    total: int
    after: str | None


@frozen(kw_only=True)
class Expired:
    """The readings of some series that were dropped, or would be, because of their age.

    Attributes:
        readings, texts: how many of each.
        size_bytes: about how much room they took.
        more: whether the next call has something to drop.
    """

    readings: int = 0
    texts: int = 0
    size_bytes: int = 0
    more: bool = False

    def __add__(self, other: "Expired") -> "Expired":
        """The sum of both, with the ``more`` of the later one, ``other``."""
        return Expired(
            readings=self.readings + other.readings,
            texts=self.texts + other.texts,
            size_bytes=self.size_bytes + other.size_bytes,
            more=other.more,
        )


@frozen(kw_only=True)
class StoreSize:
    """How much room a store takes.

    Attributes:
        parts: bytes by part: ``database``, ``log``, ``artifacts`` and ``other`` of the built-in store in a folder.
        free_bytes: the part of these that new content fills before anything grows.
        limit_bytes: the limit of all parts together, or None.
    """

    parts: Mapping[str, int] = field(factory=dict)
    free_bytes: int = 0
    limit_bytes: int | None = None

    @property
    def total_bytes(self) -> int:
        """The size of all parts."""
        return sum(self.parts.values())


@frozen(kw_only=True)
class Record:
    """One stored record; ``version`` starts at 1 and rises by one with every put."""

    kind: str
    key: str
    version: int
    body: Body


class Put(Struct, frozen=True, kw_only=True, gc=False):
    """Writes a record. A struct, as :class:`Event`: every change makes both, in a seventh of an attrs record's time.

    Attributes:
        expect: the version the record must have: 0 for "must not exist", None for "whatever it is".
        unique: ``(space, value)`` pairs that no other record may hold; they replace what this record held before.
        due: ms since the epoch at which :meth:`Storage.due` shows the record, or None for never.
        refs: ``(name, value)`` pairs by which :meth:`Storage.find` finds it through an index.
        sort: its place among the records that share a ref; records of equal ``sort`` are in key order.
    """

    kind: str
    key: str
    body: Body
    expect: int | None = None
    unique: frozenset[tuple[str, str]] = frozenset()
    due: int | None = None
    refs: frozenset[tuple[str, str]] = frozenset()
    sort: str = ""


@frozen(kw_only=True)
class Delete:
    """Removes a record, its unique values and its index entries; ``expect`` as for :class:`Put`."""

    kind: str
    key: str
    expect: int | None = None


class Event(Struct, frozen=True, kw_only=True, gc=False):
    """Something that happened to a record: what, to which record, when (ms since the epoch), by whom and why."""

    type: str
    subject: str
    time: int
    actor: str = "system"
    reason: str = ""
    data: Mapping[str, object] = member(default_factory=dict)


@frozen(kw_only=True)
class MessageMark:
    """A message id that a device used, and the first answer it got."""

    device: str
    id: str
    time: int
    answer: Body


@frozen(kw_only=True)
class Commit:
    """One atomic, durable change. Every member may be empty.

    Attributes:
        reindexed: records whose index entries (``unique``, ``refs``, ``sort``, ``due``) are rewritten; their bodies and
            versions stay. ``expect`` is the version that the record must have.
        add: by how much counters change, by ``(space, name)``. A new counter starts at 0.
        floors: ``(space, name)`` to a number below which :meth:`Storage.floor` never falls again.
        cursors: named feed positions to store; ``None`` removes a name.
        blobs: named binary states to store beside the records, such as detector snapshots; ``None`` removes a name.
    """

    puts: tuple[Put, ...] = ()
    deletes: tuple[Delete, ...] = ()
    readings: TelemetryBatch | None = None
    texts: tuple[TextReading, ...] = ()
    marks: tuple[MessageMark, ...] = ()
    events: tuple[Event, ...] = ()
    reindexed: tuple[Put, ...] = ()
    add: Mapping[Counter, int] = field(factory=dict)
    floors: Mapping[Counter, int] = field(factory=dict)
    cursors: Mapping[str, int | None] = field(factory=dict)
    blobs: Mapping[str, bytes | None] = field(factory=dict)

    def __add__(self, other: "Commit") -> "Commit":
        """Both commits in one; the versions of this one's puts come first. At most one of them has readings."""
        add = self.add
        if other.add:
            add = {**add, **{counter: add.get(counter, 0) + delta for counter, delta in other.add.items()}}
        floors = self.floors
        if other.floors:
            floors = {**floors, **{name: max(level, floors.get(name, level)) for name, level in other.floors.items()}}
        return Commit(
            puts=self.puts + other.puts,
            deletes=self.deletes + other.deletes,
            readings=self.readings if other.readings is None else other.readings,
            texts=self.texts + other.texts,
            marks=self.marks + other.marks,
            events=self.events + other.events,
            reindexed=self.reindexed + other.reindexed,
            add=add,
            floors=floors,
            cursors={**self.cursors, **other.cursors} if other.cursors else self.cursors,
            blobs={**self.blobs, **other.blobs} if other.blobs else self.blobs,
        )


@frozen(kw_only=True)
class Committed:
    """The result of a commit.

    Attributes:
        position: its place in the feed; positions rise, with gaps.
        versions: the new versions of the puts, in their order.
        tally: what became of the readings and texts (never ``refused``: the store refuses no point).
    """

    position: int
    versions: tuple[int, ...] = ()
    tally: Tally = Tally()


@frozen(kw_only=True, eq=False)
class FeedEntry:
    """One commit as the feed lists it: the readings that changed the store, and the events.

    Exact duplicates, and readings that lost a conflict, are left out.
    """

    position: int
    readings: TelemetryBatch | None = None
    texts: tuple[TextReading, ...] = ()
    events: tuple[Event, ...] = ()


@frozen(kw_only=True)
class FoundRecords:
    """A page of records.

    Attributes:
        after: the place from which the next page continues; None at the end. A page bounded by ``scan`` may hold fewer
            items than requested, or none, and still have an ``after``.
    """

    items: tuple[Record, ...]
    after: str | None = None


def place(sort: str, key: str) -> str:
    """The ``after`` of a record: its key, after its ``sort`` where it has one."""
    return f"{sort}\0{key}" if sort else key


def split_place(after: str) -> tuple[str, str]:
    """The ``sort`` and the key in an ``after``."""
    sort, sep, key = after.rpartition("\0")
    return (sort, key) if sep else ("", after)


def due_sort(due_ms: int) -> str:
    """The place of a time in :data:`DUE`: text that sorts by code point as the times do."""
    return f"{due_ms + 2**63:020d}"


def due_of(sort: str) -> int:
    """The time, in ms, of a place in :data:`DUE`."""
    return int(sort) - 2**63


def index_entries(put: Put) -> dict[Index, str]:
    """The indexes through which a record is found, each with the record's ``sort`` in it."""
    entries = dict.fromkeys(put.refs, put.sort)
    return entries if put.due is None else {**entries, DUE: due_sort(put.due)}
