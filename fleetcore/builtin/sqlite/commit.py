"""A commit: records, readings, texts, marks, events, cursors and blobs in one transaction."""

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np

from fleetcore.builtin.sqlite import catalog, checksum, counters, log, marks, texts
from fleetcore.builtin.sqlite.changes import RecordChanges
from fleetcore.builtin.sqlite.order import Points
from fleetcore.builtin.sqlite.plain import text
from fleetcore.builtin.sqlite.resolve import Held, Resolved, all_new, resolve
from fleetcore.builtin.sqlite.state import State
from fleetcore.builtin.sqlite.writer import Change
from fleetcore.errors import FleetError, NotFound
from fleetcore.interfaces.commit_plan import ReadingPlan, unknown_series
from fleetcore.model.catalog import Catalog
from fleetcore.model.store import Commit, Committed, FeedEntry, SeriesRequest
from fleetcore.model.telemetry import Int64, Series, Tally, TelemetryBatch, TextReading

#: The place in the log of a commit without readings.
_NOTHING = Tally()


class CommitChange(Change[Committed]):
    """Applies a :class:`~fleetcore.model.store.Commit`; several without readings and texts can be applied together.

    A commit with nothing to show (only marks, cursors, blobs, or duplicate readings) takes no position in the feed: a
    consumer that saves its cursor must not wake itself.

    Args:
        admit: raises if the store has no room for readings.
    """

    def __init__(self, state: State, change: Commit, admit: Callable[[sqlite3.Connection], None]) -> None:
        self._state, self._change, self._admit = state, change, admit
        self._plain = change.readings is None and not change.texts
        self._versions: tuple[int, ...] = ()
        self._resolved: Resolved | None = None
        self._spoken: ReadingPlan[TextReading] | None = None
        self._readings: bytes | None = None
        self._extras: bytes | None = None
        self._entry: FeedEntry | None = None
        self._size = 0
        self._points: Points | None = None
        self._received = 0
        self._distinct = False
        self._moved: tuple[Int64, Int64] | None = None
        self._texts: tuple[TextReading, ...] = ()

    def apply(self, db: sqlite3.Connection) -> None:
        """See the class."""
        (refusal,) = self.apply_together(db, [self])
        if refusal is not None:
            raise refusal

    def joins(self, other: Change[Any]) -> bool:
        """See the class."""
        return self._plain and isinstance(other, CommitChange) and other._plain

    def apply_together(self, db: sqlite3.Connection, changes: Sequence[Change[Any]]) -> list[FleetError | None]:
        """See the class."""
        commits = cast("Sequence[CommitChange]", changes)
        together = RecordChanges(db, [commit._change for commit in commits])
        refusals: list[FleetError | None] = []
        taken: list[CommitChange] = []
        for commit in commits:
            try:
                commit._judge(db, together)
            except FleetError as refusal:
                refusals.append(refusal)
            else:
                refusals.append(None)
                taken.append(commit)
        if taken:
            together.write()
            for commit in taken:
                commit._write(db)
            counters.apply(db, [commit._change for commit in taken])
            _log(db, self._state.position, [commit for commit in taken if commit._is_shown])
            for commit in taken:
                commit._show()
        return refusals

    def _judge(self, db: sqlite3.Connection, together: RecordChanges) -> None:
        """Raises the commit's refusal, if any; nothing is written yet."""
        change = self._change
        if not self._plain:
            self._admit(db)
        self._versions = together.take(change)
        readings = change.readings
        self._resolved = self._resolve(db, readings) if readings is not None and len(readings) else None
        self._spoken = texts.plan(db, self._checked(change.texts)) if change.texts else None

    def _write(self, db: sqlite3.Connection) -> None:
        """Writes all of the commit but its records, its counters and its row in the log."""
        change, resolved, spoken = self._change, self._resolved, self._spoken
        if resolved is not None and len(resolved.batch):
            self._readings = log.pack(log.Logged(resolved.batch, resolved.shown))
        self._extras = log.pack_extras(spoken.shown if spoken else (), change.events)
        self._size = len(self._readings or b"") + len(self._extras or b"")
        if spoken is not None:
            texts.apply(db, (*spoken.shown, *spoken.quiet))
        if change.marks:
            marks.add(db, change.marks, self._state.mark_counts)
        self._keep(db)

    @property
    def _is_shown(self) -> bool:
        # A change of index entries alone does not appear in the feed.
        return bool(self._readings or self._extras or self._change.puts or self._change.deletes)

    def _show(self) -> None:
        """Updates the writer's state in memory; nothing is refused or written after this."""
        state, change, resolved, spoken = self._state, self._change, self._resolved, self._spoken
        if self._is_shown:
            shown = resolved.visible() if resolved is not None else None
            self._entry = FeedEntry(
                position=state.position + 1,
                readings=shown if shown is not None and len(shown) else None,
                texts=spoken.shown if spoken else (),
                events=change.events,
            )
            state.position += 1
        if resolved is not None and len(resolved.batch):
            batch = resolved.batch
            self._points, self._received = Points.of(batch), int(batch.received[0])
            self._distinct = resolved.distinct
            self._moved = state.watermarks.advance(batch.series, batch.time, distinct=self._distinct)
            state.pending.append(self._points)
        self.weight = (
            self._size
            + 1024 * (len(change.puts) + len(change.deletes) + len(change.reindexed))
            + 256 * len(change.marks)
        )
        self._texts = (*spoken.shown, *spoken.quiet) if spoken else ()
        self.result = Committed(
            position=state.position,
            versions=self._versions,
            tally=_NOTHING
            if resolved is None and spoken is None
            else (resolved.tally if resolved else _NOTHING) + (spoken.tally if spoken else _NOTHING),
        )

    def publish(self) -> None:
        """See the class."""
        state = self._state
        if self._points is not None:
            # The group's readings were in this order in `pending`, and are published in the same order.
            state.pending.remove(self._points)
            state.tail.append(self._points, self._received)
            state.watermarks.publish(self._points, distinct=self._distinct)
        for spoken in self._texts:
            if spoken.series not in state.texts or state.texts[spoken.series][0] <= spoken.time:
                state.texts[spoken.series] = (spoken.time, spoken.value)
        if self._entry is not None:
            state.sizes.append(self._size)
            state.feed.append(self._entry)

    def undo(self) -> None:
        """See the class."""
        if self._points is not None:
            self._state.pending.remove(self._points)
        if self._moved is not None:
            self._state.watermarks.retreat(self._moved)
        if self._entry is not None:
            self._state.position -= 1
        self._entry = self._points = self._moved = None

    def _resolve(self, db: sqlite3.Connection, batch: TelemetryBatch) -> Resolved:
        watermarks = self._state.watermarks
        if not watermarks.known(batch.series):
            raise _unknown(self._state.catalog, batch.series.tolist())
        # Adding 0.0 turns -0.0 into 0.0.
        own = TelemetryBatch(batch.series, batch.time, batch.received, batch.value + 0.0, batch.quality, batch.seq)
        if (own.time > watermarks.newest[own.series]).all() and watermarks.are_distinct(own.series):
            return all_new(own, distinct=True)
        return resolve(own, watermarks.newest, lambda series, time: self._held(db, series, time))

    def _held(self, db: sqlite3.Connection, series: Int64, time: Int64) -> Held:
        state = self._state
        runs = list(state.tail.view())
        if state.pending:
            runs.append(Points.merged(state.pending))
        return state.lookup.held(db, runs, series, time)

    def _checked(self, spoken: tuple[TextReading, ...]) -> tuple[TextReading, ...]:
        wanted = np.array([reading.series for reading in spoken], np.int64)
        if not self._state.watermarks.known(wanted):
            raise _unknown(self._state.catalog, wanted.tolist())
        return spoken

    def _keep(self, db: sqlite3.Connection) -> None:
        for name, position in self._change.cursors.items():
            if position is None:
                db.execute("DELETE FROM cursors WHERE name=?", (name,))
            else:
                db.execute("INSERT OR REPLACE INTO cursors(name, position) VALUES (?, ?)", (name, position))
        for name, body in self._change.blobs.items():
            if body is None:
                db.execute("DELETE FROM blobs WHERE name=?", (name,))
            else:
                db.execute(
                    "INSERT OR REPLACE INTO blobs(name, body, checksum) VALUES (?, ?, ?)",
                    (name, body, checksum.of_blob(name, body)),
                )


