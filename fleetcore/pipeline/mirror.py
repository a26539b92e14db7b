"""Mirror: keeps a cloud hub in step with what was stored.

State is level-triggered: a page of the feed is reduced to the entities it touched, and each one's present state is
sent. Readings are sent as they come. Both are at least once: the position is kept after the hub has taken the page.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import cast

from fleetcore.errors import Unavailable
from fleetcore.interfaces.boundary import plugin_call
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.cloud import CloudBackend, MirrorItem
from fleetcore.interfaces.storage import Storage
from fleetcore.model.events import CORE, Facet
from fleetcore.model.store import Commit, Event, FeedEntry, Put
from fleetcore.pipeline.kept_state import KeptState
from fleetcore.pipeline.piece import PieceConsumer

_KINDS: Mapping[Facet, str] = {"registry": "device", "twin": "twin"}
#: What a mirror's settings call the facets.
_CALLED: Mapping[Facet, str] = {"registry": "registry", "twin": "twins"}
_STATE = "mirror_state"


class Mirror(PieceConsumer[CloudBackend]):
    """One cloud instance as a consumer.

    Args:
        opener: opens the hub; asked again after a failure.
        what: any of registry, twins, telemetry.
    """

    def __init__(
        self,
        name: str,
        opener: Callable[[], AbstractAsyncContextManager[CloudBackend]],
        what: frozenset[str],
        storage: Storage,
        clock: Clock,
        *,
        kept: KeptState | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        super().__init__(f"mirror/{name}", opener, storage, clock, kept)
        self._what, self._timeout_s = what, timeout_s
        self.invalid: dict[str, str] = {}

    async def _handle(self, entries: Sequence[FeedEntry]) -> bool:
        touched: dict[tuple[str, Facet], None] = {}
        for entry in entries:
            for event in entry.events:
                entity = self._touched(event)
                if entity is not None:
                    touched[entity] = None
        if touched:
            await self._apply(list(touched))
        if "telemetry" in self._what:
            for entry in entries:
                if entry.readings is not None and len(entry.readings):
                    async with plugin_call(self.name, self._timeout_s):
                        await self.piece.send_telemetry(entry.readings, self._storage.catalog)
        return True

    def _touched(self, event: Event) -> tuple[str, Facet] | None:
        """Of what an event makes the hub's copy old."""
        kind = CORE.get(event.type)
        device = None if kind is None else kind.device_of(event)
        if kind is None or device is None or kind.facet is None or _CALLED[kind.facet] not in self._what:
            return None
        return device, kind.facet

    async def _apply(self, touched: list[tuple[str, Facet]]) -> None:
        items = [await self._item(entity, facet) for entity, facet in touched]
        async with plugin_call(self.name, self._timeout_s):
            results = await self.piece.apply(items)
        puts: list[Put] = []
        again: float | None = None
        for item, result in zip(items, results, strict=True):
            key = f"{self.name}/{item.facet}/{item.entity}"
            if result.state == "done":
                puts.append(Put(kind=_STATE, key=key, body={"remote_version": result.remote_version}))
                self.invalid.pop(key, None)
            elif result.state == "invalid":
                self.invalid[key] = result.reason
            elif result.state == "conflict":
                # The fleet is the truth in this direction: learn the hub's version, then write ours over it.
                async with plugin_call(self.name, self._timeout_s):
                    remote = await self.piece.read(item.entity, item.facet)
                version = remote.remote_version if remote else None
                puts.append(Put(kind=_STATE, key=key, body={"remote_version": version}))
                again = max(again or 0.0, 0.1)
            else:
                again = max(again or 0.0, result.retry_after_s)
        if puts:
            await self._storage.commit(Commit(puts=tuple(puts)))
        if again is not None:
            raise Unavailable(f"The hub asks to try again in {again:g} s", retry_after_s=again)

    async def _item(self, entity: str, facet: Facet) -> MirrorItem:
        record = await self._storage.get(_KINDS[facet], entity)
        known = await self._storage.get(_STATE, f"{self.name}/{facet}/{entity}")
        return MirrorItem(
            entity=entity,
            facet=facet,
            body=None if record is None else record.body,
            remote_version=None if known is None else cast("str | None", known.body.get("remote_version")),
        )
