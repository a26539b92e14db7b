"""Layered desired state: a device's layers, their merged document, and the layer of each leaf."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import cast

from attrs import evolve

from fleetcore.errors import NotFound, Refused, VersionConflict
from fleetcore.fleet.repository import Repository
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.model.events import LAYER_CHANGED, LAYER_REMOVED
from fleetcore.model.layer import OWN, Layer, LayerKind, Origin
from fleetcore.model.names import check_label
from fleetcore.model.store import Commit, Delete, Event
from fleetcore.model.twin import OURS, Json, Section, Twin, equal, leaves, merge_patch

_RANK = {LayerKind.FLEET: 0, LayerKind.GROUP: 1, LayerKind.POLICY: 2}


#: Merges a patch into a section: checks limits, sets version and times; the same rule as for twins.
Patch = Callable[[Section, Json, int], Section]


def check_not_ours(patch: Json) -> None:
    """Raises Refused where a patch sets the fleet's own key."""
    if OURS in patch:
        raise Refused(
            f"The key {OURS!r} of desired state is the fleet's own",
            remedy="The CAs determine it: fleetcore ca rotate, fleetcore ca renew-devices",
            pointer=f"/{OURS}",
        )


class Layers:
    """All layers, in memory and in the store. Open it with :meth:`load`.

    Attributes:
        groups_of: a device's groups, including those that contain them, the outermost first; :class:`Fleet` sets it.
    """

    def __init__(self, storage: Storage, clock: Clock, patched: Patch) -> None:
        self._storage, self._clock, self._patched = storage, clock, patched
        self.records = Repository(storage, "layer", Layer)
        self._layers: dict[str, Layer] = {}
        # The commit and the memory change together for every waiter.
        self._lock = asyncio.Lock()
        self.groups_of: Callable[[str], Sequence[str]] = lambda _device: ()

    async def load(self) -> None:
        """Loads the stored layers."""
        self._layers = {layer.id: layer for layer in await self.records.find()}

    def get(self, layer: str) -> Layer:
        """The layer; raises NotFound."""
        found = self._layers.get(layer)
        if found is None:
            raise NotFound(f"Layer {layer!r} does not exist", layer=layer)
        return found

    def laid_on(self, group: str) -> Sequence[str]:
        """The layers of a group, named for people."""
        return [f"layer {layer.id}" for layer in self._layers.values() if layer.group == group]

    def list(self) -> Sequence[Layer]:
        """All layers, the weakest first."""
        return sorted(self._layers.values(), key=_strength)

    def of(self, device: str) -> Sequence[Layer]:
        """The layers of a device, the weakest first."""
        if not self._layers:
            return ()
        groups = {group: place for place, group in enumerate(self.groups_of(device))}
        found = [layer for layer in self._layers.values() if layer.group is None or layer.group in groups]
        return sorted(
            found, key=lambda item: (_RANK[item.kind], groups.get(item.group or "", -1), item.priority, item.id)
        )

    async def desire(
        self,
        layer: str,
        patch: Json,
        *,
        kind: LayerKind = LayerKind.FLEET,
        group: str | None = None,
        priority: int = 0,
        if_version: int | None = None,
        ours: bool = False,
        actor: str = "system",
        reason: str = "",
    ) -> Layer:
        """Merges a patch into a layer, which is created if missing; its devices follow.

        Raises:
            Refused: the key ``fleetcore`` without ``ours``, a group layer without a group, a fleet layer with one, a
                limit of twins.
            VersionConflict: the layer is not at ``if_version``.
        """
        check_label(layer, "layer")
        if not ours:
            check_not_ours(patch)
        if (kind is LayerKind.FLEET) is not (group is None) and kind is not LayerKind.POLICY:
            raise Refused(f"A {kind} layer must have {'no' if kind is LayerKind.FLEET else 'a'} group")
        now = self._clock.now_ms()

        async def load() -> Layer:
            return await self.records.get(layer) or Layer(id=layer, kind=kind, group=group, priority=priority)

        def step(old: Layer) -> tuple[Layer, list[Event]] | None:
            if if_version is not None and old.section.version != if_version:
                raise VersionConflict(
                    f"Layer {layer!r} is at version {old.section.version}", version=old.section.version
                )
            if old.version and (old.kind, old.group) != (kind, group):
                raise Refused(
                    f"Layer {layer!r} is a {old.kind} layer for {old.group or 'all devices'}",
                    remedy="Remove it first, or choose another name",
                )
            section = self._patched(old.section, patch, now)
            new = evolve(old, section=section, by=authors(old.by, old.section, section, actor), priority=priority)
            data = {"patch": patch, "version": section.version}
            return new, [Event(type=LAYER_CHANGED, subject=layer, time=now, actor=actor, reason=reason, data=data)]

        async with self._lock:
            made = self._layers[layer] = await self.records.compare_and_set(load, step)
        return made

    async def remove(self, layer: str, *, actor: str = "system", reason: str = "") -> Layer:
        """Removes a layer; its devices fall back to the layers below it."""
        async with self._lock:
            old = self.get(layer)
            data = {"group": old.group} if old.group else {}
            event = Event(
                type=LAYER_REMOVED, subject=layer, time=self._clock.now_ms(), actor=actor, reason=reason, data=data
            )
            await self._storage.commit(Commit(deletes=(Delete(kind="layer", key=layer),), events=(event,)))
            del self._layers[layer]
        return old

    async def wait_idle(self) -> None:
        """Returns when memory includes everything committed before the call."""
        async with self._lock:
            return

    def effective(self, device: str, own: Section) -> tuple[Json, Mapping[str, int]]:
        """All layers merged: the document, and when each leaf was set in its layer."""
        layers = self.of(device)
        if not layers:
            return own.document, own.times
        document: Json = {}
        times: dict[str, int] = {}
        for section in (*(layer.section for layer in layers), own):
            document = cast("Json", merge_patch(document, section.document))
            times.update(section.times)
        there = leaves(document)
        return document, {at: times.get(at, 0) for at in there}

    def origins(self, twin: Twin) -> Mapping[str, Origin]:
        """The layer of each desired leaf of a device, by pointer."""
        found: dict[str, Origin] = {}
        parts: Iterable[tuple[str, Section, Mapping[str, str]]] = (
            *((item.id, item.section, item.by) for item in self.of(twin.device)),
            (OWN, twin.own, twin.by),
        )
        for name, section, by in parts:
            for at, value in leaves(section.document).items():
                found[at] = Origin(value=value, layer=name, by=by.get(at, ""), time=section.times.get(at, 0))
        there = leaves(self.effective(twin.device, twin.own)[0])
        return {at: found[at] for at in there if at in found}


def _strength(layer: Layer) -> tuple[int, int, str]:
    return _RANK[layer.kind], layer.priority, layer.id


def authors(by: Mapping[str, str], before: Section, after: Section, actor: str) -> dict[str, str]:
    """The actor of each leaf: ``actor`` where it is new or has changed."""
    old = leaves(before.document)
    new = leaves(after.document)
    return {at: by.get(at, "") if at in old and equal(old[at], value) else actor for at, value in new.items()}
