"""What a mirror would do, and where its hub differs, page by page: nothing is changed."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Literal

from attrs import frozen

from fleetcore.interfaces.boundary import plugin_call, plugin_code
from fleetcore.interfaces.cloud import CloudBackend, MirrorItem
from fleetcore.model.mirror import EntityKey, Loss, MirrorBody
from fleetcore.pipeline.mirror.kept import KeptStates, digest
from fleetcore.pipeline.mirror.walk import Walk


@frozen(kw_only=True)
class Change:
    """What would be done with an entity; ``reason`` where the hub could not hold it."""

    key: EntityKey
    action: Literal["create", "change", "remove", "refuse"]
    reason: str = ""
    lost: Sequence[Loss] = ()


@frozen(kw_only=True)
class Difference:
    """An entity that the hub has otherwise: see :class:`~fleetcore.calls.responses.mirrors.MirrorDriftResponse`."""

    key: EntityKey
    state: Literal["missing", "differs", "extra"]


class Comparing:
    """Looks at the entities of a mirror in their order; an ``after`` is a place of the :class:`Walk`."""

    def __init__(
        self,
        name: str,
        walk: Walk,
        body: Callable[[EntityKey], Awaitable[MirrorBody | None]],
        kept: KeptStates,
        *,
        timeout_s: float,
    ) -> None:
        self._name, self._walk, self._body, self._kept, self._timeout_s = name, walk, body, kept, timeout_s

    async def plan(self, cloud: CloudBackend, after: str | None, limit: int) -> tuple[list[Change], str | None]:
        """What would be sent of the next ``limit`` entities; those that are as the hub has them are left out."""
        keys, after = await self._walk.next(after, limit)
        changes = []
        for key in keys:
            body, kept = await self._body(key), await self._kept.get(key)
            if body is None:
                if kept.digest is not None:
                    changes.append(Change(key=key, action="remove"))
                continue
            with plugin_code(f"mirror {self._name!r}"):
                fitted = cloud.fit(MirrorItem(key=key, body=body, remote_version=kept.remote_version))
            if fitted.item is None:
                changes.append(Change(key=key, action="refuse", reason=fitted.reason))
            elif kept.digest != digest(fitted.item.body):
                action: Literal["create", "change"] = "create" if kept.digest is None else "change"
                changes.append(Change(key=key, action=action, lost=fitted.lost))
        return changes, after

    async def drift(self, cloud: CloudBackend, after: str | None, limit: int) -> tuple[list[Difference], str | None]:
        """Where the hub differs in the next ``limit`` entities; the last page has what the hub alone has."""
        keys, following = await self._walk.next(after, limit)
        found: list[Difference] = []
        for start in range(0, len(keys), cloud.limits.items):
            part = keys[start : start + cloud.limits.items]
            async with plugin_call(f"mirror {self._name!r}", self._timeout_s):
                there = await cloud.read(part)
            for key, held in zip(part, there, strict=True):
                difference = await self._difference(cloud, key, held)
                if difference is not None:
                    found.append(difference)
        if following is None:
            found += await self._extra(cloud)
        return found, following

    async def _difference(self, cloud: CloudBackend, key: EntityKey, held: MirrorItem | None) -> Difference | None:
        body = await self._body(key)
        if body is None:
            return None  # it has gone meanwhile, or is not mirrored: the last page tells
        with plugin_code(f"mirror {self._name!r}"):
            fitted = cloud.fit(MirrorItem(key=key, body=body))
        if fitted.item is None:
            return None  # it is a dead letter
        if held is None:
            return Difference(key=key, state="missing")
        return None if digest(held.body) == digest(fitted.item.body) else Difference(key=key, state="differs")

    async def _extra(self, cloud: CloudBackend) -> list[Difference]:
        return [
            Difference(key=key, state="extra")
            for facet in self._walk.facets
            async for key in cloud.entities(facet)
            if await self._body(key) is None
        ]
