"""A device as queries see it: one plain document combined from several records and the store.

Only the requested parts are read. ``tags`` and ``groups`` are always lists; times are ms since the epoch.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import cast

from fleetcore.fleet.process_state.presence import PresenceBoard
from fleetcore.interfaces.storage import Storage
from fleetcore.model.store import Record
from fleetcore.query.ast import Clause

Document = Mapping[str, object]

#: The parts of a document that come from the device's own record.
OWN = frozenset(
    {
        "id",
        "name",
        "type",
        "model",
        "lifecycle",
        "capabilities",
        "gateway",
        "home",
        "created",
        "updated",
        "tags",
        "attributes",
    }
)
_IN_TWIN = frozenset({"desired", "reported", "firmware", "power"})
_ELSEWHERE = _IN_TWIN | {"location"}
#: First path segments whose value the passing of time alone may change.
TIMED = frozenset({"connectivity", "last_seen"})
_PAGE = 1000
#: How many documents have their parts read concurrently.
_TOGETHER = 100


#: Groups, the id to start after, how many → ids in order, and the id for the next page.
Members = Callable[[Sequence[str], str | None, int], Awaitable[tuple[Sequence[str], str | None]]]


async def _no_members(_groups: Sequence[str], _after: str | None, _limit: int) -> tuple[Sequence[str], str | None]:
    return (), None


class Documents:
    """Assembles documents.

    Attributes:
        groups_of: the groups of a device, including those that contain one of its groups; :class:`Groups` sets it.
        members_of: the next devices of some groups after an id, and the id for the next page; :class:`Groups` sets this
            too.
    """

    def __init__(self, storage: Storage, presence: PresenceBoard) -> None:
        self._storage, self._presence = storage, presence
        self.groups_of: Callable[[str], Sequence[str]] = lambda _device: ()
        self.members_of: Members = _no_members

    async def of(self, device: str, parts: frozenset[str]) -> Document | None:
        """One device's document with the requested parts, or None where it is not registered."""
        record = await self._storage.get("device", device)
        return None if record is None else await self._whole(record, parts)

    async def iterate(
        self,
        parts: frozenset[str],
        *,
        ref: tuple[str, str] | None = None,
        where: Clause | None = None,
        after: str | None = None,
    ) -> AsyncIterator[Document]:
        """All documents, or those whose device record the index and a clause over :data:`OWN` select, by id."""
        if ref is None and where is None and after is None and parts & _ELSEWHERE:
            # All kinds page in key order, so one pass over each serves the whole fleet.
            twins = _Rows(self._storage, "twin") if parts & _IN_TWIN else None
            positions = _Rows(self._storage, "position") if "location" in parts else None
            async for record in self._records(None, None, None):
                twin = None if twins is None else await twins.at(record.key)
                position = None if positions is None else await positions.at(record.key)
                yield self._assembled(record, twin, position, await self._latest(record.key, parts), parts)
            return
        waiting: list[Record] = []
        async for record in self._records(ref, where, after):
            waiting.append(record)
            if len(waiting) == _TOGETHER:
                for document in await asyncio.gather(*(self._whole(item, parts) for item in waiting)):
                    yield document
                waiting = []
        for document in await asyncio.gather(*(self._whole(item, parts) for item in waiting)):
            yield document

    async def of_many(self, devices: Sequence[str], parts: frozenset[str]) -> AsyncIterator[Document]:
        """The documents of some devices, in order; missing devices are left out."""
        for at in range(0, len(devices), _TOGETHER):
            for _, document in await self.pairs_of(devices[at : at + _TOGETHER], parts):
                yield document

    async def pairs_of(self, devices: Iterable[str], parts: frozenset[str]) -> Sequence[tuple[Record, Document]]:
        """The records and documents of some devices, in order; missing devices are left out."""
        wanted = list(devices)
        records = await self._storage.get_many("device", wanted)
        return await self._pairs([records[device] for device in wanted if device in records], parts)

    async def page(
        self,
        parts: frozenset[str],
        *,
        ref: tuple[str, str] | None = None,
        where: Clause | None = None,
        after: str | None = None,
        limit: int,
        scan: int | None = None,
    ) -> tuple[Sequence[tuple[Record, Document]], str | None]:
        """The next records and documents, and the ``after`` of the next page; arguments as for :meth:`Storage.find`."""
        found = await self._storage.find("device", ref=ref, where=where, after=after, limit=limit, scan=scan)
        return await self._pairs(found.items, parts), found.after

    async def _pairs(self, records: Sequence[Record], parts: frozenset[str]) -> Sequence[tuple[Record, Document]]:
        if not parts & (_ELSEWHERE | {"latest"}):
            return [(record, self._assembled(record, None, None, None, parts)) for record in records]
        documents = await asyncio.gather(*(self._whole(record, parts) for record in records))
        return list(zip(records, documents, strict=True))

    async def _records(
        self, ref: tuple[str, str] | None, where: Clause | None, after: str | None
    ) -> AsyncIterator[Record]:
        while True:
            page = await self._storage.find("device", ref=ref, where=where, after=after, limit=_PAGE)
            for record in page.items:
                yield record
            after = page.after
            if after is None:
                return

    async def _whole(self, record: Record, parts: frozenset[str]) -> Document:
        twin = await self._storage.get("twin", record.key) if parts & _IN_TWIN else None
        position = await self._storage.get("position", record.key) if "location" in parts else None
        return self._assembled(record, twin, position, await self._latest(record.key, parts), parts)

    def _assembled(
        self,
        record: Record,
        twin: Record | None,
        position: Record | None,
        latest: Mapping[str, object] | None,
        parts: frozenset[str],
    ) -> Document:
        """The part of a document that a query over these parts may see; always with the id."""
        if not parts:
            return {"id": record.key}
        body = record.body
        document: dict[str, object] = {name: body[name] for name in OWN if body.get(name) is not None}
        document["tags"] = list(cast("Sequence[str]", body.get("tags") or ()))
        document["attributes"] = body.get("attributes") or {}
        place = position.body.get("location") if position is not None else None
        document["location"] = place or body.get("location")
        if "groups" in parts:
            document["groups"] = list(self.groups_of(record.key))
        if parts & TIMED:
            presence = self._presence.of(record.key)
            document["connectivity"] = presence.connectivity.value
            if presence.last_seen is not None:
                document["last_seen"] = presence.last_seen
        if parts & _IN_TWIN:
            for name in ("desired", "reported"):
                section = twin.body.get(name) if twin is not None else None
                document[name] = section.get("document") or {} if isinstance(section, Mapping) else {}
            reported = cast("Mapping[str, object]", document["reported"])
            for name in ("firmware", "power"):
                if isinstance(reported.get(name), Mapping):
                    document[name] = reported[name]
        if latest is not None:
            document["latest"] = latest
        return document

    async def _latest(self, device: str, parts: frozenset[str]) -> Mapping[str, object] | None:
        if "latest" not in parts:
            return None
        series = await self._storage.series_of(device)
        found = await self._storage.latest([series_.index for series_ in series])
        values: dict[str, object] = {}
        for item, newest in zip(series, found, strict=True):
            if newest is not None:
                values[item.metric] = newest.value
        return values


class _Rows:
    """The records of a kind, requested in rising key order."""

    def __init__(self, storage: Storage, kind: str) -> None:
        self._storage, self._kind = storage, kind
        self._page: list[Record] = []
        self._at = 0
        self._after: str | None = None
        self._more = True

    async def at(self, key: str) -> Record | None:
        while True:
            while self._at < len(self._page):
                record = self._page[self._at]
                if record.key == key:
                    return record
                if record.key > key:
                    return None
                self._at += 1
            if not self._more:
                return None
            found = await self._storage.find(self._kind, after=self._after, limit=_PAGE)
            self._page, self._at, self._after = list(found.items), 0, found.after
            self._more = found.after is not None
