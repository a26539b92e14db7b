"""Typed records over a store: one repository per kind, and the optimistic loop of every change.

A read costs what it returns: pages go by key or by an index entry, and the commits that change records count them by
state.
"""

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, ParamSpec, TypeVar

import attrs

from fleetcore.errors import NotFound, Unavailable, VersionConflict
from fleetcore.fleet.process_state.last_written import LastWritten
from fleetcore.fleet.process_state.turns import Turns
from fleetcore.interfaces.storage import Storage
from fleetcore.model.names import kind_in_words
from fleetcore.model.store import Commit, Counter, Delete, Event, Put, Record, place
from fleetcore.query.ast import Clause
from fleetcore.wire.records import at_version, from_plain, to_plain

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")
Pairs = Iterable[tuple[str, str]]

#: A change is tried this often against concurrent writers before the conflict is raised.
ATTEMPTS = 20
#: The index entry of every record of a sorted kind: through it the kind is read in order.
_EVERY = ("*", "*")
_CHUNK = 1000


#: Added to a time, so that times before 1970 sort before those after it.
_EPOCH_MS = 10**15


def _none(_item: object) -> Pairs:
    return ()


def in_time(ms: int) -> str:
    """A ``sort`` in the order of times (ms since the epoch)."""
    return f"{ms + _EPOCH_MS:017d}"


@attrs.frozen(kw_only=True)
class Page(Generic[T]):
    """Some items in order; ``after`` is for the next page, None at the end. A bounded page may be short with one."""

    items: Sequence[T]
    after: str | None = None


