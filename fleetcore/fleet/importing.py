"""Bulk registration: one rule for the command line, the library and the API, in bounded memory.

An import is an operation whose rows are stored in parts. Parts may arrive while earlier ones are registered. A part is
validated, its devices are registered, each with its event, and its results are counted in one commit, which also
removes the part; so a crash repeats nothing and loses nothing. Rows whose gateway is not known yet go into the parts of
the next round. Importing the same rows again changes nothing and is not a failure.
"""

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any
from uuid import uuid4

from attrs import asdict, evolve, frozen
from msgspec import json

from fleetcore.errors import Conflict, FleetError, NotFound, Refused
from fleetcore.fleet.import_judging import Checked, DryRun, Judged, Numbered, Result, checked, failure_of, judge
from fleetcore.fleet.import_rows import row_of
from fleetcore.fleet.operations import MAX_FAILURES, MAX_ITEMS, Kind, Operations, blob_of
from fleetcore.fleet.process_state.locks import KeyedLocks
from fleetcore.fleet.registry import Registry
from fleetcore.fleet.repository import ATTEMPTS
from fleetcore.fleet.shielding import Shield
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.model.days import HOUR_MS
from fleetcore.model.device import Device
from fleetcore.model.operation import Operation, OperationState
from fleetcore.model.store import Commit, Committed, Event

KIND = "import"
_log = logging.getLogger(__name__)

#: The most rows of a part: a commit of this many devices takes some 30 ms.
_PART = 1000
#: How long one turn works before other operations get theirs.
_TURN_S = 0.5
#: The most dry runs whose rows still arrive, and how long one may wait for its next rows.
_DRY_RUNS, _DRY_RUN_S = 8, 600.0
#: An import without its next rows for this long is complete.
_OPEN_MS = HOUR_MS


@frozen(kw_only=True)
class Progress:
    """The progress of an import; stored as the operation's ``spec``.

    Attributes:
        open: whether more rows will come.
        round: 1 for the rows as they came, 2 for those that waited for a gateway, and so on.
        next, end: the next part of the round, and how many it has.
        at: rows of the next part that are done.
        waiting: parts of the next round so far.
        moved: whether this round registered a device.
        last: whether rows that wait fail now.
    """

    open: bool = False
    round: int = 1
    next: int = 0
    end: int = 0
    at: int = 0
    waiting: int = 0
    moved: bool = False
    last: bool = False


@frozen
class _Part:
    """The rows of a part, and the result of their own validation.

    Attributes:
        judged, registrations: their results by the registry when they were read, and the commit for them; for a part
            that is read while the one before it is written.
        removals: the registry's count of removals at that time: a device removed since may be one of them, or their
            gateway.
    """

    rows: Sequence[Numbered]
    checked: Checked
    judged: Judged | None = None
    registrations: Commit | None = None
    removals: int = 0


