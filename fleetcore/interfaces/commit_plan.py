"""The rules of a commit as a pure function, for stores that do not implement them in a faster way.

A store lets :func:`plan` read its content through the four look-ups of a :class:`StoreView`, and gets back what to
write. It writes all of the plan atomically, or nothing where :func:`plan` raises. Between the look-ups and the write
nothing else may change: the store holds a lock or a transaction.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Generic, Protocol, TypeVar

from attrs import evolve, field, frozen
from msgspec.structs import replace

from fleetcore.errors import Conflict, NotFound, VersionConflict
from fleetcore.model import values
from fleetcore.model.store import Commit, Committed, Delete, Event, FeedEntry, Put, Record
from fleetcore.model.telemetry import NumberReading, Quality, SeriesCatalog, Tally, TelemetryBatch, TextReading

R = TypeVar("R", NumberReading, TextReading)

#: A plain integer: an IntFlag's bits cost a call each time.
_SERVER_TIME = int(Quality.SERVER_TIME)
#: A record: its kind and its key.
_Name = tuple[str, str]


@frozen
class StoredRecord:
    """A record as a store holds it: its version, and the put that wrote it, with the current index entries.

    In a plan, version 0 means that the record is deleted.
    """

    version: int
    put: Put

    @property
    def record(self) -> Record:
        """The record as readers get it. It shares the put's body: a store that holds puts in memory returns a copy."""
        return Record(kind=self.put.kind, key=self.put.key, version=self.version, body=self.put.body)


@frozen
class StoredValue:
    """A named value as a store holds it (:mod:`fleetcore.model.values`). In a plan, None means that it is removed."""

    space: str
    name: str
    value: bytes | None


class StoreView(Protocol):
    """The content of a store at the moment of a commit."""

    def record(self, kind: str, key: str) -> StoredRecord | None:
        """A record."""
        ...

    def value(self, space: str, name: str) -> bytes | None:
        """A named value."""
        ...

    def number(self, series: int, time: int) -> NumberReading | None:
        """The number of a series at a time."""
        ...

    def text(self, series: int, time: int) -> TextReading | None:
        """The text of a series at a time."""
        ...


@frozen(kw_only=True)
class CommitPlan:
    """What to write, all of it or nothing. Writing it again changes nothing.

    Attributes:
        position: the store's position afterwards.
        is_shown: whether the commit takes this position in the feed, or leaves it to the commit before.
        records, values: to be written or removed.
        numbers, texts: readings to be written, each in place of one with its series and time, and listed in the feed.
        quiet_numbers, quiet_texts: readings to be written that the feed does not list: the value was there, and its
            ``seq`` rises.
    """

    position: int
    is_shown: bool = False
    records: tuple[StoredRecord, ...] = ()
    values: tuple[StoredValue, ...] = ()
    numbers: tuple[NumberReading, ...] = ()
    texts: tuple[TextReading, ...] = ()
    quiet_numbers: tuple[NumberReading, ...] = ()
    quiet_texts: tuple[TextReading, ...] = ()
    events: tuple[Event, ...] = ()
    versions: tuple[int, ...] = ()
    tally: Tally = Tally()

    @property
    def committed(self) -> Committed:
        """What :meth:`~fleetcore.interfaces.Storage.commit` returns."""
        return Committed(position=self.position, versions=self.versions, tally=self.tally)

    @property
    def shown(self) -> "CommitPlan":
        """The part that the feed has to store."""
        return evolve(self, records=(), values=(), quiet_numbers=(), quiet_texts=())

    def without(self, series: Collection[int]) -> "CommitPlan":
        """The same without the readings of some series: for a feed that forgets a device."""
        return evolve(
            self,
            numbers=tuple(reading for reading in self.numbers if reading.series not in series),
            texts=tuple(reading for reading in self.texts if reading.series not in series),
        )

    @property
    def entry(self) -> FeedEntry:
        """The commit as the feed lists it."""
        readings = TelemetryBatch.of_rows(self.numbers) if self.numbers else None
        return FeedEntry(position=self.position, readings=readings, texts=self.texts, events=self.events)


