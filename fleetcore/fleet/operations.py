"""Operations: long work in small stored steps, so that it resumes after a crash, and can be watched and stopped.

A step may be repeated after a crash, so the work on an item must be idempotent; each kind documents how it is.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from uuid import uuid4

from attrs import evolve, frozen
from msgspec import json

from fleetcore.errors import Conflict, FleetError, PluginError, Refused, Unavailable, VersionConflict
from fleetcore.fleet.process_state.locks import KeyedLocks
from fleetcore.fleet.repository import Repository, in_time
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.interfaces.waits import end_tasks
from fleetcore.model.operation import Failure, Operation, OperationState
from fleetcore.model.store import Commit, Event

#: Does some items of an operation; returns the failures by index. An exception stops the step, which is tried again.
Handler = Callable[[Operation, Sequence[Any]], Awaitable[Mapping[int, FleetError]]]

#: Advances an operation that follows its own clock instead of items: returns its new state, or None where nothing has
#: changed. It must be idempotent. Where it raises Unavailable or PluginError, the operation reports that it waits for
#: that, and continues later.
Driver = Callable[[Operation, Sequence[Any]], Awaitable[Operation | None]]

#: Runs an operation for about a turn and commits its progress itself; returns whether there was any.
Worker = Callable[[Operation], Awaitable[bool]]

#: Undoes the unfinished work of a cancelled operation, with the actor and the reason. Returns the operation's new
#: state, or None where nothing has changed. It may be called again.
Undo = Callable[[Operation, str, str], Awaitable[Operation | None]]

#: The index entry of cancelled operations whose work is not undone yet.
_UNDOING = ("undo", "yes")

#: The interval at which a caller that waits for such an operation polls, seconds.
_LOOK_S = 0.2

#: How many items lie between two records of the progress; so many may be repeated after a crash.
_STEP = 1000
#: How long one turn works on one operation before others get theirs.
_TURN_S = 0.5
#: How many failures are stored with their reasons.
MAX_FAILURES = 1000
#: The most items of one operation.
MAX_ITEMS = 1_000_000
#: How long an operation waits when its plugin fails, seconds; an error that gives a retry time overrides it.
_AGAIN_S = 5.0
#: How long a hanging turn may delay the others' next turn, seconds.
_HANGS_S = 1.0
#: The tokens that a rate may accumulate: a second's worth, at least one item.
_SAVED_S = 1.0


@frozen(kw_only=True)
class Kind:
    """How operations of a kind run: by one of ``handler``, ``driver`` and ``worker``.

    Attributes:
        handler: does the items, some at a time, at the operation's rate.
        driver: advances an operation that follows its own clock.
        worker: runs an operation that stores its own items.
        undo: undoes the unfinished work of a cancelled operation.
        stops: whether an operation may be cancelled.
        pauses: whether an operation may be paused.
        follows: whether a paused operation still gets turns, to track work in progress without starting more.
    """

    handler: Handler | None = None
    driver: Driver | None = None
    worker: Worker | None = None
    undo: Undo | None = None
    stops: bool = True
    pauses: bool = True
    follows: bool = False


class Operations:
    """Starts, runs and shows operations. :meth:`tick` does the work; the supervisor calls it."""

    def __init__(self, storage: Storage, clock: Clock) -> None:
        self._storage, self._clock = storage, clock
        self.records = Repository(
            storage,
            "operation",
            Operation,
            refs=lambda operation: [
                ("state", operation.state), ("kind", operation.kind), ("actor", operation.actor),
                *([_UNDOING] if operation.undo is not None else ()),
            ],
            sort=lambda operation: in_time(operation.created),
        )  # fmt: skip
        self._kinds: dict[str, Kind] = {}
        self._items: dict[str, Sequence[object]] = {}
        self._saved: dict[str, tuple[float, float]] = {}
        self._working: dict[str, asyncio.Task[object]] = {}
        #: When an operation that waits is tried again, on the monotonic clock.
        self._again_s: dict[str, float] = {}
        # One turn at a time: a caller that waits for an operation may run it concurrently with the supervisor.
        self._turns = KeyedLocks()

    def register(self, name: str, kind: Kind) -> None:
        """Registers how operations of a kind run; call it before the first :meth:`tick`."""
        self._kinds[name] = kind

    def _kind(self, name: str) -> Kind:
        """The kind by name; operations of an unregistered kind, such as an import without a mirror, do not run."""
        return self._kinds.get(name, Kind())

    async def start(
        self,
        kind: str,
        items: Sequence[object],
        *,
        spec: Mapping[str, object] | None = None,
        rate_per_s: float | None = None,
        key: str | None = None,
        actor: str = "system",
        reason: str = "",
    ) -> Operation:
        """Stores the items and returns at once; raises Refused for too many items or an invalid rate.

        A second call with the same ``key`` returns the first operation.
        """
        operation, begun = self.prepared(
            kind, items, spec=spec, rate_per_s=rate_per_s, key=key, actor=actor, reason=reason
        )
        try:
            done = await self._storage.commit(begun)
        except VersionConflict:
            if key is None:
                raise
            return await self.get(operation.id)
        return evolve(operation, version=done.versions[0])

    def prepared(
        self,
        kind: str,
        items: Sequence[object],
        *,
        spec: Mapping[str, object] | None = None,
        rate_per_s: float | None = None,
        key: str | None = None,
        actor: str = "system",
        reason: str = "",
    ) -> tuple[Operation, Commit]:
        """An operation and the commit that starts it, to be part of a larger commit. Raises as :meth:`start`."""
        if len(items) > MAX_ITEMS:
            raise Refused(f"An operation has at most {MAX_ITEMS} items", code="limit_exceeded", limit=MAX_ITEMS)
        if rate_per_s is not None and not 0 < rate_per_s <= 1e6:
            raise Refused("A rate must be a number of items a second above 0")
        now = self._clock.now_ms()
        operation = Operation(
            id=uuid4().hex if key is None else _keyed(key),
            kind=kind,
            state=OperationState.RUNNING if items else OperationState.SUCCEEDED,
            total=len(items),
            rate_per_s=rate_per_s,
            spec=dict(spec or {}),
            created=now,
            updated=now,
            actor=actor,
            reason=reason,
        )
        event = Event(
            type="operation.started",
            subject=operation.id,
            time=now,
            actor=actor,
            reason=reason,
            data={"kind": kind, "total": len(items)},
        )
        begun = self.records.making([operation]) + Commit(
            blobs={blob_of(operation.id): json.encode(list(items))}, events=(event,)
        )
        return operation, begun

    async def keyed(self, key: str) -> Operation | None:
        """The operation that was started with a key, or None."""
        return await self.records.get(_keyed(key))

    async def get(self, operation: str) -> Operation:
        """The operation; raises NotFound."""
        return await self.records.need(operation)

    async def list(self, *, kind: str | None = None) -> Sequence[Operation]:
        """All operations, the newest first."""
        found = await self.records.find(ref=None if kind is None else ("kind", kind))
        return sorted(found, key=lambda operation: operation.created, reverse=True)

    async def cancel(self, operation: str, *, actor: str = "system", reason: str = "") -> Operation:
        """Stops before the next item. Finished items stay done, except those that the kind undoes.

        A running turn is ended first, since it may still start items. If the process is killed before all is undone,
        :meth:`tick` continues.

        Raises Conflict where it has another end state, or is of a kind that always runs to the end.
        """
        now = self._clock.now_ms()

        def step(old: Operation) -> tuple[Operation, Sequence[Event]] | None:
            if old.state is OperationState.CANCELLED:
                return None
            if old.state is not OperationState.RUNNING:
                raise Conflict(f"The operation has ended: {old.state}", code="illegal_transition", operation=operation)
            if not self._kind(old.kind).stops:
                raise Conflict(f"A {old.kind} cannot be stopped", code="illegal_transition", operation=operation)
            event = Event(type="operation.cancelled", subject=operation, time=now, actor=actor, reason=reason)
            undo = {"actor": actor, "reason": reason} if self._kind(old.kind).undo is not None else None
            return evolve(old, state=OperationState.CANCELLED, waiting="", undo=undo, updated=now), [event]

        ended = await self.records.change(operation, step)
        if (hanging := self._working.get(operation)) is not None:
            await end_tasks(hanging)  # its work may be repeated
        if ended.undo is not None:
            return await self._take_back(operation)
        await self._forget(operation)
        return ended

    async def _take_back(self, name: str) -> Operation:
        async with self._turns.of(name):
            # What a turn had given to the store, as it was cancelled, is done now.
            await self._storage.commit(Commit())
            ended = await self.get(name)
            if ended.undo is None:
                return ended
            take_back = self._kind(ended.kind).undo
            assert take_back is not None  # otherwise there is nothing to undo
            undone = await take_back(ended, ended.undo["actor"], ended.undo["reason"]) or ended
            # Afterwards, since undoing may read the items.
            await self._forget(name)
            return await self.records.change(name, lambda old: (evolve(undone, undo=None, version=old.version), []))

    async def pause(self, operation: str, *, actor: str = "system", reason: str = "") -> Operation:
        """Starts no more items until :meth:`resume`; items in progress finish.

        Raises Conflict where it has ended, or is of a kind that always runs to the end.
        """
        return await self._held(operation, reason or f"paused by {actor}", "paused", actor, reason)

    async def resume(self, operation: str, *, actor: str = "system", reason: str = "") -> Operation:
        """Resumes a paused operation. Raises Conflict where it has ended."""
        return await self._held(operation, None, "resumed", actor, reason)

    async def _held(self, operation: str, paused: str | None, verb: str, actor: str, reason: str) -> Operation:
        now = self._clock.now_ms()

        def step(old: Operation) -> tuple[Operation, Sequence[Event]] | None:
            if old.state is not OperationState.RUNNING:
                raise Conflict(f"The operation has ended: {old.state}", code="illegal_transition", operation=operation)
            if not self._kind(old.kind).pauses:
                raise Conflict(f"A {old.kind} cannot be paused", code="illegal_transition", operation=operation)
            if (old.paused is None) is (paused is None):
                return None
            event = Event(type=f"operation.{verb}", subject=operation, time=now, actor=actor, reason=reason)
            return evolve(old, paused=paused, updated=now), [event]

        return await self.records.change(operation, step)

    async def items(self, operation: str) -> Sequence[object]:
        """The items of an operation, as long as it has not ended."""
        items = self._items.get(operation)
        if items is None:
            blob = await self._storage.blob(blob_of(operation))
            items = self._items[operation] = json.decode(blob or b"[]")
        return items

    async def tick(self) -> None:
        """Gives every running operation its turn, and undoes the unfinished work of cancelled ones."""
        running = await self.records.find(ref=("state", OperationState.RUNNING))
        for operation in [*await self.records.find(ref=_UNDOING), *running]:
            if operation.kind in self._kinds and operation.id not in self._working:
                work = (self.turn if operation.undo is None else self._take_back)(operation.id)
                self._working[operation.id] = asyncio.create_task(work, name=f"operation {operation.id}")
        if not self._working:
            return
        # A turn that hangs, at a hub for example, does not block the others.
        await asyncio.wait(self._working.values(), timeout=_HANGS_S)
        ended = {name: task for name, task in self._working.items() if task.done()}
        for name in ended:
            del self._working[name]
        failed = [error for task in ended.values() if not task.cancelled() and (error := task.exception()) is not None]
        if failed:
            raise failed[0]

    async def close(self) -> None:
        """Ends turns that hang."""
        await end_tasks(*self._working.values())
        self._working.clear()

    async def run(self, operation: str) -> Operation:
        """Works until an operation has ended, for callers without a supervisor; its rate applies."""
        while (current := await self.get(operation)).state is OperationState.RUNNING:
            moved = await self.turn(operation)
            if self._kinds[current.kind].driver is not None or not moved:
                await self._clock.sleep(_LOOK_S)
            elif current.rate_per_s is not None:
                await self._clock.sleep(min(1.0, 1 / current.rate_per_s))
        return current

    async def turn(self, name: str) -> bool:
        """Runs one operation for a while without waiting for the next tick; False where it can only wait."""
        async with self._turns.of(name):
            operation = await self.get(name)
            if operation.state is not OperationState.RUNNING:
                return True
            kind = self._kinds[operation.kind]
            if operation.paused is not None and not kind.follows:
                return False
            if kind.worker is not None:
                return await kind.worker(operation)
            items = await self.items(name)
            if kind.driver is not None:
                await self._driven(operation, items, kind.driver)
            elif kind.handler is not None:
                await self._work(operation, items, kind.handler)
            return True

    async def _driven(self, operation: Operation, items: Sequence[object], driver: Driver) -> None:
        if self._clock.monotonic_s() < self._again_s.get(operation.id, 0.0):
            return
        still = evolve(operation, waiting="")
        try:
            moved = await driver(still, items) or still
        except (Unavailable, PluginError) as error:
            after_s = error.retry_after_s if isinstance(error, Unavailable) else _AGAIN_S
            self._again_s[operation.id] = self._clock.monotonic_s() + after_s
            moved = evolve(operation, waiting=str(error))
        else:
            self._again_s.pop(operation.id, None)
        await self._move(None if moved == operation else moved)

    async def _move(self, moved: Operation | None) -> None:
        if moved is None:
            return
        now = self._clock.now_ms()

        def step(old: Operation) -> tuple[Operation, Sequence[Event]] | None:
            if old.state is not OperationState.RUNNING:
                return None
            ended = moved.state is not OperationState.RUNNING
            data = {"done": moved.done, "failed": moved.failed}
            event = Event(type=f"operation.{moved.state}", subject=old.id, time=now, actor=old.actor, data=data)
            first = moved.failures[:MAX_FAILURES]
            same = evolve(moved, failures=first, paused=old.paused, version=old.version, updated=now)
            return same, [event] if ended else []

        ended = await self.records.change(moved.id, step)
        if ended.state is not OperationState.RUNNING:
            await self._forget(moved.id)

    async def _work(self, operation: Operation, items: Sequence[Any], handler: Handler) -> None:
        until = self._clock.monotonic_s() + _TURN_S
        while self._clock.monotonic_s() <= until:
            count = min(_STEP, self.allowed(operation))
            if not count:
                return
            operation = await self._step(operation, items[operation.done : operation.done + count], handler)
            if operation.state is not OperationState.RUNNING:
                await self._forget(operation.id)
                return

    def allowed(self, operation: Operation) -> int:
        """How many items the rate allows now: a token bucket."""
        if operation.rate_per_s is None:
            return _STEP
        now = self._clock.monotonic_s()
        saved, since = self._saved.get(operation.id, (1.0, now))
        saved = min(saved + (now - since) * operation.rate_per_s, max(1.0, operation.rate_per_s * _SAVED_S))
        whole = min(int(saved), operation.total - operation.done)
        self._saved[operation.id] = (saved - whole, now)
        return whole

    async def _step(self, operation: Operation, items: Sequence[object], handler: Handler) -> Operation:
        failed_at = await handler(operation, items)
        failures = [
            Failure(
                item=operation.done + place + 1,
                about=str(items[place]) if isinstance(items[place], str) else str(error.ids.get("device", "")),
                code=error.code,
                reason=str(error),
            )
            for place, error in sorted(failed_at.items())
        ]
        now = self._clock.now_ms()

        def step(old: Operation) -> tuple[Operation, Sequence[Event]] | None:
            done, failed = operation.done + len(items), operation.failed + len(failures)
            state, events = old.state, []
            if old.state is OperationState.RUNNING and done >= old.total:
                state = OperationState.PARTLY if failed else OperationState.SUCCEEDED
                data = {"done": done, "failed": failed}
                events = [Event(type=f"operation.{state}", subject=old.id, time=now, actor=old.actor, data=data)]
            first = (*old.failures, *failures)[:MAX_FAILURES]
            reasons = Counter(old.reasons) + Counter(failure.code for failure in failures)
            return evolve(
                old, done=done, failed=failed, failures=first, reasons=reasons, state=state, updated=now
            ), events

        return await self.records.change(operation.id, step)

    async def _forget(self, operation: str) -> None:
        self._items.pop(operation, None)
        self._saved.pop(operation, None)
        self._again_s.pop(operation, None)
        await self._storage.commit(Commit(blobs={blob_of(operation): None}))


def check_plan(plan: str | None, now: str, count: int, cap: int) -> None:
    """Checks that the present work is the planned one, and within the cap.

    Args:
        plan: the digest of the confirmed plan, or None without one.
        now: the digest of the present plan.

    Raises Conflict (``plan_changed``) or Refused (``limit_exceeded``).
    """
    if plan is not None and plan != now:
        raise Conflict(
            f"The plan was for other devices or another request; {count} are selected now",
            code="plan_changed",
            remedy="Make a new plan and check it",
        )
    if count > cap:
        raise Refused(
            f"{count} devices are more than the cap of {cap}",
            code="limit_exceeded",
            remedy="Narrow the query, or raise the cap",
            limit=cap,
            unit="devices",
        )


def _keyed(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:32]


def blob_of(operation: str) -> str:
    """The name of the blob with an operation's items."""
    return f"operation/{operation}"
