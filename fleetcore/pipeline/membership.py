"""Membership: keeps dynamic groups up to date with what was stored, device by device, skipping nothing over a crash.

Evaluating again changes nothing, so what is repeated after a crash is harmless. Only parts of a document that some
group looks at are followed; readings only where a query asks for ``latest``.
"""

from collections import defaultdict
from collections.abc import Sequence

from fleetcore.fleet.groups import Groups
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.model.store import Event, FeedEntry
from fleetcore.pipeline.consumer import Consumer

#: An event's type up to its first dot → the parts of the document that may have changed.
CHANGES = {
    "device": frozenset({"id", "name", "type", "model", "tags", "lifecycle", "capabilities", "gateway", "attributes",
                         "location", "updated", "created"}),
    "twin": frozenset({"desired", "reported", "firmware", "power"}),
    "location": frozenset({"location"}),
}  # fmt: skip


def changed_parts(event: Event) -> frozenset[str]:
    """The parts of the subject's document that an event may have changed."""
    return CHANGES.get(event.type.partition(".")[0], frozenset())


class MembershipKeeper(Consumer):
    """The consumer ``groups``."""

    def __init__(self, storage: Storage, groups: Groups, clock: Clock) -> None:
        super().__init__("groups", storage, clock)
        self._groups = groups

    async def _handle(self, entries: Sequence[FeedEntry]) -> bool:
        looks_at = self._groups.looks_at
        changed: dict[str, frozenset[str]] = defaultdict(frozenset)
        for entry in entries:
            for event in entry.events:
                parts = changed_parts(event) & looks_at
                if parts:
                    changed[event.subject] |= parts
            if "latest" in looks_at and entry.readings is not None:
                catalog = self._storage.catalog
                for index in set(entry.readings.series.tolist()):
                    changed[catalog.series(index).device] |= frozenset({"latest"})
        for device, parts in changed.items():
            await self._groups.evaluate(device, parts)
        return bool(changed)
