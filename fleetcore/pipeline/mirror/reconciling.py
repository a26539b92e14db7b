"""Reconciling entities of both directions: decides the common state, and writes the hub's part into the fleet.

Such an entity is read before it is written. The write is recorded first: if its answer is lost, the hub's state is
still known to be our own.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Literal

from attrs import evolve, frozen

from fleetcore.fleet.shared_state import shared, with_shared
from fleetcore.interfaces.cloud import MirrorItem
from fleetcore.model.merge import Side, merge
from fleetcore.model.mirror import EntityKey, EntityState, Facet, MirrorBody, TwinBody
from fleetcore.model.twin import equal
from fleetcore.pipeline.mirror.entity_states import digest
from fleetcore.pipeline.mirror.hub import Hub

Direction = Literal["out", "in", "both"]

#: The twins of some devices that are connected to the hub.
Homed = Callable[[Collection[str]], Awaitable[Collection[str]]]


async def twins_at_hub(homed: Homed, keys: Collection[EntityKey]) -> frozenset[EntityKey]:
    """Of some entities, those whose reported part the device itself writes at the hub."""
    devices = [key.id for key in keys if key.facet == "twin"]
    return frozenset(EntityKey("twin", each) for each in await homed(devices)) if devices else frozenset()


@frozen(kw_only=True)
class Way:
    """The direction of the shared part of a facet.

    Attributes:
        direction: ``in``: the hub's values count and the fleet's are never written; ``both``: changes on either side
            count.
        wins: which side's value counts if both changed it.
    """

    direction: Literal["in", "both"]
    wins: Side


@frozen(kw_only=True)
class Settled:
    """The body for the hub, the state that both sides then share, and the values that both had changed."""

    body: MirrorBody
    conflicts: int = 0

    @property
    def agreed(self) -> Mapping[str, object]:
        """To be recorded once the hub has it."""
        return shared(self.body)


class Reconciling:
    """Reconciles entities; see the module.

    Args:
        body: returns the present state of an entity.
        take: changes the fleet's shared part of an entity from one document to another; raises Refused.
        homed: the twins of some devices that are connected to the hub, and report there.
        report: writes what such a device reported; raises Refused.
    """

    def __init__(
        self,
        ways: Mapping[Facet, Way],
        body: Callable[[EntityKey], Awaitable[MirrorBody | None]],
        take: Callable[[EntityKey, Mapping[str, object], Mapping[str, object]], Awaitable[None]],
        *,
        homed: Homed,
        report: Callable[[str, Mapping[str, object]], Awaitable[None]],
    ) -> None:
        self.ways, self._body, self._take = ways, body, take
        self._homed, self._report = homed, report

    async def read_first(self, keys: Collection[EntityKey]) -> frozenset[EntityKey]:
        """The entities that are read before they are written: those of both directions, and twins of devices there."""
        return frozenset(key for key in keys if key.facet in self.ways) | await twins_at_hub(self._homed, keys)

    async def reconcile(
        self, hub: Hub, key: EntityKey, recorded: EntityState, ours: MirrorBody, held: MirrorItem | None
    ) -> Settled | None:
        """Merges, and writes the hub's part into the fleet; None if the entity was deleted, or does not fit any more.

        Args:
            ours: the fleet's state as the hub can hold it.
            held: the hub's state; if it has none, the fleet's counts completely.

        Raises:
            Refused: the fleet refuses the hub's state.
        """
        if held is None or held.body is None:
            return Settled(body=ours)
        if isinstance(ours, TwinBody) and isinstance(held.body, TwinBody) and await self._homed([key.id]):
            if not equal(ours.reported, held.body.reported):
                await self._report(key.id, held.body.reported)
            ours = evolve(ours, reported=held.body.reported)
        if key.facet not in self.ways:
            return Settled(body=ours)
        way, mine, theirs = self.ways[key.facet], shared(ours), shared(held.body)
        if way.direction == "in":
            document, conflicts = theirs, 0
        else:
            merged = merge(_base(recorded, held.body, theirs), mine, theirs, sent=recorded.sent, wins=way.wins)
            document, conflicts = merged.document, len(merged.conflicts)
        if equal(document, mine):
            return Settled(body=ours, conflicts=conflicts)
        await self._take(key, mine, document)
        now = await self._body(key)
        if isinstance(now, TwinBody) and isinstance(ours, TwinBody):
            now = evolve(now, reported=ours.reported)
        fitted = None if now is None else hub.fit(key, now).item
        if fitted is None or fitted.body is None:
            return None
        # The fleet's state afterwards: a layer may override what was written.
        body = with_shared(fitted.body, document) if way.direction == "in" else fitted.body
        return Settled(body=body, conflicts=conflicts)


def _base(recorded: EntityState, held: MirrorBody, theirs: Mapping[str, object]) -> Mapping[str, object]:
    """The last common state. For an entity that only went out so far, it is what was sent, if the hub still has it."""
    if recorded.agreed is not None:
        return recorded.agreed
    return theirs if recorded.digest == digest(held) else {}
