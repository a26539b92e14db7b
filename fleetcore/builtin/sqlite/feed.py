"""The feed in memory: the last commits, the consumers that wait for the next one, and how far back the log reaches."""

import asyncio
import sqlite3
import threading
from collections.abc import Sequence

from fleetcore.builtin.sqlite import log
from fleetcore.errors import NotFound
from fleetcore.model.store import FeedEntry

#: Consumers that keep up are served from this many readings and commits without decoding. An event counts as several
#: readings: it is larger, and so is the audit row made from it.
_KEEP_POINTS, _KEEP_ENTRIES = 500_000, 10_000
_EVENT_POINTS = 50

#: The most readings in a page of the feed, whatever its limit.
_PAGE_POINTS = 500_000


class Feed:
    """Thread-safe. Positions have no gaps here, so an entry's place is a subtraction.

    Attributes:
        position: of the last commit visible to readers.
        trimmed: the last position that was deleted.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: list[FeedEntry] = []
        self._points = 0
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self.position = 0
        self.trimmed = 0

    def append(self, entry: FeedEntry) -> None:
        """Publishes one more commit and wakes its waiting consumers."""
        with self._lock:
            self._entries.append(entry)
            self._points += _points(entry)
            if self._points > _KEEP_POINTS or len(self._entries) > _KEEP_ENTRIES:
                self._shorten()
            self.position = entry.position
            waiting, self._waiting = self._waiting, []
        for loop, future in waiting:
            try:
                loop.call_soon_threadsafe(_wake, future)
            except RuntimeError:
                # That loop was closed, so no task waits.
                continue

    def _shorten(self) -> None:
        # Half at a time: removing from the front of a list costs its length.
        gone = 0
        while gone < len(self._entries) - 1 and (
            self._points > _KEEP_POINTS // 2 or len(self._entries) - gone > _KEEP_ENTRIES // 2
        ):
            self._points -= _points(self._entries[gone])
            gone += 1
        del self._entries[:gone]

    def clear(self) -> None:
        """Forgets the entries in memory; the log still has them."""
        with self._lock:
            self._entries.clear()
            self._points = 0

    def recent(self, after: int, limit: int) -> Sequence[FeedEntry] | None:
        """Entries after a position, or None if memory does not reach back that far."""
        with self._lock:
            if after >= self.position:
                return ()
            if not self._entries or self._entries[0].position > after + 1:
                return None
            first = after + 1 - self._entries[0].position
            page: list[FeedEntry] = []
            points = 0
            for entry in self._entries[first : first + limit]:
                page.append(entry)
                points += _points(entry)
                if points >= _PAGE_POINTS:
                    break
            return page

    def wait(self, after: int, loop: asyncio.AbstractEventLoop) -> "asyncio.Future[None] | None":
        """A future that is set by the next commit, or None if the feed has entries already."""
        with self._lock:
            if self.position > after:
                return None
            future = loop.create_future()
            self._waiting = [entry for entry in self._waiting if not entry[1].done()]
            self._waiting.append((loop, future))
            return future

    def refuse_trimmed(self, after: int) -> None:
        """Raises NotFound if commits after ``after`` were deleted."""
        if after < self.trimmed:
            raise NotFound(
                f"The feed after {after} was trimmed",
                remedy="Start again from the stored state, or from the oldest position that is left",
                oldest=self.trimmed + 1,
            )


def read(db: sqlite3.Connection, after: int, limit: int) -> list[FeedEntry]:
    """Entries from the log, fewer than ``limit`` if they are large."""
    found: list[FeedEntry] = []
    points = 0
    for row in db.execute(
        f"SELECT {log.COLUMNS} FROM log WHERE position > ? ORDER BY position LIMIT ?",  # noqa: S608 - a constant
        (after, limit),
    ):
        found.append(log.entry(row))
        points += _points(found[-1])
        if points >= _PAGE_POINTS:
            break
    return found


def _points(entry: FeedEntry) -> int:
    readings = len(entry.readings) if entry.readings is not None else 0
    return readings + _EVENT_POINTS * (len(entry.events) + len(entry.texts))


def _wake(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