def _log(db: sqlite3.Connection, position: int, shown: Sequence[CommitChange]) -> None:
    """Writes rows of the log after ``position``: the columns of one commit with readings, or many commits as a list."""
    if len(shown) == 1:
        (commit,) = shown
        db.execute(
            "INSERT INTO log(position, size, readings, extras, checksum) VALUES (?, ?, ?, ?, ?)",
            (
                *(position + 1, commit._size, commit._readings, commit._extras),
                checksum.of_log(position + 1, commit._readings, commit._extras),
            ),
        )
    elif shown:
        rows = [
            (
                *(number, commit._size, None if commit._extras is None else commit._extras.decode()),
                checksum.of_log(number, None, commit._extras),
            )
            for number, commit in enumerate(shown, position + 1)
        ]
        db.execute(
            "INSERT INTO log(position, size, extras, checksum) SELECT json_extract(value, '$[0]'),"
            " json_extract(value, '$[1]'), CAST(json_extract(value, '$[2]') AS BLOB), json_extract(value, '$[3]')"
            " FROM json_each(?)",
            (text(rows),),
        )


class InternChange(Change[list[Series]]):
    """Makes series durable; existing ones do not change."""

    def __init__(self, state: State, wanted: tuple[SeriesRequest, ...]) -> None:
        self._state, self._wanted = state, wanted

    def apply(self, db: sqlite3.Connection) -> None:
        """See the class."""
        self.result = catalog.insert(db, self._wanted, self._state.catalog)
        self._state.watermarks.grow(max((series.index for series in self.result), default=0) + 1)

    def publish(self) -> None:
        """See the class."""
        self._state.catalog.add(self.result)
        self._state.watermarks.alive[[series.index for series in self.result]] = True


def _unknown(known: Catalog, wanted: list[int]) -> NotFound:
    return unknown_series(next(index for index in wanted if not known.has(index)))