@frozen(kw_only=True)
class ReadingPlan(Generic[R]):
    """Which of some readings are to be written, in order, and the tally of all of them.

    Attributes:
        shown: those that the feed lists: the value differs from the stored one.
        quiet: those that raise the ``seq`` of an unchanged value.
    """

    shown: tuple[R, ...] = ()
    quiet: tuple[R, ...] = ()
    tally: Tally = field(factory=Tally)


def plan(change: Commit, view: StoreView, catalog: SeriesCatalog, position: int) -> CommitPlan:
    """The plan of a commit to a store that holds ``view`` and whose last position is ``position``.

    Raises:
        VersionConflict: a record has another version than the commit expects.
        Conflict: a unique value belongs to another record.
        NotFound: a reading's series is not in the catalog; ``ids['series']`` names it.
    """
    records, uniques, versions = _plan_records(change, view)
    rows = change.readings.rows() if change.readings is not None else []
    _check_known((*rows, *change.texts), catalog)
    # Adding 0.0 makes -0.0 the same number as 0.0.
    numbers = plan_readings([evolve(row, value=row.value + 0.0) for row in rows], view.number)
    texts = plan_readings(change.texts, view.text)
    written = (numbers.shown, numbers.quiet, texts.shown, texts.quiet)
    is_shown = bool(change.puts or change.deletes or change.events or any(written))
    return CommitPlan(
        position=position + is_shown,
        is_shown=is_shown,
        records=records,
        values=(*uniques, *_plan_values(change, view)),
        numbers=numbers.shown,
        texts=texts.shown,
        quiet_numbers=numbers.quiet,
        quiet_texts=texts.quiet,
        events=change.events,
        versions=versions,
        tally=numbers.tally + texts.tally,
    )


def plan_readings(some: Sequence[R], held: Callable[[int, int], R | None]) -> ReadingPlan[R]:
    """Applies the winner's rule of :class:`~fleetcore.interfaces.Storage`.

    At one (series, time) the greatest ``(seq, value, -quality)`` stays, in any order of arrival. A reading with the
    stored value is a duplicate, even if it raises the ``seq``; a reading with another value is a conflict.

    Args:
        some: readings in the order of their arrival.
        held: looks up the stored reading of a series and time.
    """
    if not some:
        return ReadingPlan()
    written: dict[tuple[int, int], tuple[int, R]] = {}
    before: dict[tuple[int, int], R | None] = {}
    stored = duplicates = conflicts = 0

    def there(series: int, time: int) -> R | None:
        place = (series, time)
        if place in written:
            return written[place][1]
        if place not in before:
            before[place] = held(series, time)
        return before[place]

    order: Sequence[int] = range(len(some))
    if any(reading.quality & _SERVER_TIME for reading in some):
        # Times that the server assigned give way to times of devices in the same commit.
        order = sorted(order, key=lambda arrival: some[arrival].quality & _SERVER_TIME)
    for arrival in order:
        reading = some[arrival]
        if reading.quality & _SERVER_TIME:
            while there(reading.series, reading.time) is not None:
                reading = evolve(reading, time=reading.time + 1)
        known = there(reading.series, reading.time)
        if known is None:
            stored += 1
        elif known.value == reading.value:
            duplicates += 1
        else:
            conflicts += 1
        if known is None or _rank(reading) > _rank(known):
            written[reading.series, reading.time] = (arrival, reading)
    shown: list[R] = []
    quiet: list[R] = []
    for place, (_, reading) in sorted(written.items(), key=_arrival):
        old = before[place]
        (quiet if old is not None and old.value == reading.value else shown).append(reading)
    return ReadingPlan(
        shown=tuple(shown),
        quiet=tuple(quiet),
        tally=Tally(stored=stored, duplicates=duplicates, conflicts=conflicts),
    )


def version_conflict(change: Put | Delete, found: int) -> VersionConflict:
    """The error for a change that expects another version than ``found`` (0: there is no such record)."""
    return VersionConflict(
        f"{change.kind} {change.key} has version {found}, not {change.expect}",
        remedy="Read it again and repeat the change",
        kind=change.kind,
        key=change.key,
        version=found,
    )


