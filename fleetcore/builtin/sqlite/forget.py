"""Forgetting a device: its series, readings, texts and marks are erased from tables, log, memory and free pages."""

import sqlite3

import numpy as np

from fleetcore.builtin.sqlite import checksum, log
from fleetcore.builtin.sqlite.plain import text
from fleetcore.builtin.sqlite.state import State
from fleetcore.builtin.sqlite.writer import Change
from fleetcore.model.telemetry import Int64


class Forget(Change[None]):
    """Erases in one transaction; no seal may be under way. Log rows that hold the device's readings are rewritten."""

    def __init__(self, state: State, device: str) -> None:
        self._state, self._device = state, device
        self._series: Int64 = np.empty(0, np.int64)
        self._sizes: dict[int, int] = {}

    def apply(self, db: sqlite3.Connection) -> None:
        """See the class."""
        self.result = None
        self._series = np.array([series.index for series in self._state.catalog.of(self._device)], np.int64)
        ids = text(self._series.tolist())
        db.execute("DELETE FROM marks WHERE device=?", (self._device,))
        if not len(self._series):
            return
        some = "(SELECT value FROM json_each(?))"
        db.execute(f"DELETE FROM chunk_bodies WHERE id IN (SELECT id FROM chunks WHERE series IN {some})", (ids,))  # noqa: S608 - a constant
        db.execute(f"DELETE FROM chunks WHERE series IN {some}", (ids,))  # noqa: S608 - a constant
        db.execute(f"DELETE FROM texts WHERE series IN {some}", (ids,))  # noqa: S608 - a constant
        db.execute(f"DELETE FROM series WHERE id IN {some}", (ids,))  # noqa: S608 - a constant
        db.execute("UPDATE meta SET value = value + 1 WHERE name = 'forgotten'")
        for position in range(self._state.feed.trimmed + 1, self._state.position + 1):
            self._rewrite(db, position)
        self._state.watermarks.alive[self._series] = False

    def _rewrite(self, db: sqlite3.Connection, position: int) -> None:
        row = db.execute(f"SELECT {log.COLUMNS} FROM log WHERE position=?", (position,)).fetchone()  # noqa: S608 - a constant
        _, readings, extras, _ = log.intact(row)
        before = (readings, extras)
        if readings is not None:
            logged = log.unpack(readings)
            stays = ~np.isin(logged.batch.series, self._series)
            if not stays.all():
                shown = None if logged.shown is None else logged.shown[stays]
                readings = log.pack(log.Logged(logged.batch.take(stays), shown)) if stays.any() else None
        if extras is not None:
            entry = log.entry((position, None, extras, None))
            texts = tuple(spoken for spoken in entry.texts if spoken.series not in self._series)
            if len(texts) < len(entry.texts):
                extras = log.pack_extras(texts, entry.events)
        if (readings, extras) != before:
            size = self._sizes[position] = len(readings or b"") + len(extras or b"")
            kept = checksum.of_log(position, readings, extras)
            db.execute(
                "UPDATE log SET size=?, readings=?, extras=?, checksum=? WHERE position=?",
                (size, readings, extras, kept, position),
            )

    def publish(self) -> None:
        """See the class."""
        state = self._state
        if not len(self._series):
            return
        state.catalog.remove(self._device)
        state.watermarks.forget(self._series)
        state.tail.forget(self._series)
        state.feed.clear()
        state.lookup.clear()
        for index in self._series.tolist():
            state.texts.pop(index, None)
        for position, size in self._sizes.items():
            state.sizes[position - state.feed.trimmed - 1] = size

    def undo(self) -> None:
        """See the class."""
        self._state.watermarks.alive[self._series] = True


def erase_traces(db: sqlite3.Connection) -> None:
    """Empties the WAL, which holds copies of erased data; the free pages are cut off before."""
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
