"""What is written to and read from a store: records with versions, commits, and the feed of what was committed."""

from collections.abc import Mapping

from attrs import field, frozen

from fleetcore.model.telemetry import Tally, TelemetryBatch, TextReading

#: A record's body: JSON-compatible plain data.
Body = Mapping[str, object]


@frozen(kw_only=True)
class Record:
    """One stored record; ``version`` starts at 1 and rises by one with every put."""

    kind: str
    key: str
    version: int
    body: Body


@frozen(kw_only=True)
class Put:
    """Writes a record.

    Attributes:
        expect: the version the record must have: 0 for "must not exist", None for "whatever it is".
        unique: ``(space, value)`` pairs that no other record may hold; they replace what this record held before.
        due: ms since the epoch at which :meth:`Storage.due` shows the record, or None for never.
        refs: ``(name, value)`` pairs by which :meth:`Storage.find` finds it through an index.
    """

    kind: str
    key: str
    body: Body
    expect: int | None = None
    unique: frozenset[tuple[str, str]] = frozenset()
    due: int | None = None
    refs: frozenset[tuple[str, str]] = frozenset()


@frozen(kw_only=True)
class Delete:
    """Removes a record, its unique values and its index entries; ``expect`` as for :class:`Put`."""

    kind: str
    key: str
    expect: int | None = None


@frozen(kw_only=True)
class Event:
    """Something that happened to a record: what, to which, when (ms since the epoch), by whom and why."""

    type: str
    subject: str
    time: int
    actor: str = "system"
    reason: str = ""
    data: Mapping[str, object] = field(factory=dict)


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
        cursors: named feed positions to keep; ``None`` forgets a name.
        blobs: named binary states to keep beside the records, detector snapshots for one; ``None`` forgets a name.
    """

    puts: tuple[Put, ...] = ()
    deletes: tuple[Delete, ...] = ()
    readings: TelemetryBatch | None = None
    texts: tuple[TextReading, ...] = ()
    marks: tuple[MessageMark, ...] = ()
    events: tuple[Event, ...] = ()
    cursors: Mapping[str, int | None] = field(factory=dict)
    blobs: Mapping[str, bytes | None] = field(factory=dict)


@frozen(kw_only=True)
class Committed:
    """What a commit did.

    Attributes:
        position: its place in the feed; positions rise, with gaps.
        versions: the new versions of the puts, in their order.
        tally: where the readings and texts went (never ``refused``: the store refuses no point).
    """

    position: int
    versions: tuple[int, ...] = ()
    tally: Tally = Tally()


@frozen(kw_only=True, eq=False)
class FeedEntry:
    """One commit as the feed shows it: the readings that changed the store, and the events.

    Readings that were exact duplicates, and those that lost a conflict, are not shown.
    """

    position: int
    readings: TelemetryBatch | None = None
    texts: tuple[TextReading, ...] = ()
    events: tuple[Event, ...] = ()


@frozen(kw_only=True)
class FoundRecords:
    """A page of records in key order; ``after`` continues it, None at the end."""

    items: tuple[Record, ...]
    after: str | None = None
