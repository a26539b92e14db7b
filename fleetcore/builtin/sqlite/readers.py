"""Threads that read: each has a connection of its own, so a read waits for no commit and no commit for a read."""

import sqlite3
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue

from fleetcore import threads
from fleetcore.builtin.sqlite.failure import translated
from fleetcore.builtin.sqlite.writer import Reply, deliver
from fleetcore.errors import StorageError

_STOP_S = 60.0

Work = Callable[[sqlite3.Connection], object]


class Readers:
    """A thread per connection; a job goes to the first that is free."""

    def __init__(self, connections: Sequence[sqlite3.Connection]) -> None:
        self._jobs: SimpleQueue[tuple[Work, Reply] | None] = SimpleQueue()
        self._stopped = False
        self._threads = [
            threading.Thread(target=_run, args=(self._jobs, db), name="fleetcore-sqlite-reader", daemon=True)
            for db in connections
        ]

    def start(self) -> None:
        """Starts the threads."""
        for thread in self._threads:
            threads.start(thread)

    def look(self, work: Work, reply: Reply) -> None:
        """Queues a read. The job takes its snapshot of the database with its first statement."""
        if self._stopped:
            raise StorageError("The store is closed")
        self._jobs.put((work, reply))

    def stop(self, *, wait: bool = True) -> None:
        """Finishes what is queued, closes the connections and ends the threads; may be called twice."""
        if not self._stopped:
            self._stopped = True
            for _ in self._threads:
                self._jobs.put(None)
        for thread in self._threads:
            if wait and thread.is_alive() and thread is not threading.current_thread():
                thread.join(_STOP_S)


def _run(jobs: "SimpleQueue[tuple[Work, Reply] | None]", db: sqlite3.Connection) -> None:
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
    finally:
        db.close()