class Importing:
    """Starts and runs imports, makes dry runs, and exports the registry."""

    def __init__(self, storage: Storage, clock: Clock, registry: Registry, operations: Operations) -> None:
        self._storage, self._clock = storage, clock
        self._registry, self._operations = registry, operations
        self._shield = Shield("fleetcore import")
        self._ahead: dict[str, tuple[str, _Part]] = {}
        self._locks = KeyedLocks()
        self._dry_runs: OrderedDict[str, tuple[DryRun, float]] = OrderedDict()
        self._wake = asyncio.Event()
        operations.register(KIND, Kind(worker=self._turn, undo=self._undo))

    # --- dry runs -------------------------------------------------------------------------------------------------

    async def check(self, rows: Sequence[object]) -> DryRun:
        """What an import of exactly these rows would do. Nothing is stored."""
        run = DryRun(self._registry)
        for first in range(0, len(rows), _PART):
            await run.add(rows[first : first + _PART])
        run.end()
        return run

    async def check_part(self, rows: Sequence[object], *, of: str | None, more: bool) -> tuple[str, DryRun]:
        """The same for a file that comes in parts: the name to continue it by, and the result so far.

        Raises NotFound for an unknown or expired name.
        """
        now = self._clock.monotonic_s()
        for name, (_, since) in list(self._dry_runs.items()):
            if now - since > _DRY_RUN_S:
                del self._dry_runs[name]
        name = of or uuid4().hex
        if of is not None and of not in self._dry_runs:
            raise NotFound(f"Dry run {of!r} does not exist, or it waited too long", remedy="Begin again", operation=of)
        run = self._dry_runs.pop(name)[0] if of is not None else DryRun(self._registry)
        for first in range(0, len(rows), _PART):
            await run.add(rows[first : first + _PART])
        if not more:
            run.end()
            return name, run
        self._dry_runs[name] = (run, now)
        while len(self._dry_runs) > _DRY_RUNS:
            self._dry_runs.popitem(last=False)
        return name, run

    # --- imports --------------------------------------------------------------------------------------------------

    async def start(
        self, rows: Sequence[object], *, more: bool = False, actor: str = "system", reason: str = ""
    ) -> Operation:
        """Starts an import and returns at once; with ``more`` other rows follow by :meth:`add`."""
        now = self._clock.now_ms()
        operation = Operation(
            id=uuid4().hex,
            kind=KIND,
            state=OperationState.RUNNING if rows or more else OperationState.SUCCEEDED,
            spec=asdict(Progress(open=more)),
            created=now,
            updated=now,
            actor=actor,
            reason=reason,
        )
        operation, parts = _with(operation, rows, now)
        data = {"kind": KIND, "total": operation.total}
        event = Event(type="operation.started", subject=operation.id, time=now, actor=actor, reason=reason, data=data)
        begun = self._operations.records.making([operation]) + Commit(blobs=parts, events=(event,))
        done = await self._storage.commit(begun)
        self._wake.set()
        return evolve(operation, version=done.versions[0])

    async def add(self, operation: str, rows: Sequence[object], *, more: bool = False) -> Operation:
        """Adds the next rows to an import that was started with ``more``; the last call is without.

        Raises:
            NotFound: there is no such import.
            Conflict: it takes no more rows.
        """
        async with self._lock(operation):
            found = await self._operations.get(operation)
            if found.kind != KIND:
                raise NotFound(f"Import {operation!r} does not exist", operation=operation)
            progress = _progress(found)
            if found.state is not OperationState.RUNNING or progress is None or not progress.open:
                raise Conflict(
                    "The import is complete and takes no more rows",
                    code="illegal_transition",
                    remedy="Start another",
                    operation=operation,
                )
            now = self._clock.now_ms()
            grown, parts = _with(evolve(found, spec=asdict(evolve(progress, open=more))), rows, now)
            done = await self._storage.commit(self._operations.records.changing(found, grown) + Commit(blobs=parts))
        self._wake.set()
        return evolve(grown, version=done.versions[0])

    async def run(self) -> None:
        """Runs imports without the pause between ticks, forever; the supervisor owns it."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            for operation in await self._operations.records.find(ref=("state", OperationState.RUNNING)):
                if operation.kind == KIND:
                    await self._operations.turn(operation.id)

    def _let_go(self, operation: str) -> None:
        self._ahead.pop(operation, None)

    def _lock(self, operation: str) -> asyncio.Lock:
        # Arriving rows and finished rows both change the operation's record.
        return self._locks.of(operation)

    async def _turn(self, operation: Operation) -> bool:
        """Works for a while; False where it can only wait for rows, or for its rate."""
        until = self._clock.monotonic_s() + _TURN_S
        moved = False
        while operation.state is OperationState.RUNNING:
            after = await self._step(operation)
            if after is None:
                return moved
            operation, moved = after, True
            if self._clock.monotonic_s() > until:
                self._wake.set()
                break
        return True

    async def _step(self, operation: Operation) -> Operation | None:
        progress = _progress(operation)
        if progress is None:
            return await self._take_over(operation)
        if progress.next < progress.end:
            allowed = self._operations.allowed(operation)
            return await self._register(operation, progress, allowed) if allowed else None
        if progress.open:
            if self._clock.now_ms() - operation.updated < _OPEN_MS:
                return None
            # Its sender is gone.
            return await self._change(operation, evolve(operation, spec=asdict(evolve(progress, open=False))))
        if progress.waiting:
            following = Progress(round=progress.round + 1, end=progress.waiting, last=not progress.moved)
            return await self._change(operation, evolve(operation, spec=asdict(following)))
        return await self._end(operation)

    async def _register(self, operation: Operation, progress: Progress, allowed: int) -> Operation:
        """Handles one part, or as much of it as the rate allows."""
        name = _part(operation.id, progress.round, progress.next)
        part = await self._part(operation.id, name)
        rows = part.rows[progress.at : progress.at + allowed]
        whole = progress.at + len(rows) == len(part.rows)
        if len(rows) < len(part.rows):
            part = _Part(rows, checked(self._registry, rows))
        following = _part(operation.id, progress.round, progress.next + 1) if progress.next + 1 < progress.end else None
        for attempt in range(ATTEMPTS):
            stale = part.removals != self._registry.removals
            if attempt or stale or part.judged is None or part.judged.waiting or progress.last:
                part = await self._judged(part, operation, last=progress.last)
            judged, registrations = part.judged, part.registrations
            assert judged is not None
            assert registrations is not None
            waiting = [row for row in rows if row[0] in judged.waiting]
            async with self._lock(operation.id):
                current = await self._operations.get(operation.id)
                now = _progress(current)
                if current.state is not OperationState.RUNNING or now is None:
                    return current
                blobs: dict[str, bytes | None] = {name: None} if whole else {}
                if waiting:
                    blobs[_part(operation.id, progress.round + 1, now.waiting)] = json.encode(waiting)
                then = evolve(
                    now,
                    next=now.next + whole,
                    at=0 if whole else now.at + len(rows),
                    waiting=now.waiting + bool(waiting),
                    moved=now.moved or bool(judged.devices),
                )
                counted = _counted(current, judged, len(rows) - len(waiting), self._clock.now_ms())
                after = evolve(counted, spec=asdict(then))
                change = self._operations.records.changing(current, after) + registrations + Commit(blobs=blobs)
                try:
                    done = await self._commit(change, judged.devices, operation, following)
                except Conflict:
                    # Others registered one of these ids, or the operation was cancelled, meanwhile.
                    if attempt == ATTEMPTS - 1:
                        raise
                    continue
            return evolve(after, version=done.versions[0])
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _commit(
        self, change: Commit, devices: Sequence[Device], operation: Operation, following: str | None
    ) -> Committed:
        """Commits, and validates the next part meanwhile: the store writes in a separate thread.

        That validation does not know the devices of this commit. A device in both parts makes the next commit conflict,
        and a row whose gateway is among them waits; either is validated again.
        """
        commit = self._shield.start(self._stored(change, devices))
        await asyncio.sleep(0)
        if following is not None:
            try:
                self._ahead[operation.id] = (following, await self._judged(await self._read(following), operation))
            except FleetError as error:
                # It is read again at its turn, and may fail then.
                _log.info("The next part of import %s cannot be read ahead: %s", operation.id, error)
        return await asyncio.shield(commit)

    async def _stored(self, change: Commit, devices: Sequence[Device]) -> Committed:
        """Commits registrations and calls their listeners, even if the caller is cancelled."""
        done = await self._storage.commit(change)
        for device in devices:
            self._registry.registered(device)
        return done

    async def _part(self, operation: str, name: str) -> _Part:
        ahead = self._ahead.pop(operation, None)
        return ahead[1] if ahead is not None and ahead[0] == name else await self._read(name)

    async def _read(self, name: str) -> _Part:
        rows = _decoded(await self._storage.blob(name))
        return _Part(rows, checked(self._registry, rows))

    async def _judged(self, part: _Part, operation: Operation, *, last: bool = False) -> _Part:
        removals = self._registry.removals
        judged = await judge(self._registry, part.checked, last=last)
        registrations = self._registry.registrations(judged.devices, actor=operation.actor, reason=operation.reason)
        return evolve(part, judged=judged, registrations=registrations, removals=removals)

    async def _take_over(self, operation: Operation) -> Operation:
        """An import of an older release, whose rows are one blob."""
        left = _decoded(await self._storage.blob(blob_of(operation.id)))[operation.done :]
        parts = _parts(operation.id, 0, [(item, row) for item, row in enumerate(left, operation.done + 1)])
        after = evolve(operation, spec=asdict(Progress(end=len(parts))))
        return await self._change(operation, after, Commit(blobs={**parts, blob_of(operation.id): None}))

    async def _end(self, operation: Operation) -> Operation:
        state = OperationState.PARTLY if operation.failed else OperationState.SUCCEEDED
        now = self._clock.now_ms()
        data = {"done": operation.done, "failed": operation.failed}
        event = Event(type=f"operation.{state}", subject=operation.id, time=now, actor=operation.actor, data=data)
        ended = await self._change(operation, evolve(operation, state=state, updated=now), Commit(events=(event,)))
        self._let_go(operation.id)
        return ended

    async def _change(self, old: Operation, new: Operation, more: Commit | None = None) -> Operation:
        """Stores the operation; where it was changed meanwhile, returns the changed one."""
        try:
            done = await self._storage.commit(self._operations.records.changing(old, new) + (more or Commit()))
        except Conflict:
            return await self._operations.get(old.id)
        return evolve(new, version=done.versions[0])

    async def _undo(self, operation: Operation, _actor: str, _reason: str) -> None:
        """Drops the rows of a cancelled import."""
        progress = _progress(operation)
        if progress is not None:
            names = [_part(operation.id, progress.round, number) for number in range(progress.next, progress.end)]
            names += [_part(operation.id, progress.round + 1, number) for number in range(progress.waiting)]
            await self._storage.commit(Commit(blobs=dict.fromkeys(names)))
        self._let_go(operation.id)

    async def export(self, after: str | None = None) -> AsyncIterator[Mapping[str, object]]:
        """Every device as a row, in the order of ids, starting after a given id."""
        async for device in self._registry.records.iterate(after=after):
            yield row_of(device)


def _progress(operation: Operation) -> Progress | None:
    spec: Any = operation.spec
    return Progress(**spec) if "round" in spec else None


def _with(operation: Operation, rows: Sequence[object], now: int) -> tuple[Operation, dict[str, bytes | None]]:
    """An import with more rows, and their parts; raises Refused for more rows than an operation may have."""
    progress = _progress(operation)
    assert progress is not None
    total = operation.total + len(rows)
    if total > MAX_ITEMS:
        raise Refused(f"An import has at most {MAX_ITEMS} rows", code="limit_exceeded", limit=MAX_ITEMS)
    parts = _parts(operation.id, progress.end, list(enumerate(rows, operation.total + 1)))
    spec = asdict(evolve(progress, end=progress.end + len(parts)))
    return evolve(operation, total=total, spec=spec, updated=now), parts


def _parts(operation: str, number: int, rows: Sequence[Numbered]) -> dict[str, bytes | None]:
    return {
        _part(operation, 1, number + place): json.encode(rows[first : first + _PART])
        for place, first in enumerate(range(0, len(rows), _PART))
    }


def _part(operation: str, round: int, number: int) -> str:
    return f"{KIND}/{operation}/{round}/{number}"


def _decoded(blob: bytes | None) -> list[Any]:
    rows: list[Any] = json.decode(blob or b"[]")
    return rows


def _counted(operation: Operation, judged: Judged, done: int, now: int) -> Operation:
    found = [failure_of(item, error) for item, error in judged.failed.items()]
    failures = sorted((*operation.failures, *found), key=lambda failure: failure.item)
    results = Counter(operation.result)
    results.update({Result.REGISTERED: len(judged.devices), Result.UNCHANGED: judged.unchanged})
    return evolve(
        operation,
        done=operation.done + done,
        failed=operation.failed + len(judged.failed),
        failures=tuple(failures[:MAX_FAILURES]),
        reasons=Counter(operation.reasons) + Counter(error.code for error in judged.failed.values()),
        result={str(name): number for name, number in results.items() if number},
        updated=now,
    )
