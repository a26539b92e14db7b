"""Sends a mirror's pending entities, in a few batches at a time; no entity waits for another's answer.

The hub's answers to a batch are recorded at once; in the same commit they are no longer pending. An entity that the hub
defers waits by itself; if the hub does not answer, everything waits for a while.
"""

import asyncio
import heapq
import itertools
import logging
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from typing import Any

from attrs import evolve, frozen

from fleetcore.errors import Conflict, CredentialsRejected, NotFound, PluginError, Refused, Unavailable
from fleetcore.interfaces.boundary import in_a_line
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.cloud import Fitted, MirrorItem, MirrorResult
from fleetcore.interfaces.storage import Storage
from fleetcore.interfaces.waits import end_tasks, first_of
from fleetcore.model.mirror import BODIES, FACETS, WITHDRAWN, EntityKey, EntityState, Facet, MirrorBody
from fleetcore.model.store import Commit, Event
from fleetcore.pipeline.back_off import back_off_s
from fleetcore.pipeline.mirror.budget import DayBudget
from fleetcore.pipeline.mirror.entity_states import NOTHING, UNCONFIRMED, EntityStates, digest, with_losses
from fleetcore.pipeline.mirror.hub import BackendError, Hub
from fleetcore.pipeline.mirror.pending import PendingEntities
from fleetcore.pipeline.mirror.reconciling import Reconciling
from fleetcore.wire.records import from_plain, to_plain

_log = logging.getLogger(__name__)

#: Pending entities that are ready in memory; the others wait in the store.
_KNOWN = 5_000
#: How often an entity is read and written again after a conflict, before it waits as if deferred.
_CONFLICTS = 3
#: How long an entity waits that the hub deferred without a time, doubled each time, and at most.
_AGAIN_S, _MAX_S = 1.0, 300.0
#: Rejected credentials are retried as often: a role may have been restored, a file renewed.
_CREDENTIALS_S = 60.0
_NO_CHANGE = Commit()

#: Returns the present states of entities, without those that the fleet does not have.
Bodies = Callable[[Sequence[EntityKey]], Awaitable[Mapping[EntityKey, MirrorBody]]]


@frozen(kw_only=True)
class _Work:
    """One entity to be sent.

    ``agreed`` is the state that fleet and hub share afterwards, for both directions; ``read_first``: part of it comes
    in, so it is read before it is written.
    """

    key: EntityKey
    recorded: EntityState
    fitted: Fitted
    agreed: Mapping[str, object] | None = None
    read_first: bool = False

    @property
    def body(self) -> MirrorBody | None:
        """The state for the hub."""
        return None if self.fitted.item is None else self.fitted.item.body


def _as_kept(fitted: Fitted, key: EntityKey, recorded: EntityState) -> Fitted:
    """The same with what was sent last, if recorded, and whether it is to be adopted."""
    if fitted.item is None or (recorded.body is None and not recorded.adopts):
        return fitted
    last = None if recorded.body is None else from_plain("mirror_state", recorded.body, BODIES[key.facet])
    return evolve(fitted, item=evolve(fitted.item, last=last, adopts=recorded.adopts))


#: Finished entities, each with its state to record.
_Done = list[tuple[EntityKey, Commit]]


