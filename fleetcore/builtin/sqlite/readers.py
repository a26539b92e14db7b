"""Threads that read: each has its own connection, so reads and commits do not wait for each other."""

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue

from fleetcore import threads
from fleetcore.builtin.sqlite.failure import translated
from fleetcore.builtin.sqlite.writer import Reply, deliver
from fleetcore.errors import StorageError

_log = logging.getLogger(__name__)
_STOP_S = 60.0

Work = Callable[[sqlite3.Connection], object]


class Readers:
    """A thread per connection; a job goes to the first free one."""

    def __init__(self, connections: Sequence[sqlite3.Connection]) -> None:
        self._jobs: SimpleQueue[tuple[Work, Reply] | None] = SimpleQueue()
        self._stopped = False
        #: The error that ended a thread, or None.
        self.failure: StorageError | None = None
        self._threads = [
            threading.Thread(
                target=_run, args=(self._jobs, db, self._fail), name="fleetcore-sqlite-reader", daemon=True
            )
            for db in connections
        ]

    def start(self) -> None:
        """Starts the threads."""
        for thread in self._threads:
            threads.start(thread)

    def look(self, work: Work, reply: Reply) -> None:
        """Queues a read. The job takes its snapshot of the database with its first statement."""
        if self.failure is not None:
            raise self.failure
        if self._stopped:
            raise StorageError("The store is closed")
        self._jobs.put((work, reply))

    def _fail(self, error: BaseException, reply: Reply | None) -> None:
        failure = StorageError(
            f"A reader of the store ended by {type(error).__name__}: {error}", remedy="Restart the process"
        )
        failure.__cause__ = error
        _log.error("%s", failure.message, exc_info=error)
        self.failure = failure
        replies = [] if reply is None else [reply]
        with contextlib.suppress(Empty):
            while True:
                job = self._jobs.get_nowait()
                if job is None:
                    self._jobs.put(None)  # another thread's
                    break
                replies.append(job[1])
        deliver([(each, None, failure) for each in replies])

    def stop(self, *, wait: bool = True) -> None:
        """Finishes what is queued, closes the connections and ends the threads; idempotent."""
        if not self._stopped:
            self._stopped = True
            for _ in self._threads:
                self._jobs.put(None)
        for thread in self._threads:
            if wait and thread.is_alive() and thread is not threading.current_thread():
                thread.join(_STOP_S)


def _run(
    jobs: "SimpleQueue[tuple[Work, Reply] | None]",
    db: sqlite3.Connection,
    fail: Callable[[BaseException, Reply | None], None],
) -> None:
    reply: Reply | None = None
    try:
        while (job := jobs.get()) is not None:
            work, reply = job
            try:
                deliver([(reply, work(db), None)])
            except BaseException as error:  # noqa: BLE001 - it belongs to the caller, the thread goes on
                shown = translated(error)
                if shown is not error:
                    shown.__cause__ = error
                deliver([(reply, None, shown)])
    except BaseException as error:  # noqa: BLE001 - callers get it: they must not wait for a thread that has ended
        fail(error, reply)
    finally:
        db.close()