def unique_conflict(space: str, value: str, kind: str, key: str) -> Conflict:
    """The error for a unique value that another record holds."""
    return Conflict(f"The {space} {value!r} belongs to {kind} {key}", space=space, kind=kind, key=key)


def unknown_series(index: int) -> NotFound:
    """The error for readings of a series that does not exist or was forgotten."""
    return NotFound(
        f"Series {index} does not exist, or was forgotten; nothing was stored",
        remedy="Intern the series again",
        series=index,
    )


def _plan_records(
    change: Commit, view: StoreView
) -> tuple[tuple[StoredRecord, ...], list[StoredValue], tuple[int, ...]]:
    """The records to write, the unique values to write or remove, and the versions of the puts."""
    parts: tuple[Put | Delete, ...] = (*change.deletes, *change.reindexed, *change.puts)
    old = {(part.kind, part.key): view.record(part.kind, part.key) for part in parts}
    new = dict(old)

    def version(part: Put | Delete) -> int:
        current = new[part.kind, part.key]
        found = 0 if current is None else current.version
        if part.expect is not None and part.expect != found:
            raise version_conflict(part, found)
        return found

    for delete in change.deletes:
        version(delete)
        new[delete.kind, delete.key] = None
    for entry in change.reindexed:
        version(entry)
        there = new[entry.kind, entry.key]
        if there is not None:
            new[entry.kind, entry.key] = StoredRecord(there.version, replace(entry, body=there.put.body))
    versions = []
    for put in change.puts:
        versions.append(version(put) + 1)
        new[put.kind, put.key] = StoredRecord(versions[-1], put)
    records = tuple(
        StoredRecord(0, Put(kind=name[0], key=name[1], body={})) if record is None else record
        for name, record in new.items()
    )
    return records, _plan_uniques(old, new, view), tuple(versions)


def _plan_uniques(
    old: dict[_Name, StoredRecord | None], new: dict[_Name, StoredRecord | None], view: StoreView
) -> list[StoredValue]:
    """The unique values of all records in the commit are released before new ones are taken."""
    taken: dict[tuple[str, str], _Name] = {}
    for name, record in new.items():
        for space, value in record.put.unique if record is not None else ():
            stored = view.value(values.uniques_of(space), value)
            there = values.to_holder(stored) if stored is not None else name
            owner = taken.setdefault((space, value), name if there in new else there)
            if owner != name:
                raise unique_conflict(space, value, *owner)
    freed = {pair for record in old.values() if record is not None for pair in record.put.unique} - taken.keys()
    return [
        *(StoredValue(values.uniques_of(space), value, None) for space, value in freed),
        *(StoredValue(values.uniques_of(space), value, values.from_holder(*name))
          for (space, value), name in taken.items()),
    ]  # fmt: skip


def _plan_values(change: Commit, view: StoreView) -> Iterable[StoredValue]:
    for name, position in change.cursors.items():
        yield StoredValue(values.CURSORS, name, None if position is None else values.from_number(position))
    for name, blob in change.blobs.items():
        yield StoredValue(values.BLOBS, name, blob)
    for (space, name), delta in change.add.items():
        place = values.counters_of(space)
        number = values.to_number(view.value(place, name) or b"0") + delta
        yield StoredValue(place, name, values.from_number(number) if number else None)
    for (space, name), level in change.floors.items():
        place = values.floors_of(space)
        stored = view.value(place, name)
        yield StoredValue(place, name, values.from_number(level if stored is None else max(level, int(stored))))
    marked = set()
    for mark in change.marks:
        place = values.marks_of(mark.device)
        # A repeated message keeps its first answer.
        if (mark.device, mark.id) not in marked and view.value(place, mark.id) is None:
            yield StoredValue(place, mark.id, values.from_mark(mark))
        marked.add((mark.device, mark.id))


def _check_known(some: Iterable[NumberReading | TextReading], catalog: SeriesCatalog) -> None:
    for index in {reading.series for reading in some}:
        try:
            catalog.series(index)
        except KeyError:
            raise unknown_series(index) from None


def _arrival(written: tuple[tuple[int, int], tuple[int, object]]) -> int:
    return written[1][0]


def _rank(reading: NumberReading | TextReading) -> tuple[int, float | str, int]:
    return reading.seq, reading.value, -reading.quality
