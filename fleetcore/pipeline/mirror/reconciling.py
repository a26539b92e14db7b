"""Reconciling: brings an entity that goes both ways to what fleet and hub should have, and takes the hub's part over.

Such an entity is read before it is written. What is about to be written is kept first: where the answer is lost, the
hub's state is known again as our own.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Literal

from attrs import evolve, frozen

from fleetcore.fleet.shared_state import shared, with_shared
from fleetcore.interfaces.cloud import MirrorItem
from fleetcore.model.merge import Side, merge
from fleetcore.model.mirror import EntityKey, Facet, Kept, MirrorBody, TwinBody
from fleetcore.model.twin import equal
from fleetcore.pipeline.mirror.hub import Hub
from fleetcore.pipeline.mirror.kept import digest

Direction = Literal["out", "in", "both"]

#: Those of some devices that are connected to the hub.
Homed = Callable[[Collection[str]], Awaitable[Collection[str]]]


async def twins_at_hub(homed: Homed, keys: Collection[EntityKey]) -> frozenset[EntityKey]:
    """Those of some entities whose reported part the device itself writes at the hub."""
    devices = [key.id for key in keys if key.facet == "twin"]
    return frozenset(EntityKey("twin", each) for each in await homed(devices)) if devices else frozenset()


@frozen(kw_only=True)
class Way:
    """How the shared part of a facet goes.

    Attributes:
        direction: ``in``: the hub's counts and the fleet's is never written; ``both``: what either changed counts.
        wins: whose value of a leaf counts where both changed it.
    """

    direction: Literal["in", "both"]
    wins: Side


@frozen(kw_only=True)
class Settled:
    """The body that the hub is to have, what both sides agree on then, and the leaves that both had changed."""

    body: MirrorBody
    conflicts: int = 0

    @property
    def agreed(self) -> Mapping[str, object]:
        """To be kept once the hub has it."""
        return shared(self.body)


class Reconciling:
    """See the module.

    Args:
        body: gives the present state of an entity.
        take: brings the fleet's shared part of an entity from one document to another; raises Refused.
        homed: those of some devices that are connected to the hub, and report there.
        report: takes over what such a device reported; raises Refused.
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
        """Those that are read before they are written: what goes both ways, and twins of devices at the hub."""
        return frozenset(key for key in keys if key.facet in self.ways) | await twins_at_hub(self._homed, keys)

    async def reconcile(
        self, hub: Hub, key: EntityKey, kept: Kept, ours: MirrorBody, held: MirrorItem | None
    ) -> Settled | None:
        """Merges, and takes the hub's part over; None where the entity went, or does not fit any more.

        Args:
            ours: the fleet's state as the hub can hold it.
            held: the hub's; where it has none, the fleet's counts whole.

        Raises:
            Refused: the fleet does not take what the hub has.
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
            merged = merge(_base(kept, held.body, theirs), mine, theirs, sent=kept.sent, wins=way.wins)
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
        # What the fleet has after it, for a layer may stand above what was taken.
        body = with_shared(fitted.body, document) if way.direction == "in" else fitted.body
        return Settled(body=body, conflicts=conflicts)


def _base(kept: Kept, held: MirrorBody, theirs: Mapping[str, object]) -> Mapping[str, object]:
    """What both sides had last. What went out alone so far is that, as long as the hub has it as it was sent."""
    if kept.agreed is not None:
        return kept.agreed
    return theirs if kept.digest == digest(held) else {}
