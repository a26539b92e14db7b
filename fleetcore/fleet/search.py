"""Search: devices selected by a query, and why a device is selected or not."""

import asyncio
import logging
from bisect import bisect_right
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from itertools import islice

from attrs import frozen

from fleetcore.errors import FleetError, NotFound
from fleetcore.fleet.documents import OWN, Document, Documents
from fleetcore.fleet.process_state.columns import RegistryColumns
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.waits import end_tasks
from fleetcore.model.device import Device
from fleetcore.model.store import Record
from fleetcore.query.ast import And, Clause, Compare, Has, Or
from fleetcore.query.evaluate import matches
from fleetcore.query.explain import Explanation, explain
from fleetcore.query.parse import parse
from fleetcore.query.resolve import Fences, paths, resolved, weakened
from fleetcore.wire.records import from_plain

_log = logging.getLogger(__name__)

#: Selects nothing: the list of a principal without any rights.
NOTHING: Clause = Or(())
#: A process that asks once is answered by the store; one that asks repeatedly gets columns, which take a pass over the
#: registry.
_ASKED_BEFORE_COLUMNS = 3

#: Fields that the registry's index covers, usually the most selective first.
_INDEXED: Mapping[tuple[str, ...], str] = {
    ("gateway",): "gateway",
    ("home",): "home",
    ("tags",): "tag",
    ("type",): "type",
    ("lifecycle",): "lifecycle",
}


#: How many devices a page examines for a query without an index; the page may then be short and have an ``after``.
SCAN = 2000
_AT_ONCE = 200
#: Up to this many selected devices are taken from the columns; with more, the store soon has a page of them.
_FEW = 20_000


@frozen(kw_only=True)
class Selected:
    """A page of devices in the order of their ids; ``after`` is for the next page, None at the end. It may be short."""

    devices: tuple[Device, ...]
    after: str | None = None

    @property
    def ids(self) -> tuple[str, ...]:
        """The devices' ids."""
        return tuple(device.id for device in self.devices)


@frozen
class _Batch:
    """Some candidates, the id that continues after them, and how many devices were examined for them."""

    pairs: Sequence[tuple[Record, Document]]
    after: str | None
    looked_at: int


