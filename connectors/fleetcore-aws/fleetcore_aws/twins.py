"""Twins as the named shadow ``twin`` of a thing.

The shadow has the fleet's mark in its reported section: so a twin without members exists too, and a shadow created
again by another writer is recognised without a call for the thing; the first write checks the thing.
"""

from collections.abc import AsyncIterator

from fleetcore.interfaces.cloud import CloudUse, Fitted, MirrorItem, MirrorResult
from fleetcore.model.mirror import EntityKey, Loss, TwinBody
from fleetcore.model.patch import Document, same
from fleetcore_aws.attributes import MARK
from fleetcore_aws.clients import Clients
from fleetcore_aws.documents import MAX_BYTES, holdable, size
from fleetcore_aws.failures import CallFailed
from fleetcore_aws.names import THING
from fleetcore_aws.registry import FOREIGN, Things
from fleetcore_aws.shadows import Shadow, Shadows

_NAMED = "iot:ListNamedShadowsForThing"
_FOREIGN = "There is a shadow of that name that this fleet did not create"


class Twins:
    """See the module."""

    def __init__(self, clients: Clients, things: Things, prefix: str, shadow: str) -> None:
        self._clients, self._things, self._prefix, self._shadow = clients, things, prefix, shadow
        self._shadows = Shadows(clients, shadow)
        self.use = CloudUse()

    def fit(self, item: MirrorItem, body: TwinBody) -> Fitted:
        """As in the interface."""
        if THING.encode(item.key.id, self._prefix) is None:
            return Fitted(item=None, lost=(Loss("", "The device's id is too long for a thing's name"),))
        lost: list[Loss] = []
        desired = holdable(body.desired, "/desired", lost)
        reported = holdable(body.reported, "/reported", lost)
        if MARK in reported:
            del reported[MARK]
            lost.append(Loss(f"/reported/{MARK}", "The mark of the fleet uses this name"))
        if size({"desired": desired, "reported": self._marked(reported)}) > MAX_BYTES:
            return Fitted(item=None, lost=(Loss("", f"A shadow can hold {MAX_BYTES} bytes"),))
        if not lost:
            return Fitted(item=item)
        fitted = TwinBody(desired=desired, reported=reported)
        return Fitted(item=MirrorItem(key=item.key, body=fitted, remote_version=item.remote_version), lost=lost)

    def _marked(self, reported: Document) -> Document:
        return {**reported, MARK: self._things.fleet}

    def _owns(self, shadow: Shadow) -> bool:
        return shadow.reported.get(MARK) == self._things.fleet

    async def apply(self, item: MirrorItem, body: TwinBody | None) -> MirrorResult:
        """As in the interface, for one item; raises CallFailed."""
        name = THING.encode(item.key.id, self._prefix)
        if name is None:
            return MirrorResult(state="done" if body is None else "invalid", reason="The id is too long")
        if isinstance(item.last, TwinBody) and item.remote_version is not None and body is not None:
            # If it was written since, AWS refuses the version: no need to read it.
            last = item.last.reported if item.adopts else self._marked(item.last.reported)
            known = Shadow(int(item.remote_version), item.last.desired, last)
            try:
                written = await self._shadows.replace(name, known, body.desired, self._marked(body.reported))
            except CallFailed as failed:
                if failed.kind != "conflict" or not item.adopts:
                    raise
                return await self._marked_alone(name)
            return MirrorResult(state="done", remote_version=str(written))
        there = await self._shadows.get(name)
        if there is not None and not self._owns(there):
            return MirrorResult(state="foreign", reason=_FOREIGN)
        version = None if there is None else str(there.version)
        reported = {} if body is None else self._marked(body.reported)
        if there is None and body is None:
            return MirrorResult(state="done")
        if there is not None and body is not None and same([there.desired, there.reported], [body.desired, reported]):
            return MirrorResult(state="done", remote_version=version)
        if item.remote_version != version:
            return MirrorResult(state="conflict")
        if body is None:
            await self._shadows.remove(name)
            return MirrorResult(state="done")
        if there is None and (refused := await self._without_thing(name)) is not None:
            return refused
        written = await self._shadows.replace(name, there, body.desired, reported)
        return MirrorResult(state="done", remote_version=str(written))

    async def _marked_alone(self, name: str) -> MirrorResult:
        """Adopts a shadow that has changed since it was imported, as it is."""
        there = await self._shadows.get(name)
        if there is not None and MARK not in there.reported:
            await self._shadows.replace(name, there, there.desired, self._marked(there.reported))
        elif there is not None and not self._owns(there):
            return MirrorResult(state="foreign", reason=_FOREIGN)
        return MirrorResult(state="conflict")

    async def _without_thing(self, name: str) -> MirrorResult | None:
        """Why a first shadow is not written: its thing is missing, or belongs to others."""
        if "registry" not in self.use.sends:
            return None  # then others create the things, and only the shadows are ours
        thing = await self._things.describe(name)
        if thing is None:
            return MirrorResult(state="failed", reason="There is no thing of that name yet")
        return None if self._things.owns(thing) else MirrorResult(state="foreign", reason=FOREIGN)

    async def read(self, key: EntityKey) -> MirrorItem | None:
        """As in the interface, for one key; raises CallFailed."""
        name = THING.encode(key.id, self._prefix)
        there = None if name is None else await self._shadows.get(name)
        if there is None or not self._owns(there):
            return None
        reported = {each: value for each, value in there.reported.items() if each != MARK}
        body = TwinBody(desired=there.desired, reported=reported)
        return MirrorItem(key=key, body=body, remote_version=str(there.version))

    async def entities(self) -> AsyncIterator[EntityKey]:
        """As in the interface; raises CallFailed. One call per thing: AWS only lists shadows by thing."""
        async for device in self._things.devices():
            name = THING.encode(device, self._prefix)
            if name is not None and await self._there(name):
                yield EntityKey("twin", device)

    async def _there(self, name: str) -> bool:
        if not self._shadow:  # AWS only lists named ones
            return (shadow := await self._shadows.get(name)) is not None and self._owns(shadow)
        try:
            answer = await self._clients.call(_NAMED, thingName=name)
        except CallFailed as failed:
            if failed.kind == "missing":  # removed since it was listed
                return False
            raise
        named = answer.get("results")
        if not isinstance(named, list):
            raise CallFailed(_NAMED, "unavailable", "the answer lacks results; it was truncated", lost=True)
        return self._shadow in named
