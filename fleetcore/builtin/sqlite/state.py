"""The state that the store keeps in memory beside its tables, and how it is loaded at opening."""

import logging
import sqlite3

import numpy as np

from fleetcore.builtin.sqlite import catalog, chunks, log, schema, texts
from fleetcore.builtin.sqlite.feed import Feed
from fleetcore.builtin.sqlite.lookup import Lookup
from fleetcore.builtin.sqlite.marks import MarkCounts
from fleetcore.builtin.sqlite.order import Points
from fleetcore.builtin.sqlite.tail import Tail
from fleetcore.builtin.sqlite.watermarks import Watermarks
from fleetcore.errors import StorageError
from fleetcore.model.catalog import Catalog
from fleetcore.model.telemetry import TelemetryBatch

_log = logging.getLogger(__name__)


class State:
    """Readers use ``catalog``, ``marks``, ``tail``, ``feed``, ``texts``; the rest belongs to the writer's thread.

    Attributes:
        position: of the last commit, those of the open transaction included.
        pending: readings of the open transaction, oldest first.
        sizes: bytes of the log's rows, the first one at ``feed.trimmed + 1``.
        texts: time and text of the newest text reading by series.
        sealed: the position up to which chunks hold all readings.
        forgotten: how many devices were forgotten.
        damaged_chunks: ids of chunks found to be damaged; any thread adds to it.
        damaged_series: series with a damaged row: their names are uncertain.
    """

    def __init__(self) -> None:
        self.catalog = Catalog()
        self.watermarks = Watermarks()
        self.tail = Tail()
        self.feed = Feed()
        self.lookup = Lookup(self.intact)
        self.mark_counts = MarkCounts()
        self.texts: dict[int, tuple[int, str]] = {}
        self.position = 0
        self.sealed = 0
        self.forgotten = 0
        self.pending: list[Points] = []
        self.sizes: list[int] = []
        self.damaged_chunks: set[int] = set()
        self.damaged_series: set[int] = set()

    def intact(self, series: int, index: int, body: bytes, kept: int | None) -> Points | None:
        """A chunk's points; None for a damaged one, which is logged once."""
        if index in self.damaged_chunks:
            return None
        try:
            return chunks.unpack(series, index, body, kept)
        except StorageError as error:
            self.damaged_chunks.add(index)
            _log.error("%s", error.message)
            return None

    def load(self, db: sqlite3.Connection) -> None:
        """Loads everything; the feed's entries stay in the log until they are asked for."""
        meta = schema.meta(db)
        self.sealed = meta["sealed"]
        self.forgotten = meta["forgotten"]
        self.feed.trimmed = meta["trimmed"]
        self.add_series(db)
        self._load_chunks(db, 0)
        self.texts = texts.newest(db)
        self.sizes = [size for (size,) in db.execute("SELECT size FROM log ORDER BY position")]
        self.position = self.feed.position = max(meta["trimmed"] + len(self.sizes), meta["sealed"])
        self.load_log(db, self.sealed)

    def follow(self, db: sqlite3.Connection, trimmed: int) -> None:
        """Loads what another process has committed since; nothing was sealed or forgotten meanwhile."""
        self.add_series(db)
        self.texts = texts.newest(db)
        self.load_log(db, self.position)
        newest = db.execute("SELECT max(position) FROM log").fetchone()[0]
        self.position = self.feed.position = max(newest or 0, self.position)
        self.feed.trimmed = trimmed

    def add_series(self, db: sqlite3.Connection) -> None:
        """Adds the series that are new in the table."""
        found, damaged = catalog.load(db, self.catalog.top)
        self.damaged_series |= damaged
        self.catalog.add(found)
        if found:
            self.watermarks.grow(found[-1].index + 1)
            self.watermarks.alive[[series.index for series in found]] = True

    def _load_chunks(self, db: sqlite3.Connection, above: int) -> None:
        rows = db.execute(
            "SELECT series, t_max, v_last, q_last, seq_last FROM chunks"
            " WHERE id > ? AND id <= (SELECT value FROM meta WHERE name='chunks')",
            (above,),
        ).fetchall()
        if rows:
            series, time, value, quality, seq = zip(*rows, strict=True)
            ends = Points(
                np.array(series, np.int64),
                np.array(time, np.int64),
                np.array(value, np.float64),
                np.array(quality, np.uint8),
                np.array(seq, np.int64),
            )
            self.watermarks.load(Points.merged([ends]))

    def load_log(self, db: sqlite3.Connection, after: int) -> None:
        """Puts the readings of log rows after a position into the tail."""
        rows = db.execute(
            f"SELECT {log.COLUMNS} FROM log WHERE position > ? ORDER BY position",  # noqa: S608 - a constant
            (after,),
        )
        for row in rows:
            readings = log.intact(row)[1]
            if readings is not None:
                self.show(log.unpack(readings).batch)

    def show(self, batch: TelemetryBatch) -> None:
        """Publishes readings that are durable, as after a commit."""
        points = Points.of(batch)
        self.tail.append(points, int(batch.received[0]))
        self.watermarks.load(points)
