"""Membership: updates dynamic groups with stored changes, device by device, without gaps after a crash.

Evaluating again changes nothing, so repeating it after a crash is harmless. Only the parts of a document that some
group uses are followed; readings only if a query uses ``latest``.
"""

from collections import defaultdict
from collections.abc import Sequence

from fleetcore.fleet.groups import Groups
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.model.events import GROUP_JOINED, GROUP_LEFT, changed_parts, device_of
from fleetcore.model.store import FeedEntry
from fleetcore.pipeline.consumer import Consumer

#: The change that writes these evaluates the groups that depend on them.
_EVALUATED = frozenset({GROUP_JOINED, GROUP_LEFT})


class MembershipKeeper(Consumer):
    """The consumer ``groups``."""

    def __init__(self, storage: Storage, groups: Groups, clock: Clock) -> None:
        super().__init__("groups", storage, clock)
        self._groups = groups

    async def _handle(self, entries: Sequence[FeedEntry]) -> bool:
        looks_at = self._groups.looks_at
        if not looks_at:
            return False
        changed: dict[str, frozenset[str]] = defaultdict(frozenset)
        for entry in entries:
            for event in entry.events:
                device, parts = device_of(event), changed_parts(event) & looks_at
                if device is not None and parts and event.type not in _EVALUATED:
                    changed[device] |= parts
            if "latest" in looks_at and entry.readings is not None:
                catalog = self._storage.catalog
                for index in set(entry.readings.series.tolist()):
                    changed[catalog.series(index).device] |= frozenset({"latest"})
        for device, parts in changed.items():
            await self._groups.evaluate(device, parts)
        return bool(changed)