class Search:
    """Evaluates queries over the present fleet."""

    def __init__(self, documents: Documents, clock: Clock, columns: RegistryColumns | None = None) -> None:
        self.documents, self._clock, self.columns = documents, clock, columns
        self.fences: Fences = {}
        self._asked = 0
        self._building: asyncio.Task[None] | None = None

    def resolved(self, where: str | Clause) -> Clause:
        """The query with its time and its geofences resolved; raises QuerySyntaxError."""
        clause = parse(where) if isinstance(where, str) else where
        return resolved(clause, self._clock.now_ms(), self.fences)

    async def iterate(self, where: str | Clause | None, *, after: str | None = None) -> AsyncIterator[Document]:
        """The documents of all selected devices, in the order of their ids; without a query, of all."""
        clause = None if where is None else self.resolved(where)
        own = _own(clause)
        columns = await self._columns_for(own)
        if columns is not None and own is not None:
            candidates = columns.select(own)
            rest = candidates if after is None else candidates[bisect_right(candidates, after) :]
            documents = self.documents.of_many(rest, parts_of(clause))
        else:
            documents = self.documents.iterate(parts_of(clause), ref=_index(clause), where=own, after=after)
        async for document in documents:
            if matches(clause, document):
                yield document

    async def ids(self, where: str | Clause | None) -> list[str]:
        """The ids of all selected devices."""
        clause = None if where is None else self.resolved(where)
        if clause is not None and parts_of(clause) <= OWN:
            columns = await self._columns_for(clause)
            if columns is not None:
                return list(columns.select(clause))
        return [str(item["id"]) async for item in self.iterate(clause)]

    async def watched_ids(self, where: str | Clause) -> Sequence[str]:
        """As :meth:`ids`, for a query that will be asked again and again: the columns in memory are made at once."""
        clause = self.resolved(where)
        if self.columns is not None and parts_of(clause) <= OWN:
            await self.columns.build(clause)
        return await self.ids(clause)

    async def _columns_for(self, own: Clause | None) -> RegistryColumns | None:
        """The columns in memory, once a process has asked often enough to be worth building them."""
        if own is None or self.columns is None:
            return None
        if not self.columns.has(own):
            self._asked += 1
            if self._asked < _ASKED_BEFORE_COLUMNS:
                return None
            await self.columns.build(own)
        return self.columns if self.columns.has(own) else None

    def _few(self, own: Clause) -> Sequence[str] | None:
        """The devices that the columns select, if they exist and the work is small; a page never waits for them."""
        if self.columns is None:
            return None
        if self.columns.has(own):
            return self.columns.few(own, _FEW)
        self._asked += 1
        if self._asked >= _ASKED_BEFORE_COLUMNS and (self._building is None or self._building.done()):
            self._building = asyncio.create_task(self._build(own), name="columns of the registry")
        return None

    async def _build(self, own: Clause) -> None:
        assert self.columns is not None
        try:
            await self.columns.build(own)
        except FleetError as error:
            _log.warning("The registry's columns could not be made: %s", error)

    async def close(self) -> None:
        """Ends tasks in progress."""
        if self._building is not None:
            await end_tasks(self._building)

    async def page(
        self, where: str | Clause | None, *, after: str | None = None, limit: int = 100, scan: int = SCAN
    ) -> Selected:
        """The next devices after an id.

        The cost is that of the page without a query, with one on the type, a tag, the lifecycle or the gateway, and
        with one on a group. For any other at most ``scan`` devices are examined.
        """
        clause = None if where is None else self.resolved(where)
        if clause == NOTHING:
            return Selected(devices=())
        parts, own = parts_of(clause), _own(clause)
        # Where the candidates are not all selected, a small page is no reason for many small steps.
        exact = parts <= OWN or isinstance(clause, Has)
        size = min(limit + 1, _AT_ONCE) if exact else _AT_ONCE
        found: list[Device] = []
        seen = 0
        async for batch in self._candidates(clause, own, parts, after, size, scan):
            for record, document in batch.pairs:
                if matches(clause, document):
                    if len(found) == limit:
                        return Selected(devices=tuple(found), after=found[-1].id)
                    found.append(device_of(record))
            seen += batch.looked_at
            if batch.after is not None and seen >= scan:
                return Selected(devices=tuple(found), after=batch.after)
        return Selected(devices=tuple(found))

    async def _candidates(
        self,
        clause: Clause | None,
        own: Clause | None,
        parts: frozenset[str],
        after: str | None,
        size: int,
        scan: int,
    ) -> AsyncIterator["_Batch"]:
        """Devices that a query may select, in the order of their ids."""
        groups = _groups(clause)
        if groups is not None:
            at: str | None = after
            while True:
                ids, at = await self.documents.members_of(groups, at, size)
                yield _Batch(await self.documents.pairs_of(ids, parts), at, len(ids))
                if at is None:
                    return
        index = _index(clause)
        few = None if own is None or _only_indexed(own) else self._few(own)
        if few is not None:
            for start in range(0 if after is None else bisect_right(few, after), len(few), size):
                part = few[start : start + size]
                yield _Batch(await self.documents.pairs_of(part, parts), part[-1], len(part))
            return
        where = None if _only_indexed(own) else own
        while True:
            pairs, after = await self.documents.page(parts, ref=index, where=where, after=after, limit=size, scan=scan)
            yield _Batch(pairs, after, len(pairs) if where is None or len(pairs) == size else scan)
            if after is None:
                return

    async def count(self, where: str | Clause | None) -> int:
        """The number of selected devices."""
        return len(await self.ids(where))

    async def sample(self, where: str | Clause, most: int = 10) -> tuple[str, ...]:
        """A few of them, the first by id."""
        return tuple(islice(await self.ids(where), most))

    async def is_true(self, where: str | Clause, device: str) -> bool:
        """Whether the query selects one device; raises NotFound."""
        clause = self.resolved(where)
        return matches(clause, await self._need(device, parts_of(clause)))

    async def explain(self, where: str | Clause, device: str) -> Explanation:
        """The clause that decided for one device, and the value it saw; raises NotFound, QuerySyntaxError."""
        clause = self.resolved(where)
        return explain(clause, await self._need(device, parts_of(clause)))

    async def _need(self, device: str, parts: frozenset[str]) -> Document:
        document = await self.documents.of(device, parts)
        if document is None:
            raise NotFound(f"Device {device!r} does not exist", device=device)
        return document


def device_of(record: Record) -> Device:
    """The device of a stored record."""
    return from_plain("device", {**record.body, "version": record.version}, Device)


def _only_indexed(own: Clause | None) -> bool:
    """Whether the index alone answers the part of the query that devices' records can answer."""
    match own:
        case None:
            return True
        case Compare(path, "=", str()) | Has(path, str()):
            return path in _INDEXED
        case _:
            return False


def _groups(clause: Clause | None) -> tuple[str, ...] | None:
    """Groups such that every selected device is in one of them, or None."""
    match clause:
        case And(inners):
            return next((found for inner in inners if (found := _groups(inner)) is not None), None)
        case Or(inners) if inners:
            names: list[str] = []
            for inner in inners:
                more = _groups(inner)
                if more is None:
                    return None
                names += more
            return tuple(names)
        case Has(("groups",), str() as name):
            return (name,)
        case _:
            return None


def parts_of(clause: Clause | None) -> frozenset[str]:
    """The parts of a document that a query reads."""
    return frozenset() if clause is None else frozenset(path[0] for path in paths(clause))


def _own(clause: Clause | None) -> Clause | None:
    """The part of a query that the devices' own records can answer, or None."""
    own = None if clause is None else weakened(clause, lambda path: path[0] in OWN)
    return None if own == And(()) else own


def _index(clause: Clause | None) -> tuple[str, str] | None:
    """An index entry of every selected device, or None."""
    found = dict(_entries(clause))
    return next(((name, found[name]) for name in _INDEXED.values() if name in found), None)


def _entries(clause: Clause | None) -> Iterator[tuple[str, str]]:
    match clause:
        case And(inners):
            for inner in inners:
                yield from _entries(inner)
        case Compare(path, "=", str() as value) if path in _INDEXED and path != ("tags",):
            yield _INDEXED[path], value
        case Has(("tags",), str() as value):
            yield "tag", value