class Repository(Generic[T]):
    """The records of one kind.

    Args:
        kind: the stored kind; the record class needs a ``version`` attribute.
        key: the attribute that is the key.
        unique, refs, due, sort: the members of :class:`~fleetcore.model.store.Put` for an item. With ``sort`` the kind
            is read in its order, without it in that of the keys.
        counted: the counter to which an item adds 1 in its present state.
        last_written: the cache of items for their next change; deleting an item must remove it there too.
    """

    def __init__(
        self,
        storage: Storage,
        kind: str,
        cls: type[T],
        *,
        key: str = "id",
        unique: Callable[[T], Pairs] = _none,
        refs: Callable[[T], Pairs] = _none,
        due: Callable[[T], int | None] = lambda _item: None,
        sort: Callable[[T], str] | None = None,
        counted: Callable[[T], Counter | None] = lambda _item: None,
        last_written: LastWritten[T] | None = None,
    ) -> None:
        self.kind = kind
        self._turns: Turns[T] = Turns()
        self._storage, self._cls, self._key, self._last_written = storage, cls, key, last_written
        self._unique, self._refs, self._due, self._sort, self._counted = unique, refs, due, sort, counted

    def load(self, record: Record) -> T:
        """The item of a stored record, with the record's version."""
        return from_plain(self.kind, {**record.body, "version": record.version}, self._cls)

    def put(self, item: T, *, expect: int | None = None) -> Put:
        """The put that stores ``item``; the commit must also include the result of :meth:`counts`."""
        body = to_plain(item)
        body.pop("version", None)
        refs = frozenset(self._refs(item))
        return Put(
            kind=self.kind,
            key=getattr(item, self._key),
            body=body,
            expect=expect,
            unique=frozenset(self._unique(item)),
            refs=refs if self._sort is None else refs | {_EVERY},
            due=self._due(item),
            sort="" if self._sort is None else self._sort(item),
        )

    def counts(self, old: T | None, new: T | None) -> Mapping[Counter, int]:
        """How counters change when an item becomes another; None for one that is made or removed."""
        before = None if old is None else self._counted(old)
        after = None if new is None else self._counted(new)
        if before == after:
            return {}
        changes = ((before, -1), (after, 1))
        return {counter: delta for counter, delta in changes if counter is not None}

    def making(self, items: Iterable[T]) -> Commit:
        """The part of a larger commit that stores new items."""
        puts, add = [], dict[Counter, int]()
        for item in items:
            puts.append(self.put(item, expect=0))
            for counter, delta in self.counts(None, item).items():
                add[counter] = add.get(counter, 0) + delta
        return Commit(puts=tuple(puts), add=add)

    def changing(self, old: T, new: T) -> Commit:
        """The part of a larger commit that stores a changed item; it must still equal ``old``."""
        version: int = old.version  # type: ignore[attr-defined]  # every record class has a version
        return Commit(puts=(self.put(new, expect=version),), add=self.counts(old, new))

    def removing(self, item: T) -> Commit:
        """The part of a larger commit that removes an item; it must be unchanged."""
        version: int = item.version  # type: ignore[attr-defined]  # every record class has a version
        delete = Delete(kind=self.kind, key=getattr(item, self._key), expect=version)
        return Commit(deletes=(delete,), add=self.counts(item, None))

    async def get(self, key: str) -> T | None:
        """The item or None."""
        record = await self._storage.get(self.kind, key)
        return None if record is None else self.load(record)

    async def get_many(self, keys: Iterable[str]) -> Mapping[str, T]:
        """The items of some keys, by key; keys without an item are left out."""
        return {key: self.load(record) for key, record in (await self._storage.get_many(self.kind, keys)).items()}

    async def get_recent(self, keys: Iterable[str]) -> Mapping[str, T]:
        """As :meth:`get_many`; items that were changed last come from memory, where this repository remembers those."""
        wanted = dict.fromkeys(keys)
        recent = {key: item for key in wanted if (item := self._last(key)) is not None}
        left = wanted.keys() - recent.keys()
        return {**recent, **await self.get_many(left)} if left else recent

    async def need(self, key: str, *, code: str = "not_found") -> T:
        """The item; raises :class:`NotFound` with ``code``."""
        item = await self.get(key)
        if item is None:
            raise NotFound(f"{kind_in_words(self.kind)} {key!r} does not exist", code=code, **{self.kind: key})
        return item

    def forget(self, keys: Iterable[str]) -> None:
        """Drops removed items from the cache of those that were changed last."""
        if self._last_written is not None:
            for key in keys:
                self._last_written.forget(key)

    def place(self, item: T) -> str:
        """The ``after`` for the page that follows an item."""
        return place("" if self._sort is None else self._sort(item), getattr(item, self._key))

    async def page(
        self,
        *,
        ref: tuple[str, str] | None = None,
        where: Clause | None = None,
        after: str | None = None,
        limit: int = 100,
        newest: bool = False,
        scan: int | None = None,
    ) -> Page[T]:
        """The next items; the arguments are those of :meth:`Storage.find`."""
        if ref is None and self._sort is not None:
            ref = _EVERY
        found = await self._storage.find(
            self.kind, ref=ref, where=where, after=after, limit=limit, newest=newest, scan=scan
        )
        return Page(items=[self.load(record) for record in found.items], after=found.after)

    async def find(
        self, *, ref: tuple[str, str] | None = None, where: Clause | None = None, limit: int | None = None
    ) -> list[T]:
        """All items (or the first ``limit``) that the index and the clause select, in order.

        For small sets: the items of one device, or configured items.
        """
        found = [item async for item in self.iterate(ref=ref, where=where, limit=limit)]
        return found[:limit]

    async def iterate(
        self,
        *,
        ref: tuple[str, str] | None = None,
        where: Clause | None = None,
        limit: int | None = None,
        after: str | None = None,
    ) -> AsyncIterator[T]:
        """The same, page by page, starting after ``after``; items that change meanwhile may appear in either state."""
        size = min(limit or _CHUNK, _CHUNK)
        while True:
            page = await self.page(ref=ref, where=where, after=after, limit=size)
            for item in page.items:
                yield item
            after = page.after
            if after is None:
                return

    async def recount(self) -> Mapping[Counter, int]:
        """The correct counters of this kind, from the records themselves."""
        counted: dict[Counter, int] = {}
        async for records in self._chunks():
            for counter in (self._counted(self.load(record)) for record in records):
                if counter is not None:
                    counted[counter] = counted.get(counter, 0) + 1
        return counted

    async def reindex(self, where: Clause | None = None) -> AsyncIterator[int]:
        """Rewrites the index entries of records; yields how many, chunk by chunk. May be repeated."""
        async for records in self._chunks(where):
            puts = tuple(self.put(self.load(record), expect=record.version) for record in records)
            if puts:
                await self._storage.commit(Commit(reindexed=puts))
            yield len(puts)

    async def _chunks(self, where: Clause | None = None) -> AsyncIterator[Sequence[Record]]:
        """The records of the kind by key, including those with index entries of an older form."""
        after: str | None = None
        while True:
            found = await self._storage.find(self.kind, where=where, after=after, limit=_CHUNK)
            yield found.items
            after = found.after
            if after is None:
                return

    async def due(self, until: int) -> list[T]:
        """Items whose time has come, earliest first."""
        return [self.load(record) for record in await self._storage.due(self.kind, until)]

    async def create(self, item: T, events: Sequence[Event] = (), extra: Commit | None = None) -> T:
        """Stores a new item; raises VersionConflict where the key exists, Conflict where a unique value is taken.

        ``extra`` is part of the same commit.
        """
        made = Commit(puts=(self.put(item, expect=0),), events=tuple(events), add=self.counts(None, item))
        done = await self._storage.commit(made if extra is None else made + extra)
        return _at(item, done.versions[0])

    async def change(
        self, key: str, step: Callable[[T], tuple[T, Sequence[Event]] | None], *, code: str = "not_found"
    ) -> T:
        """Reads, steps and writes with compare-and-set until it succeeds; ``step`` may run more than once.

        ``step`` returns the new item and its events, or None for "nothing to do". Raises the exceptions of ``step``.
        """

        async def load() -> T:
            return await self.need(key, code=code)

        return await self.compare_and_set(load, step, key=key)

    async def compare_and_set(
        self,
        load: Callable[[], Awaitable[T]],
        step: Callable[[T], tuple[T, Sequence[Event]] | None],
        extra: Callable[[T, T], Commit] | None = None,
        *,
        key: str | None = None,
    ) -> T:
        """As :meth:`change`, for an item that ``load`` finds or makes (version 0: it must not exist).

        ``extra(old, new)`` returns the rest of the same commit. Callers with one ``key`` take turns, so that only
        callers in another process, or without the key, come between reading and writing.
        """
        if key is None:
            return await self._written(load, step, extra)
        item: T | None = None
        begun = await self._turns.take(key) or self._last(key)
        try:
            item = await self._written(load, step, extra, begun)
            return item
        finally:
            self._pass_on(key, item)

    def _last(self, key: str) -> T | None:
        return None if self._last_written is None else self._last_written.get(key)

    def _pass_on(self, key: str, item: T | None) -> None:
        """Ends the caller's turn; None where the result of its change is not known."""
        if self._last_written is not None:
            if item is None:
                self._last_written.forget(key)
            else:
                self._last_written.put(key, item)
        # The next caller starts from this result, and reads nothing.
        self._turns.give(key, item)

    async def change_many(
        self,
        items: Iterable[T],
        step: Callable[[T], tuple[T, Sequence[Event]] | None],
        extra: Callable[[T, T], Commit | None] | None = None,
    ) -> Mapping[str, T]:
        """As :meth:`compare_and_set` for each of some items, all in one commit.

        ``step`` may run more than once for an item, also for those that did not come into conflict.

        Args:
            items: as they were just read, each key once.

        Returns:
            What is stored now, by key; without items that were removed meanwhile.
        """
        begun = {str(getattr(item, self._key)): item for item in items}
        taken: list[str] = []
        stored: Mapping[str, T] = {}
        try:
            # In one order for all callers: two of them never wait for each other.
            for key in sorted(begun):
                passed = await self._turns.take(key)
                taken.append(key)
                begun[key] = passed or self._last(key) or begun[key]
            stored = await self._written_together(begun, step, extra)
            return stored
        finally:
            for key in taken:
                self._pass_on(key, stored.get(key))

    def turn(self, key: str) -> AbstractAsyncContextManager[None]:
        """Excludes callers of :meth:`change` for the item, for the duration of the context."""
        return self._turns.of(key)

    async def _written(
        self,
        load: Callable[[], Awaitable[T]],
        step: Callable[[T], tuple[T, Sequence[Event]] | None],
        extra: Callable[[T, T], Commit] | None,
        begun: T | None = None,
    ) -> T:
        for attempt in range(ATTEMPTS):
            old = await load() if begun is None or attempt else begun
            result = step(old)
            if result is None:
                return old
            new, events = result
            version: int = old.version  # type: ignore[attr-defined]  # every record class has a version
            change = Commit(
                puts=(self.put(new, expect=version),),
                add=self.counts(old if version else None, new),
                events=tuple(events),
            )
            try:
                done = await self._storage.commit(change if extra is None else change + extra(old, new))
            except VersionConflict:
                if attempt == ATTEMPTS - 1:
                    raise
                continue
            return _at(new, done.versions[0])
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _written_together(
        self,
        begun: Mapping[str, T],
        step: Callable[[T], tuple[T, Sequence[Event]] | None],
        extra: Callable[[T, T], Commit | None] | None,
    ) -> Mapping[str, T]:
        for attempt in range(ATTEMPTS):
            found = begun if not attempt else await self.get_many(begun)
            new: dict[str, T] = {}
            puts: list[Put] = []
            events: list[Event] = []
            add: dict[Counter, int] = {}
            others: Commit | None = None
            for key, old in found.items():
                result = step(old)
                if result is None:
                    continue
                new[key], happened = result
                events += happened
                version: int = old.version  # type: ignore[attr-defined]  # every record class has a version
                puts.append(self.put(new[key], expect=version))
                for counter, delta in self.counts(old, new[key]).items():
                    add[counter] = add.get(counter, 0) + delta
                more = None if extra is None else extra(old, new[key])
                if more is not None:
                    others = more if others is None else others + more
            if not new:
                return found
            try:
                change = Commit(puts=tuple(puts), add=add, events=tuple(events))
                done = await self._storage.commit(change if others is None else change + others)
            except VersionConflict:
                if attempt == ATTEMPTS - 1:
                    raise
                continue
            # The versions of the items come first.
            stored = zip(new.items(), done.versions, strict=False)
            return {**found, **{key: _at(item, version) for (key, item), version in stored}}
        raise AssertionError("unreachable: the last attempt returns or raises")


def retried(what: str) -> Callable[[Callable[P, Awaitable[R]]], Callable[P, Coroutine[Any, Any, R]]]:
    """Runs a method again where another writer came between its reading and its commit (VersionConflict).

    Args:
        what: the message of the Unavailable that it raises where that happens 20 times.
    """

    def decorate(method: Callable[P, Awaitable[R]]) -> Callable[P, Coroutine[Any, Any, R]]:
        @functools.wraps(method)
        async def again(*args: P.args, **kwargs: P.kwargs) -> R:
            for _ in range(ATTEMPTS):
                try:
                    return await method(*args, **kwargs)
                except VersionConflict:
                    continue
            raise Unavailable(what, retry_after_s=1.0)

        return again

    return decorate


def _at(item: T, version: int) -> T:
    """The item at a version, which a step may have predicted."""
    if item.version == version:  # type: ignore[attr-defined]  # every record class has a version
        return item
    return at_version(item, version)
