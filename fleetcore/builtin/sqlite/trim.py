"""Trimming: log rows are deleted once their readings are sealed and every cursor has passed them.

A lagging cursor keeps rows up to the configured limit; rows deleted beyond it are counted in ``meta.feed_lost``. The
most recent rows always stay, so that a subscriber can resume after a short break.
"""

import sqlite3

import numpy as np

from fleetcore.builtin.sqlite import schema
from fleetcore.builtin.sqlite.config import SqliteConfig
from fleetcore.builtin.sqlite.state import State
from fleetcore.builtin.sqlite.writer import Change

#: Rows that stay although every cursor has passed them: this many commits, at most this many bytes.
_RECENT_COMMITS, _RECENT_BYTES = 1000, 4 * 1024**2

#: Bytes of log rows deleted in one transaction: a commit waits no longer than for that.
_SLICE_BYTES = 8 * 1024**2

#: 32 MiB; free pages are reused, so a few are harmless.
_SHRINK_PAGES = 32 * 1024**2 // schema.PAGE_BYTES

#: Pages cut off at a time, about 4 MiB in 10 ms: a commit waits no longer than that.
_CUT_PAGES = 512


class Trim(Change[bool]):
    """Deletes some of the rows that may be deleted; the result says whether there are more.

    Args:
        given_up: rows up to this position count as passed by every cursor.
    """

    def __init__(self, state: State, config: SqliteConfig, given_up: int = 0) -> None:
        self._state, self._config, self._given_up = state, config, given_up
        self._gone = 0

    def apply(self, db: sqlite3.Connection) -> None:
        """See the class."""
        state, config = self._state, self._config
        trimmed = state.feed.trimmed
        sizes = np.array(state.sizes, np.int64)
        if not len(sizes):
            self.result = False
            return
        behind = sizes[::-1].cumsum()[::-1]
        count = np.arange(len(sizes), 0, -1)
        slowest = db.execute("SELECT min(position) FROM cursors").fetchone()[0]
        sealed = state.sealed - trimmed
        passed = len(sizes) if slowest is None else max(0, slowest - trimmed, min(self._given_up - trimmed, len(sizes)))
        recent = int(((behind > _RECENT_BYTES) | (count > _RECENT_COMMITS)).sum())
        beyond = int(((behind > config.feed_keep_bytes) | (count > config.feed_keep_commits)).sum())
        may_go = max(min(sealed, passed, recent), min(sealed, beyond))
        within = int((sizes.cumsum() <= _SLICE_BYTES).sum())
        self._gone = min(may_go, max(1, within))
        self.result = self._gone < may_go
        if self._gone:
            lost = max(0, self._gone - passed)
            db.execute("DELETE FROM log WHERE position <= ?", (trimmed + self._gone,))
            schema.set_meta(db, "trimmed", trimmed + self._gone)
            if lost:
                db.execute("UPDATE meta SET value = value + ? WHERE name = 'feed_lost'", (lost,))

    def publish(self) -> None:
        """See the class."""
        if self._gone:
            del self._state.sizes[: self._gone]
            self._state.feed.trimmed += self._gone


def shrink(db: sqlite3.Connection) -> bool:
    """Returns some free pages to the file system, if they are more than a quarter of a large file.

    Returns False if they are not.
    """
    free, pages = (int(db.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("freelist_count", "page_count"))
    return free > _SHRINK_PAGES and free > pages // 4 and cut_free(db)


def cut_free(db: sqlite3.Connection) -> bool:
    """Cuts some free pages off the file; returns False if all are in use."""
    before = int(db.execute("PRAGMA freelist_count").fetchone()[0])
    # As a script: execute() takes one step of the statement, and each step cuts one page.
    db.executescript(f"PRAGMA incremental_vacuum({_CUT_PAGES})")
    return int(db.execute("PRAGMA freelist_count").fetchone()[0]) < before
