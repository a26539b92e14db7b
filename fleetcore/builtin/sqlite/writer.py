"""The only thread that writes: it takes all waiting changes and commits them in one transaction (group commit).

One sync to disk serves all commits that arrived while the one before ran. A refused change raises before it writes
anything, so the others of its group are unaffected; if writing itself fails, the group is rolled back and its changes
are tried one by one.
"""

import asyncio
import logging
import sqlite3
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from fleetcore import threads
from fleetcore.builtin.sqlite.failure import translated
from fleetcore.errors import FleetError, StorageError

T = TypeVar("T")
_log = logging.getLogger(__name__)

#: How long to wait for a stopping thread; it only finishes its queue.
_STOP_S = 60.0


class Change(ABC, Generic[T]):
    """One change; its methods run on the writer's thread."""

    result: T
    #: About how many bytes it writes; decides when the WAL is checkpointed.
    weight: int = 4096

    @abstractmethod
    def apply(self, db: sqlite3.Connection) -> None:
        """Checks, then writes, then moves the writer's state. A refusal comes before the first write."""

    def joins(self, _other: "Change[Any]") -> bool:
        """Whether it may be applied together with the change right before it."""
        return False

    def apply_together(self, db: sqlite3.Connection, changes: "Sequence[Change[Any]]") -> list[FleetError | None]:
        """Applies changes that all join the first, this one; returns the refusal of each refused one.

        Equivalent to :meth:`apply` one after the other. If it raises, only the database was changed.
        """
        assert len(changes) == 1, "a change that joins others must implement this"
        try:
            self.apply(db)
        except FleetError as refusal:
            return [refusal]
        return [None]

    def publish(self) -> None:
        """Publishes the change to readers: it is durable."""
        return

    def undo(self) -> None:
        """Restores the writer's state after a rollback. The newest change is undone first."""
        return


class Statements(Change[T]):
    """A change that only uses the connection and has no state in memory."""

    def __init__(self, work: Callable[[sqlite3.Connection], T], weight: int = 4096) -> None:
        self._work, self.weight = work, weight

    def apply(self, db: sqlite3.Connection) -> None:
        self.result = self._work(db)


class Reply:
    """The receiver of an outcome: a coroutine of some loop, or a waiting thread."""

    __slots__ = ("future", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop | None, future: "asyncio.Future[Any] | Future[Any]") -> None:
        self.loop, self.future = loop, future


Outcome = tuple[Reply, object, BaseException | None]


