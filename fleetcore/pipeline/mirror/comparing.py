"""What a mirror would do, and where its hub differs, page by page: nothing is changed.

If a hub cannot be read, what it accepted last is compared instead, as far as it was recorded. Answers say which of the
two was compared.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Literal

from attrs import evolve, frozen

from fleetcore.interfaces.cloud import MirrorItem
from fleetcore.model.mirror import AMONG_RECORDED, EntityKey, EntityState, Loss, MirrorBody, TwinBody
from fleetcore.pipeline.mirror.entity_states import digest
from fleetcore.pipeline.mirror.hub import Hub
from fleetcore.pipeline.mirror.reconciling import Homed, twins_at_hub
from fleetcore.pipeline.mirror.sender import Bodies, StateSender
from fleetcore.pipeline.mirror.walk import Walk

#: Entities of the hub that are looked up in the fleet together.
_TOGETHER = 100


@frozen(kw_only=True)
class Change:
    """What would be done with an entity; ``reason`` if the hub could not hold it."""

    key: EntityKey
    action: Literal["create", "change", "remove", "refuse"]
    reason: str = ""
    lost: Sequence[Loss] = ()


@frozen(kw_only=True)
class Difference:
    """An entity that differs at the hub: see :class:`~fleetcore.calls.responses.mirrors.MirrorDriftResponse`.

    ``held`` is the hub's state, and ``seen`` whether it could be read.
    """

    key: EntityKey
    state: Literal["missing", "differs", "extra"]
    held: MirrorItem | None = None
    seen: bool = True


@frozen(kw_only=True)
class Drift:
    """The differences in a part, how many entities were compared, and where the next part begins.

    ``against`` is the other side of the comparison: the state of the ``hub``, or what was ``sent`` to it.
    """

    differences: Sequence[Difference]
    compared: int
    after: str | None
    against: Literal["hub", "sent"] = "hub"


class Comparing:
    """Compares the entities of a mirror in order; an ``after`` is a place in that order."""

    def __init__(
        self,
        walk: Walk,
        bodies: Bodies,
        sender: StateSender,
        homed: Homed,
    ) -> None:
        self._homed = homed
        self._walk, self._bodies, self._kept = walk, bodies, sender.states
        self._gone, self._removes = sender.gone, sender.removes

    async def plan(self, hub: Hub, after: str | None, limit: int) -> tuple[list[Change], str | None]:
        """What would be sent of the next ``limit`` entities; those that match the hub are left out."""
        if after is not None and after.startswith(AMONG_RECORDED):
            return await self._removals(after.removeprefix(AMONG_RECORDED), limit)
        keys, following = await self._walk.next(after, limit)
        bodies, states = await self._bodies(keys), await self._kept.get_many(keys)
        found = [self._change(hub, key, bodies[key], states[key]) for key in keys if key in bodies]
        return [change for change in found if change is not None], following or (
            AMONG_RECORDED if self._removes() else None
        )

    def _change(self, hub: Hub, key: EntityKey, body: MirrorBody, recorded: EntityState) -> Change | None:
        if recorded.paused is not None:
            return None
        fitted = hub.fit(key, body, recorded.remote_version)
        if fitted.item is None:
            return Change(key=key, action="refuse", reason=fitted.reason)
        if recorded.digest == digest(fitted.item.body):
            return None
        return Change(key=key, action="change" if recorded.digest else "create", lost=fitted.lost)

    async def _removals(self, after: str, limit: int) -> tuple[list[Change], str | None]:
        gone, following = await self._gone(after or None, limit)
        found = [Change(key=key, action="remove") for key in gone]
        return found, None if following is None else f"{AMONG_RECORDED}{following}"

    async def drift(self, hub: Hub, after: str | None, limit: int) -> Drift:
        """Where the hub differs in the next ``limit`` entities; the last page has the entities that only the hub has.

        Only entities that the hub should hold are read: dead letters and paused entities are not drift.
        """
        keys, following = await self._walk.next(after, limit)
        if not hub.limits.readable:
            return await self._drift_of_sent(hub, keys, following)
        found: list[Difference] = []
        compared = 0
        there = await hub.read(keys)
        bodies, states = await self._bodies(keys), await self._kept.get_many(keys)
        at_hub = await twins_at_hub(self._homed, keys)
        for key, held in zip(keys, there, strict=True):
            fitted = self._fitted(hub, key, bodies.get(key), states[key])
            if fitted is None:
                continue
            compared += 1
            if key in at_hub and held is not None:
                fitted = _with_its_report(fitted, held)
            difference = await self._difference(hub, fitted, held)
            if difference is not None:
                found.append(difference)
        if following is None:
            found += await self._extra(hub)
        return Drift(differences=found, compared=compared, after=following)

    async def _drift_of_sent(self, hub: Hub, keys: Sequence[EntityKey], following: str | None) -> Drift:
        """The same for a hub that cannot be read: what it accepted last stands for its state."""
        found: list[Difference] = []
        compared = 0
        bodies, states = await self._bodies(keys), await self._kept.get_many(keys)
        for key in keys:
            wanted, sent = self._fitted(hub, key, bodies.get(key), states[key]), states[key].digest
            if wanted is None:
                continue
            compared += 1
            if sent != digest(wanted.body):
                found.append(Difference(key=key, state="differs" if sent else "missing", seen=False))
        if following is None:
            found += await self._sent_extra()
        return Drift(differences=found, compared=compared, after=following, against="sent")

    async def _sent_extra(self) -> list[Difference]:
        """Sent entities, not withdrawn, that the fleet no longer has."""
        found: list[Difference] = []
        after: str | None = None
        while True:
            states, after = await self._kept.page("mirror", after, _TOGETHER)
            sent = [
                key
                for key, recorded in states
                if recorded.digest is not None and recorded.paused is None and key.facet in self._walk.facets
            ]
            bodies = await self._bodies(sent)
            found += [Difference(key=key, state="extra", seen=False) for key in sent if key not in bodies]
            if after is None:
                return found

    def _fitted(self, hub: Hub, key: EntityKey, body: MirrorBody | None, recorded: EntityState) -> MirrorItem | None:
        """The state that the hub should hold of an entity; None if the hub does not hold it."""
        if body is None or recorded.paused is not None or recorded.invalid is not None:
            return None
        return hub.fit(key, body).item

    async def _difference(self, hub: Hub, wanted: MirrorItem, held: MirrorItem | None) -> Difference | None:
        key = wanted.key
        if held is None:
            # A truncated answer may look like a shorter one.
            (held,) = await hub.read([key])
        if held is None:
            return Difference(key=key, state="missing")
        return None if digest(held.body) == digest(wanted.body) else Difference(key=key, state="differs", held=held)

    async def _extra(self, hub: Hub) -> list[Difference]:
        found: dict[EntityKey, Difference] = {}
        for facet in self._walk.facets:
            async for keys in _parts(hub.entities(facet)):
                bodies = await self._bodies(keys)
                extra = [key for key in keys if key not in bodies]
                there = await hub.read(extra) if extra else ()
                for key, held in zip(extra, there, strict=True):
                    if held is not None:
                        found[key] = Difference(key=key, state="extra", held=held)
        return list(found.values())


def _with_its_report(wanted: MirrorItem, held: MirrorItem) -> MirrorItem:
    """The expected twin of a device that is connected to the hub: its report is the device's."""
    if isinstance(wanted.body, TwinBody) and isinstance(held.body, TwinBody):
        return evolve(wanted, body=evolve(wanted.body, reported=held.body.reported))
    return wanted


async def _parts(keys: AsyncIterator[EntityKey]) -> AsyncIterator[Sequence[EntityKey]]:
    """The parts of several at a time."""
    part: list[EntityKey] = []
    async for key in keys:
        part.append(key)
        if len(part) == _TOGETHER:
            yield part
            part = []
    if part:
        yield part
