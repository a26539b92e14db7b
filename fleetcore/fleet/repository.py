"""Typed records over a store: one repository per kind, and the optimistic loop that every change goes through."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Generic, TypeVar

import attrs

from fleetcore.errors import NotFound, VersionConflict
from fleetcore.interfaces.storage import Storage
from fleetcore.model.store import Commit, Event, Put, Record
from fleetcore.query.ast import Clause
from fleetcore.wire.records import from_plain, to_plain

T = TypeVar("T", bound=attrs.AttrsInstance)
Pairs = Iterable[tuple[str, str]]

#: A change is tried this often against concurrent writers before the conflict is the caller's.
_ATTEMPTS = 20


def _none(_item: object) -> Pairs:
    return ()


class Repository(Generic[T]):
    """The records of one kind.

    Args:
        kind: the stored kind; the record class needs a ``version`` attribute.
        key: the attribute that is the key.
        unique, refs, due: what :class:`~fleetcore.model.store.Put` is to say of an item.
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
    ) -> None:
        self._storage, self._kind, self._cls, self._key = storage, kind, cls, key
        self._unique, self._refs, self._due = unique, refs, due

    def load(self, record: Record) -> T:
        """The item of a stored record, with the record's version."""
        return from_plain(self._kind, {**record.body, "version": record.version}, self._cls)

    def put(self, item: T, *, expect: int | None = None) -> Put:
        """The put that stores ``item``."""
        body = to_plain(item)
        body.pop("version", None)
        return Put(
            kind=self._kind,
            key=getattr(item, self._key),
            body=body,
            expect=expect,
            unique=frozenset(self._unique(item)),
            refs=frozenset(self._refs(item)),
            due=self._due(item),
        )

    async def get(self, key: str) -> T | None:
        """The item or None."""
        record = await self._storage.get(self._kind, key)
        return None if record is None else self.load(record)

    async def need(self, key: str, *, code: str = "not_found") -> T:
        """The item; raises :class:`NotFound` with ``code``."""
        item = await self.get(key)
        if item is None:
            raise NotFound(f"There is no {self._kind} {key!r}", code=code, **{self._kind: key})
        return item

    async def find(
        self, *, ref: tuple[str, str] | None = None, where: Clause | None = None, limit: int | None = None
    ) -> list[T]:
        """All items (or the first ``limit``) that the index and the clause select, in key order."""
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
        """The same, page by page, beginning after a key; items that change meanwhile may be seen in either state."""
        page = min(limit or 1000, 1000)
        while True:
            found = await self._storage.find(self._kind, ref=ref, where=where, after=after, limit=page)
            for record in found.items:
                yield self.load(record)
            after = found.after
            if after is None:
                return

    async def due(self, until: int) -> list[T]:
        """Items whose time has come, earliest first."""
        return [self.load(record) for record in await self._storage.due(self._kind, until)]

    async def create(self, item: T, events: Sequence[Event] = (), extra: Sequence[Put] = ()) -> T:
        """Stores a new item; raises VersionConflict where the key exists, Conflict where a unique value is taken."""
        done = await self._storage.commit(Commit(puts=(self.put(item, expect=0), *extra), events=tuple(events)))
        return attrs.evolve(item, version=done.versions[0])  # type: ignore[misc]  # every record class has a version

    async def change(
        self, key: str, step: Callable[[T], tuple[T, Sequence[Event]] | None], *, code: str = "not_found"
    ) -> T:
        """Reads, steps and writes with compare-and-set until it holds; ``step`` may run more than once.

        ``step`` returns the new item and its events, or None for "nothing to do". Raises what ``step`` raises.
        """

        async def load() -> T:
            return await self.need(key, code=code)

        return await self.settle(load, step)

    async def settle(
        self,
        load: Callable[[], Awaitable[T]],
        step: Callable[[T], tuple[T, Sequence[Event]] | None],
        beside: Callable[[T, T], Commit] = lambda _old, _new: Commit(),
    ) -> T:
        """As :meth:`change`, for an item that ``load`` finds or makes (version 0: it must not exist).

        ``beside(old, new)`` gives further puts and deletes for the same commit.
        """
        for attempt in range(_ATTEMPTS):
            old = await load()
            result = step(old)
            if result is None:
                return old
            new, events = result
            version: int = old.version  # type: ignore[attr-defined]  # every record class has a version
            try:
                more = beside(old, new)
                done = await self._storage.commit(
                    Commit(puts=(self.put(new, expect=version), *more.puts), deletes=more.deletes, events=tuple(events))
                )
            except VersionConflict:
                if attempt == _ATTEMPTS - 1:
                    raise
                continue
            return attrs.evolve(new, version=done.versions[0])  # type: ignore[misc]  # every record class has a version
        raise AssertionError("unreachable: the last attempt returns or raises")