def deliver(outcomes: list[Outcome]) -> None:
    """Delivers outcomes, one wake-up per event loop; cancelled callers are skipped."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome[0].loop is None:
            _settle([outcome])
        else:
            by_loop.setdefault(outcome[0].loop, []).append(outcome)
    for loop, some in by_loop.items():
        try:
            loop.call_soon_threadsafe(_settle, some)
        except RuntimeError:
            # The loop was closed meanwhile, so no task waits.
            continue


def _settle(outcomes: list[Outcome]) -> None:
    for reply, result, error in outcomes:
        if not reply.future.done():
            if error is None:
                reply.future.set_result(result)
            else:
                reply.future.set_exception(error)


class Writer:
    """Owns the writing connection from :meth:`start` to :meth:`stop`."""

    def __init__(self, db: sqlite3.Connection, wrote: Callable[[int], None] = lambda _: None) -> None:
        self._db, self._wrote = db, wrote
        #: The error that ended the thread, or None: memory may then differ from the disk.
        self.failure: StorageError | None = None
        self._waiting: deque[tuple[Change[Any] | None, Callable[[sqlite3.Connection], object] | None, Reply]] = deque()
        # A re-entrant lock: a garbage collection inside a locked section may stop an abandoned store.
        self._wake = threading.Condition(threading.RLock())
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="fleetcore-sqlite-writer", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        threads.start(self._thread)

    def submit(self, change: Change[Any], reply: Reply) -> None:
        """Queues a change; changes are applied in the order in which they are submitted."""
        self._put(change, None, reply)

    def look(self, work: Callable[[sqlite3.Connection], object], reply: Reply) -> None:
        """Queues a function that runs outside of a transaction: reads of a store in memory, maintenance."""
        self._put(None, work, reply)

    def stop(self, *, wait: bool = True) -> None:
        """Finishes what is queued, closes the connection and ends the thread; idempotent."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if wait and self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(_STOP_S)

    def _put(
        self, change: Change[Any] | None, work: Callable[[sqlite3.Connection], object] | None, reply: Reply
    ) -> None:
        with self._wake:
            if self.failure is not None:
                raise self.failure
            if self._stopping:
                raise StorageError("The store is closed")
            self._waiting.append((change, work, reply))
            self._wake.notify()

    def _run(self) -> None:
        taken: list[tuple[Change[Any] | None, Callable[[sqlite3.Connection], object] | None, Reply]] = []
        try:
            while True:
                with self._wake:
                    while not self._waiting and not self._stopping:
                        self._wake.wait()
                    if not self._waiting:
                        return
                    taken = list(self._waiting)
                    self._waiting.clear()
                outcomes: list[Outcome] = []
                changes = [(change, reply) for change, _, reply in taken if change is not None]
                if changes:
                    outcomes += self._group(changes)
                for _, work, reply in taken:
                    if work is not None:
                        outcomes.append(self._one(work, reply))
                deliver(outcomes)
        except BaseException as error:  # noqa: BLE001 - callers get it: the thread ends, and they must not wait for it
            self._fail(error, [reply for _, _, reply in taken])
        finally:
            self._db.close()

    def _fail(self, error: BaseException, replies: list[Reply]) -> None:
        """Fails the current and the waiting changes, and refuses new ones; whether they are stored is unknown."""
        failure = StorageError(
            f"The store's writer ended by {type(error).__name__}: {error}",
            remedy="Restart the process: the stored data is intact",
        )
        failure.__cause__ = error
        _log.error("%s", failure.message, exc_info=error)
        with self._wake:
            self.failure = failure
            replies += [reply for _, _, reply in self._waiting]
            self._waiting.clear()
        deliver([(reply, None, failure) for reply in replies])

    def _one(self, work: Callable[[sqlite3.Connection], object], reply: Reply) -> Outcome:
        try:
            return reply, work(self._db), None
        except BaseException as error:  # noqa: BLE001 - it belongs to the caller, the thread goes on
            return reply, None, _shown(error)

    def _group(self, changes: list[tuple[Change[Any], Reply]]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        applied: list[tuple[Change[Any], Reply]] = []
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for run in _runs(changes):
                refusals = run[0][0].apply_together(self._db, [change for change, _ in run])
                for entry, refusal in zip(run, refusals, strict=True):
                    if refusal is None:
                        applied.append(entry)
                    else:
                        outcomes.append((entry[1], None, refusal))
            self._db.execute("COMMIT")
        except BaseException as error:  # noqa: BLE001 - it belongs to the callers, the thread goes on
            for change, _ in reversed(applied):
                change.undo()
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            if len(changes) == 1:
                return [(changes[0][1], None, _shown(error))]
            return [outcome for change in changes for outcome in self._group([change])]
        for change, reply in applied:
            change.publish()
            outcomes.append((reply, change.result, None))
        self._wrote(sum(change.weight for change, _ in applied))
        return outcomes


def _runs(changes: list[tuple[Change[Any], Reply]]) -> Iterator[list[tuple[Change[Any], Reply]]]:
    """The changes in order, grouped into runs that join their first."""
    run: list[tuple[Change[Any], Reply]] = []
    for entry in changes:
        if run and not entry[0].joins(run[0][0]):
            yield run
            run = []
        run.append(entry)
    yield run


def _shown(error: BaseException) -> BaseException:
    shown = translated(error)
    if shown is not error:
        shown.__cause__ = error
    return shown
