"""The one thread that writes: it takes everything that waits and commits it in one transaction (group commit).

One sync to disk serves all commits that arrived while the one before ran. A change that is refused says so before it
writes anything, so the others of its group are unharmed; if writing itself fails, the group is rolled back and its
changes are tried one by one.
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

#: How long a stopping thread is waited for; it only finishes what it was given.
_STOP_S = 60.0


class Change(ABC, Generic[T]):
    """One change; its methods run on the writer's thread."""

    result: T
    #: Bytes it writes, roughly: says when the WAL is to be written back.
    weight: int = 4096

    @abstractmethod
    def apply(self, db: sqlite3.Connection) -> None:
        """Checks, then writes, then moves the writer's own state. A refusal comes before the first write."""

    def joins(self, _other: "Change[Any]") -> bool:
        """Whether it may be applied in one go with another that comes right before it."""
        return False

    def apply_together(self, db: sqlite3.Connection, changes: "Sequence[Change[Any]]") -> list[FleetError | None]:
        """Applies changes of which each joins this one, the first; gives the refusal of each that is refused.

        As :meth:`apply` one after the other. Where it raises, no state beside the database was moved.
        """
        assert len(changes) == 1, "what joins others says how"
        try:
            self.apply(db)
        except FleetError as refusal:
            return [refusal]
        return [None]

    def publish(self) -> None:
        """Shows the change to readers: it is durable."""
        return

    def undo(self) -> None:
        """Takes the writer's own state back: the transaction was rolled back. The newest change is undone first."""
        return


class Statements(Change[T]):
    """A change that is a function of the connection and has no state beside the database."""

    def __init__(self, work: Callable[[sqlite3.Connection], T], weight: int = 4096) -> None:
        self._work, self.weight = work, weight

    def apply(self, db: sqlite3.Connection) -> None:
        self.result = self._work(db)


class Reply:
    """Where an outcome goes: to a coroutine of some loop, or to a waiting thread."""

    __slots__ = ("future", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop | None, future: "asyncio.Future[Any] | Future[Any]") -> None:
        self.loop, self.future = loop, future


Outcome = tuple[Reply, object, BaseException | None]


def deliver(outcomes: list[Outcome]) -> None:
    """Hands outcomes over, one wake-up per event loop; a caller that has gone is skipped."""
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
            # The loop was closed meanwhile, so no task waits any more.
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
        #: Why the thread has ended, once it has by an error: what memory shows may not be what is on the disk then.
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
        """Queues something that runs outside of a transaction: reads of a store in memory, upkeep."""
        self._put(None, work, reply)

    def stop(self, *, wait: bool = True) -> None:
        """Finishes what is queued, closes the connection and ends the thread; may be called twice."""
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
        """Answers what was taken and what waits, and refuses what comes; whether it is stored is unknown."""
        failure = StorageError(
            f"The store's writer ended by {type(error).__name__}: {error}",
            remedy="Start the process anew: what is on the disk is whole",
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
    """The changes in their order, those together that join the first of their run."""
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
