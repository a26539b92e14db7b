"""A base for backends that have a part for each facet, and whose calls raise :class:`~.call_failed.CallFailed`.

The parts read and write single entities. The base asks the right part, tries throttled reads again, and turns a failure
that concerns the whole hub into the error that the engine acts on.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol

from fleetcore.interfaces.call_failed import CallFailed, for_all, raised_for_all
from fleetcore.interfaces.cloud import CloudBackend, Fitted, MirrorItem, MirrorResult, Unowned
from fleetcore.model.mirror import EntityKey, Facet, Loss, not_held

#: How often an entity is read whose call the hub throttles.
_READS = 5


class FacetPart(Protocol):
    """The entities of one facet. Its methods raise CallFailed, and are otherwise those of the backend, for one item."""

    def fit(self, item: MirrorItem, body: Any) -> Fitted:
        """See :meth:`CloudBackend.fit`; ``body`` is the item's, and not None."""

    async def apply(self, item: MirrorItem, body: Any) -> MirrorResult:
        """See :meth:`CloudBackend.apply`; ``body`` is the item's."""

    async def read(self, key: EntityKey) -> MirrorItem | None:
        """See :meth:`CloudBackend.read`."""

    def entities(self) -> AsyncIterator[EntityKey]:
        """See :meth:`CloudBackend.entities`."""


class ImportPart(Protocol):
    """What the hub has without the fleet's mark. Its methods raise CallFailed."""

    async def unowned(self, after: str | None) -> tuple[Sequence[Unowned], str | None] | None:
        """See :meth:`CloudBackend.unowned`."""

    async def read(self, found: Unowned) -> Sequence[MirrorItem]:
        """See :meth:`CloudBackend.read_unowned`, for a single find."""

    async def members(self, group: EntityKey, after: str | None) -> tuple[Sequence[str], str | None]:
        """See :meth:`CloudBackend.members`. No members: the default."""
        del group, after
        return (), None


class FacetBackend(CloudBackend):
    """A backend of parts; a subclass sets both attributes before the first call.

    Attributes:
        facets: the part of each facet that the hub holds.
        unowned_part: what reads what the hub has without the fleet's mark.
    """

    facets: Mapping[Facet, FacetPart]
    unowned_part: ImportPart

    def fit(self, item: MirrorItem) -> Fitted:
        if item.body is None:
            return Fitted(item=item)
        part = self.facets.get(item.key.facet)
        if part is None:
            return Fitted(item=None, lost=(Loss("", not_held(item.key.facet)),))
        return part.fit(item, item.body)

    async def applied(self, item: MirrorItem) -> MirrorResult:
        """Writes one entity. Raises CallFailed."""
        part = self.facets.get(item.key.facet)
        if part is None:
            return MirrorResult(state="invalid", reason=not_held(item.key.facet))
        return await part.apply(item, item.body)

    async def read(self, keys: Sequence[EntityKey]) -> Sequence[MirrorItem | None]:
        found = await asyncio.gather(*(self._read(key) for key in keys), return_exceptions=True)
        read: list[MirrorItem | None] = []
        for each in found:
            if isinstance(each, CallFailed):
                raise for_all(each) from each
            if isinstance(each, BaseException):
                raise each
            read.append(each)
        return read

    async def _read(self, key: EntityKey) -> MirrorItem | None:
        """Reads again, once the pace lets it, where the hub throttles: that does not fail the other reads."""
        part = self.facets.get(key.facet)
        if part is None:
            return None
        for _ in range(_READS - 1):
            try:
                return await part.read(key)
            except CallFailed as failed:
                if failed.kind != "throttled" or not failed.paced:
                    raise
        return await part.read(key)

    async def entities(self, facet: Facet) -> AsyncIterator[EntityKey]:
        part = self.facets.get(facet)
        if part is None:
            return
        listing = part.entities()
        while True:
            with raised_for_all():
                try:
                    key = await anext(listing)
                except StopAsyncIteration:
                    return
            yield key

    async def unowned(self, after: str | None) -> tuple[Sequence[Unowned], str | None] | None:
        with raised_for_all():
            return await self.unowned_part.unowned(after)

    async def read_unowned(self, found: Sequence[Unowned]) -> Sequence[Sequence[MirrorItem]]:
        with raised_for_all():
            return await asyncio.gather(*(self.unowned_part.read(each) for each in found))

    async def members(self, group: EntityKey, after: str | None) -> tuple[Sequence[str], str | None]:
        with raised_for_all():
            return await self.unowned_part.members(group, after)
