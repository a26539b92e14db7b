"""Writes the WAL back into the database beside the commits, so that a commit rarely waits for it.

SQLite's own checkpoint happens inside the commit that crosses a threshold: 20-60 ms at commits of 10,000 readings. Here
a separate connection does most of it while commits go on, and the writer does only the little that arrived meanwhile.
Then the next commit starts the WAL from its beginning.
"""

import sqlite3
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

from fleetcore.builtin.sqlite import schema
from fleetcore.builtin.sqlite.readers import Readers
from fleetcore.builtin.sqlite.writer import Reply
from fleetcore.errors import StorageError

#: Fractions of the writer's own threshold (schema.py): how much is written before a checkpoint, and how long the WAL is
#: made at first.
_BACK, _EXTENDED = 2 / 3, 5 / 6

#: A store that has written this much gets its WAL extended; a store opened for one query does not.
_EARNEST_BYTES = 256 * 1024

#: WAL bytes per byte that a change reports, until the first checkpoint gives the real ratio.
_SCALE = 8.0

_PASSIVE = "PRAGMA wal_checkpoint(PASSIVE)"


class Checkpointer:
    """Counts what the writer writes and starts checkpoints.

    Args:
        db: a separate connection.
        on_writer: runs a function on the writer between two commits.
        wal_bytes: how long the WAL may become.
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        on_writer: Callable[[Callable[[sqlite3.Connection], object]], None],
        wal_bytes: int,
    ) -> None:
        self._back, self._extension = int(wal_bytes * _BACK), int(wal_bytes * _EXTENDED)
        self._thread = Readers([db])
        self._on_writer = on_writer
        #: The bytes written since the last checkpoint, and the WAL bytes per reported byte at the last one.
        self._bytes = 0
        self._scale = _SCALE
        self._busy = self._extended = self._closing = False

    @property
    def failure(self) -> StorageError | None:
        """The error that ended the thread, or None."""
        return self._thread.failure

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def wrote(self, weight: int) -> None:
        """Called on the writer's thread after each transaction."""
        self._bytes += weight
        if not self._extended and self._bytes >= _EARNEST_BYTES:
            self._extended = True
            self._on_writer(partial(extend, size_bytes=self._extension))
        if self._bytes * self._scale >= self._back and not self._busy:
            self._busy = True
            try:
                self._thread.look(self._beside, Reply(None, Future()))
            except StorageError:
                if not self._closing:
                    raise
                # The writer stops last: what it committed meanwhile is checkpointed at the next opening.

    def _beside(self, db: sqlite3.Connection) -> None:
        try:
            written = self._bytes
            _, frames, _ = db.execute(_PASSIVE).fetchone()
            # Changing a few bytes of a page writes a whole frame, so the WAL's length gives the real ratio.
            self._scale = max(1.0, frames * schema.PAGE_BYTES / max(1, written))
            # Again: the second pass only handles what was committed during the first.
            db.execute(_PASSIVE).fetchall()
            self._on_writer(self._finish)
        finally:
            self._busy = False

    def _finish(self, db: sqlite3.Connection) -> None:
        db.execute(_PASSIVE).fetchall()
        self._bytes = 0

    def stop(self, *, wait: bool = True) -> None:
        """Ends the thread."""
        self._closing = True
        self._thread.stop(wait=wait)


def extend(db: sqlite3.Connection, size_bytes: int) -> None:
    """Makes the WAL long: a transaction that outgrows the cache spills into it, and leaves only the length behind."""
    kept = int(db.execute("PRAGMA cache_size").fetchone()[0])
    db.execute("PRAGMA cache_size=16")
    db.execute("BEGIN IMMEDIATE")
    try:
        db.execute("INSERT INTO blobs(name, body) VALUES ('', zeroblob(?))", (size_bytes,))
    finally:
        db.execute("ROLLBACK")
        db.execute(f"PRAGMA cache_size={kept}")