class StateSender:
    """Sends state; see the module.

    Args:
        bodies: returns the present states of entities, without those that do not exist.
        facets: the facets that are sent; a pending entity of another one, from an earlier configuration, is dropped.
        reconciling: how entities of both directions are reconciled; None if everything goes out.
        deletes: whether entities that the fleet no longer has are removed from the hub, and at most how many a day: if
            a fleet is emptied by mistake, its hub is not. Further removals wait.
        every_s: the minimum interval between two writes of an entity; changes in between are one write.

    Attributes:
        counts: since the start: ``calls``, entities ``written``, ``taken`` (the hub's part entered the fleet),
            ``unchanged``, ``conflicts``, values changed on both sides (``both_changed``), ``throttled``, ``failed``,
            ``invalid``, ``foreign``, and ``unsettled``: changed at the hub repeatedly.
        actor: the actor of what this mirror writes into the fleet.
        removals_wait: entities whose removal waits for tomorrow's budget.
    """

    def __init__(
        self,
        name: str,
        storage: Storage,
        clock: Clock,
        bodies: Bodies,
        *,
        facets: Collection[Facet] = FACETS,
        reconciling: Reconciling | None = None,
        deletes: bool = False,
        deletes_per_day: int | None = None,
        every_s: float = 0.0,
    ) -> None:
        self.name, self._storage, self._clock, self._bodies = name, storage, clock, bodies
        self.deletes, self._reconciling, self.facets = deletes, reconciling, facets
        self._removals = DayBudget(name, "removals", deletes_per_day, storage, clock)
        #: Removals under way.
        self._removing: set[EntityKey] = set()
        self.removals_wait: set[EntityKey] = set()
        self.actor = f"mirror/{name}"
        self.pending, self.states = PendingEntities(name, storage), EntityStates(name, storage)
        self.state, self.error = "running", ""
        self.at_work = False
        self.counts: Counter[str] = Counter()
        self._paused = False
        #: Pending entities in memory, in order, and those that may not be sent before a time.
        self._ready: dict[EntityKey, None] = {}
        self._later: list[tuple[float, int, EntityKey]] = []
        self._delayed: set[EntityKey] = set()
        self._tries: dict[EntityKey, int] = {}
        self._number = itertools.count()
        #: Entities of a batch at which the backend failed: each is tried alone, to find the faulty one.
        self._alone: set[EntityKey] = set()
        #: When entities were written, oldest first, and those that only wait for the interval.
        self._every_s = every_s
        self._written_s: dict[EntityKey, float] = {}
        self._paced: set[EntityKey] = set()
        #: Entities under way; True if one was enqueued again meanwhile.
        self._under_way: dict[EntityKey, bool] = {}
        self._all_known = False
        #: Enqueueing and finishing take turns: otherwise an entity enqueued while it finishes would be lost.
        self._turn = asyncio.Lock()
        self._news, self._moved = asyncio.Event(), asyncio.Event()
        self._failures, self._untried = 0, True
        self._until_s = 0.0
        #: Called whenever the state may have changed, with the error or None.
        self.on_state: Callable[[Exception | None], None] = lambda _error: None

    def removes(self, *facets: Facet) -> bool:
        """Whether entities that the fleet no longer has are removed from the hub: of these facets, or of any sent."""
        return self.deletes or not WITHDRAWN.isdisjoint(facets or self.facets)

    # -- pending ----------------------------------------------------------------------------------------------------

    async def enqueue(self, keys: Iterable[EntityKey], extra: Commit) -> None:
        """Makes entities pending, in one commit with ``extra``."""
        async with self._turn:
            unknown, again = [], []
            for key in dict.fromkeys(keys):
                if key in self._under_way:
                    again.append(key)
                elif key in self.removals_wait:
                    # It may exist again: then it does not wait for tomorrow.
                    self.removals_wait.discard(key)
                    self._delayed.discard(key)
                    self._ready[key] = None
                elif key not in self._ready and key not in self._delayed:
                    unknown.append(key)
            adding = await self.pending.adding(unknown, self._clock.now_ms())
            if adding != Commit() or extra != Commit():
                await self._storage.commit(adding + extra)
            for key in again:
                # While it is under way its row stays in the store.
                if key in self._under_way:
                    self._under_way[key] = True
                else:
                    self._ready[key] = None
            if len(self._ready) < _KNOWN and self._all_known:
                self._ready.update(dict.fromkeys(unknown))
            else:
                self._all_known = False
        self._news.set()

    async def amend(
        self, key: EntityKey, how: Callable[[EntityState], EntityState], extra: Commit = _NO_CHANGE
    ) -> None:
        """Changes an entity's recorded state, in one commit with ``extra``; if it is under way, afterwards."""
        while not await self._amended(key, how, extra):
            self._moved.clear()
            await self._moved.wait()

    async def _amended(self, key: EntityKey, how: Callable[[EntityState], EntityState], extra: Commit) -> bool:
        """Whether it could be changed, being not under way. Enqueueing waits meanwhile: it relies on its row."""
        async with self._turn:
            if key in self._under_way:
                return False
            self._under_way[key] = False
            try:
                recorded = await self.states.get(key)
                await self._storage.commit(self.states.putting(key, recorded, how(recorded)) + extra)
            finally:
                if self._under_way.pop(key):
                    self._ready[key] = None
                self._news.set()
                self._moved.set()
        return True

    async def doubt(self, keys: Iterable[EntityKey]) -> None:
        """Drops what is known of the hub's state of entities, so that they are sent again."""
        for key in keys:
            await self.amend(
                key, lambda recorded: recorded if recorded.digest is None else evolve(recorded, digest=UNCONFIRMED)
            )

    async def gone(self, after: str | None, limit: int) -> tuple[Sequence[EntityKey], str | None]:
        """Of the next entities that the hub may have, those that the fleet no longer has, and where to continue.

        Paused entities, and those of a facet that is not sent or stays at the hub, are left out.
        """
        states, following = await self.states.page("mirror", after, limit)
        sent = [key for key, recorded in states if recorded.digest is not None and recorded.paused is None]
        known = [key for key in sent if key.facet in self.facets and self.removes(key.facet)]
        bodies = await self._bodies(known)
        return [key for key in known if key not in bodies], following

    async def knows(self, key: EntityKey) -> bool:
        """Whether the fleet has an entity, or a state of it is recorded."""
        return await self.states.get(key) != NOTHING or key in await self._bodies([key])

    async def _fill(self) -> None:
        """Reads pending entities from the store while few are in memory."""
        if self._all_known or len(self._ready) >= _KNOWN // 2:
            return
        async with self._turn:
            after: str | None = None
            while len(self._ready) < _KNOWN:
                keys, after = await self.pending.page(after, 1000)
                for key in keys:
                    if key not in self._under_way and key not in self._delayed:
                        self._ready.setdefault(key)
                if after is None:
                    self._all_known = True
                    self._moved.set()
                    return

    # -- work -------------------------------------------------------------------------------------------------------

    async def run(self, hub: Hub) -> None:
        """Runs until cancelled. Raises errors that are not the hub's, such as the store's."""
        tasks: set[asyncio.Task[None]] = set()
        await self._removals.load()
        self.at_work = True
        try:
            while True:
                self._news.clear()
                await self._fill()
                self._come_due()
                while len(tasks) < (1 if self._trying else hub.limits.parallel) and (batch := self._next(hub)):
                    task = asyncio.create_task(self._send(hub, batch), name=f"mirror {self.name}")
                    tasks.add(task)
                await self._something(tasks)
                for task in [task for task in tasks if task.done()]:
                    tasks.discard(task)
                    task.result()
        finally:
            self.at_work = False
            await end_tasks(*tasks)
            self._moved.set()
            self._under_way.clear()
            self._ready.clear()
            self._later.clear()
            self._delayed.clear()
            self._paced.clear()
            self._alone.clear()
            self.removals_wait.clear()
            self._removing.clear()
            self._all_known = False

    async def _something(self, tasks: set[asyncio.Task[None]]) -> None:
        """Returns when a batch is finished, entities are enqueued, or a time has come."""
        waits: list[Coroutine[Any, Any, object]] = [self._news.wait()]
        if (wait_s := self._wait_s()) is not None:
            waits.append(self._clock.sleep(wait_s))
        if tasks:
            waits.append(asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED))
        await first_of(*waits)

    def _wait_s(self) -> float | None:
        now_s = self._clock.monotonic_s()
        times = [self._later[0][0]] if self._later else []
        if self._until_s > now_s and self._ready:
            times.append(self._until_s)
        return max(0.0, min(times) - now_s) if times else None

    def _come_due(self) -> None:
        now_s = self._clock.monotonic_s()
        while self._later and self._later[0][0] <= now_s:
            _, _, key = heapq.heappop(self._later)
            if key in self._delayed:
                self._delayed.discard(key)
                self._paced.discard(key)
                self._ready[key] = None

    def _next(self, hub: Hub) -> list[EntityKey]:
        if self._paused or self._clock.monotonic_s() < self._until_s:
            return []
        batch: list[EntityKey] = []
        while self._ready and len(batch) < hub.limits.items:
            key = next(iter(self._ready))
            if key in self._alone and batch:
                break
            del self._ready[key]
            if key in self._under_way:
                self._under_way[key] = True
            elif wait_s := self._early_s(key):
                self._paced.add(key)
                self._delay(key, wait_s)
            else:
                batch.append(key)
                self._under_way[key] = False
                if key in self._alone:
                    break
        return batch

    @property
    def _trying(self) -> bool:
        """Whether the hub did not answer, or was not called yet: then it is tried with one entity."""
        return bool(self._failures) or self._untried

    def _early_s(self, key: EntityKey) -> float:
        """How long to wait before an entity may be written again."""
        now_s = self._clock.monotonic_s()
        while self._written_s:
            oldest, at_s = next(iter(self._written_s.items()))
            if now_s - at_s < self._every_s:
                break
            del self._written_s[oldest]
        at_s = self._written_s.get(key, -math.inf)
        return max(0.0, at_s + self._every_s - now_s)

    async def _send(self, hub: Hub, batch: Sequence[EntityKey]) -> None:
        asked: Sequence[EntityKey] = batch
        try:
            work, done = await self._prepared(hub, batch)
            if self._trying and work:
                work = work[:1]  # the others are ready again
                asked = [work[0].key]
            if self._reconciling is not None:
                work = await self._reconcile(hub, self._reconciling, work, done)
            work = await self._announced(work)
            results = await self._applied(hub, work)
        except BackendError as error:
            # The failure may come from one entity, which must not delay the others.
            _log.warning("Mirror %s: the backend failed with %d entities: %s", self.name, len(batch), error)
            if len(asked) > 1:
                self._alone.update(batch)
                self._return(batch)
                self._news.set()
                return
            self._again(asked[0])
            await self._finish(batch, [])
            return
        except (Unavailable, PluginError) as error:
            self._fails("failing", error, getattr(error, "retry_after_s", None) or 0.0)
            self._return(batch)
            if len(asked) == 1:
                # The timeout may come from this entity: the next try uses another one.
                self._ready.pop(asked[0])
                self._ready[asked[0]] = None
            return
        except CredentialsRejected as error:
            self._fails("credentials", error, _CREDENTIALS_S)
            self._return(batch)
            return
        if work:
            self._failures, self._until_s, self._untried = 0, 0.0, False
            self._became("running")
        for item, result in zip(work, results, strict=True):
            done += self._result(hub, item, result)
        await self._finish(batch, done)

    async def _prepared(self, hub: Hub, batch: Sequence[EntityKey]) -> tuple[list[_Work], _Done]:
        """Decides what has to be sent, and what is finished without sending."""
        work: list[_Work] = []
        done: _Done = []
        states, bodies = await self.states.get_many(batch), await self._bodies(batch)
        first = frozenset[EntityKey]() if self._reconciling is None else await self._reconciling.read_first(batch)
        for key in batch:
            recorded, body = states[key], bodies.get(key)
            if recorded.paused is not None or key.facet not in self.facets:
                done.append((key, Commit()))
                continue
            if body is None:
                removal = self._removal(key, recorded)
                if removal is None:
                    # A deleted entity is not a dead letter any more.
                    done.append(
                        (key, self.states.putting(key, recorded, with_losses(evolve(recorded, invalid=None), ())))
                    )
                elif self._may_remove(key):
                    work.append(removal)
                continue
            fitted = _as_kept(hub.fit(key, body, recorded.remote_version), key, recorded)
            if fitted.item is None:
                done.append((key, self._invalid(key, recorded, fitted.reason)))
            elif (
                recorded.adopts
                or key in first
                or recorded.digest is None
                or recorded.digest != digest(fitted.item.body)
            ):
                work.append(_Work(key=key, recorded=recorded, fitted=fitted, read_first=key in first))
            else:
                self.counts["unchanged"] += 1
                done.append(
                    (key, self.states.putting(key, recorded, with_losses(evolve(recorded, invalid=None), fitted.lost)))
                )
        return work, done

    def _removal(self, key: EntityKey, recorded: EntityState) -> _Work | None:
        """The removal of an entity that the fleet no longer has; None if there is nothing to remove."""
        if recorded.digest is None or not self.removes(key.facet):
            self.counts["unchanged"] += 1
            return None
        fitted = Fitted(item=MirrorItem(key=key, body=None, remote_version=recorded.remote_version))
        return _Work(key=key, recorded=recorded, fitted=fitted)

    def _may_remove(self, key: EntityKey) -> bool:
        """Whether today's budget of removals allows one more; else the entity waits for tomorrow or for more budget."""
        if key.facet in WITHDRAWN:
            return True
        if self._removals.room() > len(self._removing):
            self._removing.add(key)
            self.removals_wait.discard(key)
            return True
        if not self.removals_wait:
            _log.warning(
                "Mirror %s has removed %d entities today, the rest waits: `fleetcore mirror allow-removals %s`",
                self.name, self._removals.spent, self.name,
            )  # fmt: skip
        self.removals_wait.add(key)
        self._delay(key, self._removals.until_tomorrow_s())
        return False

    async def allow_removals(self, count: int, *events: Event) -> None:
        """Allows this many more removals today."""
        await self._storage.commit(self._removals.allow(count) + Commit(events=events))
        for key in self.removals_wait & self._delayed:
            self._delayed.discard(key)
            self._ready[key] = None
        self.removals_wait.clear()
        self._news.set()

    async def _reconcile(self, hub: Hub, reconciling: Reconciling, work: Sequence[_Work], done: _Done) -> list[_Work]:
        """Reads and merges the entities of both directions; those that match already are finished."""
        # An adopted entity matches its import, unless the hub reports another one by now.
        both = [item for item in work if item.read_first and item.body is not None and not item.recorded.adopts]
        if not both:
            return list(work)
        self.counts["calls"] += 1
        held_by = dict(zip([item.key for item in both], await hub.read([item.key for item in both]), strict=True))
        left: list[_Work] = []
        for entry in work:
            if entry.key not in held_by or entry.body is None:
                left.append(entry)
                continue
            held = held_by[entry.key]
            try:
                reconciled = await reconciling.reconcile(hub, entry.key, entry.recorded, entry.body, held)
            except Refused as error:
                reason = f"The fleet refuses the hub's state: {error.message}"
                done.append((entry.key, self._invalid(entry.key, entry.recorded, reason)))
                continue
            except (NotFound, Conflict) as error:
                _log.info("Mirror %s: %s changed meanwhile: %s", self.name, entry.key, error)
                reconciled = None
            if reconciled is None:
                self._again(entry.key)
                continue
            self.counts["both_changed"] += reconciled.conflicts
            self.counts["taken"] += reconciled.body is not entry.body
            version = None if held is None else held.remote_version
            wanted = digest(reconciled.body)
            if held is not None and digest(held.body) == wanted:
                new = EntityState(remote_version=version, digest=wanted, agreed=reconciled.agreed)
                change = self.states.putting(entry.key, entry.recorded, with_losses(new, entry.fitted.lost))
                self.counts["unchanged"] += 1
                self._tries.pop(entry.key, None)
                done.append((entry.key, change))
                continue
            last = None if held is None else held.body
            item = MirrorItem(key=entry.key, body=reconciled.body, remote_version=version, last=last)
            left.append(evolve(entry, agreed=reconciled.agreed, fitted=evolve(entry.fitted, item=item)))
        return left

    async def _announced(self, work: Sequence[_Work]) -> list[_Work]:
        """Records what is about to be written, as far as it must be known if no answer arrives.

        Otherwise an entity created without an answer would stay at the hub after its deletion, and a write in both
        directions would come back as a change of the hub.
        """
        announced: list[_Work] = []
        change = Commit()
        for item in work:
            recorded = item.recorded
            if self.removes(item.key.facet) and item.body is not None and recorded.digest is None:
                recorded = evolve(recorded, digest=UNCONFIRMED)
            if item.agreed is not None:
                recorded = evolve(recorded, sent=item.agreed)
            change += self.states.putting(item.key, item.recorded, recorded)
            announced.append(evolve(item, recorded=recorded))
        if change != Commit():
            await self._storage.commit(change)
        return announced

    async def _applied(self, hub: Hub, work: Sequence[_Work]) -> list[MirrorResult]:
        """Handles the hub's answers; after a conflict the hub's state is read and overwritten.

        Entities of both directions are reconciled again instead, unless they are removed.
        """
        if not work:
            return []
        items = [item.fitted.item for item in work if item.fitted.item is not None]
        self.counts["calls"] += 1
        results = list(await hub.apply(items))
        for _ in range(_CONFLICTS):
            which = [
                at
                for at, result in enumerate(results)
                if result.state == "conflict" and (items[at].body is None or not work[at].read_first)
            ]
            if not which:
                break
            self.counts["conflicts"] += len(which)
            self.counts["calls"] += 1
            there = await hub.read([items[at].key for at in which])
            for at, held in zip(which, there, strict=True):
                version = None if held is None else held.remote_version
                items[at] = evolve(items[at], remote_version=version, last=None if held is None else held.body)
                # The answer to our write may have been lost: then the hub already has the state.
                if held is not None and held.body is not None and digest(held.body) == digest(items[at].body):
                    results[at] = MirrorResult(state="done", remote_version=version)
            again = [at for at in which if results[at].state == "conflict"]
            if again:
                self.counts["calls"] += 1
                for at, result in zip(again, await hub.apply([items[at] for at in again]), strict=True):
                    results[at] = result
        return results

    def _result(self, hub: Hub, work: _Work, result: MirrorResult) -> _Done:
        """The state to record for an answer; None if the entity is to be sent again."""
        self.counts[{"done": "written", "conflict": "unsettled"}.get(result.state, result.state)] += 1
        if result.state == "done":
            self._tries.pop(work.key, None)
            self._written_s.pop(work.key, None)  # the newest is the last
            self._written_s[work.key] = self._clock.monotonic_s()
            remembered = work.body is not None and work.key.facet in hub.limits.remembers
            new = EntityState(
                remote_version=result.remote_version,
                digest=digest(work.body),
                agreed=work.agreed,
                body=to_plain(work.body) if remembered else None,
            )
            return [(work.key, self.states.putting(work.key, work.recorded, with_losses(new, work.fitted.lost)))]
        if result.state in {"invalid", "foreign"}:
            self._tries.pop(work.key, None)
            return [(work.key, self._invalid(work.key, work.recorded, result.reason or result.state))]
        if result.state == "conflict" and work.recorded.adopts:
            # It has our mark, and was changed since its import: from now on it is merged like any other.
            self._under_way[work.key] = True
            return [(work.key, self.states.putting(work.key, work.recorded, evolve(work.recorded, adopts=False)))]
        self._again(work.key, result.retry_after_s)
        return []

    def _again(self, key: EntityKey, wait_s: float = 0.0) -> None:
        """Lets an entity wait by itself, as long as the hub says, or else longer each time."""
        tries = self._tries[key] = self._tries.get(key, 0) + 1
        self._delay(key, wait_s or min(_AGAIN_S * 2.0 ** min(tries - 1, 16), _MAX_S))

    def _invalid(self, key: EntityKey, recorded: EntityState, reason: str) -> Commit:
        return self.states.putting(key, recorded, evolve(recorded, invalid=reason))

    async def _finish(self, batch: Sequence[EntityKey], done: Sequence[tuple[EntityKey, Commit]]) -> None:
        async with self._turn:
            commit = self._removals.spend(sum(key in self._removing for key, _ in done))
            self._removing.difference_update(batch)
            self._alone.difference_update(key for key, _ in done)
            over = []
            for key, change in done:
                commit += change
                if not self._under_way.get(key):
                    over.append(key)
            commit += self.pending.removing(over)
            if commit != Commit():
                await self._storage.commit(commit)
            finished = set(over)
            for key in batch:
                again = self._under_way.pop(key, False)
                if again:
                    self._delayed.discard(key)
                if key not in finished and key not in self._delayed:
                    self._ready[key] = None
        self._news.set()
        self._moved.set()

    def _delay(self, key: EntityKey, wait_s: float) -> None:
        self._delayed.add(key)
        heapq.heappush(self._later, (self._clock.monotonic_s() + wait_s, next(self._number), key))

    def _return(self, batch: Sequence[EntityKey]) -> None:
        """Returns unsent entities to the front of the queue."""
        self._removing.difference_update(batch)
        self._delayed.difference_update(batch)
        for key in batch:
            self._under_way.pop(key, None)
        self._ready = dict.fromkeys(batch) | self._ready

    def _fails(self, state: str, error: Exception, wait_s: float) -> None:
        self.counts["failed"] += 1
        wait_s = max(wait_s, back_off_s(self._failures))
        self._failures += 1
        self._until_s = max(self._until_s, self._clock.monotonic_s() + wait_s)
        _log.warning("Mirror %s (%s) continues in %g s: %s", self.name, state, wait_s, in_a_line(error))
        self._became(state, error)
        self._news.set()

    def _became(self, state: str, error: Exception | None = None) -> None:
        self.state, self.error = ("paused" if self._paused else state), "" if error is None else in_a_line(error)
        self._moved.set()
        self.on_state(error)

    # -- what operators do ------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Sends nothing from now on; batches under way are finished. Pending entities stay."""
        self._paused = True
        self._became("paused")

    def resume(self) -> None:
        """Continues at once, also after failures and rejected credentials."""
        self._paused, self._failures, self._until_s = False, 0, 0.0
        self._became("running")
        self._news.set()

    @property
    def idle(self) -> bool:
        """Whether nothing is known to wait or to be under way."""
        return self._is_worked_off and not self._delayed

    @property
    def _is_worked_off(self) -> bool:
        """The same, except for deferred entities."""
        return self._all_known and not (self._ready or self._under_way or self._paced)

    async def caught_up(self) -> None:
        """Returns once all pending entities were sent, except deferred ones; at once if the sender does not run.

        Covers what was enqueued before the call.
        """
        while self.at_work and self.state == "running" and not self._is_worked_off:
            self._moved.clear()
            await self._moved.wait()
