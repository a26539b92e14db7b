"""Layering: devices get the desired state of their layers.

A change of a layer, or of a group's members, recomputes the desired state of the devices concerned. An unchanged result
writes nothing, so repeating it after a crash is harmless.
"""

from collections.abc import Sequence

from fleetcore.errors import NotFound
from fleetcore.fleet.groups import Groups
from fleetcore.fleet.registry import Registry
from fleetcore.fleet.twins import Twins
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.model.events import GROUP_CHANGED, LAYER_CHANGED, LAYER_REMOVED, changed_parts, device_of
from fleetcore.model.store import Event, FeedEntry
from fleetcore.pipeline.consumer import Consumer


class LayerKeeper(Consumer):
    """The consumer ``layers``."""

    def __init__(self, storage: Storage, twins: Twins, groups: Groups, registry: Registry, clock: Clock) -> None:
        super().__init__("layers", storage, clock)
        self._twins, self._groups, self._registry = twins, groups, registry

    async def _handle(self, entries: Sequence[FeedEntry]) -> bool:
        await self._groups.wait_idle()
        await self._twins.layers.wait_idle()
        layered = bool(self._twins.layers.list())
        devices: dict[str, None] = {}
        everybody = False
        for entry in entries:
            for event in entry.events:
                if layered and "groups" in changed_parts(event) and (device := device_of(event)) is not None:
                    devices[device] = None
                elif layered and event.type == GROUP_CHANGED:
                    devices.update(dict.fromkeys(self._inside(event.subject)))  # the device may have moved
                elif event.type in (LAYER_CHANGED, LAYER_REMOVED):
                    members = self._members(event)
                    everybody |= members is None
                    devices.update(dict.fromkeys(members or ()))
        if everybody:
            devices = {device.id: None async for device in self._registry.records.iterate()}
        for device in devices:
            await self._twins.recompute(device)
        return bool(devices)

    def _members(self, event: Event) -> Sequence[str] | None:
        """The devices of a layer; None means all."""
        group = event.data.get("group")
        if event.type == LAYER_CHANGED:
            try:
                group = self._twins.layers.get(event.subject).group
            except NotFound:
                return ()  # removed since: that event follows
        return None if group is None else self._inside(str(group))

    def _inside(self, group: str) -> Sequence[str]:
        try:
            return self._groups.members(group)
        except NotFound:
            return ()
