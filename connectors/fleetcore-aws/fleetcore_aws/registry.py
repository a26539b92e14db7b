"""Devices as things: created, changed under their version, removed; and their membership in thing groups.

The thing is written first and the shadow ``meta`` after it. The next apply repeats an interrupted write: creating an
existing, equal thing changes nothing, and the shadow is compared before it is written.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping

from attrs import frozen

from fleetcore.interfaces.cloud import CloudUse, Fitted, MirrorItem, MirrorResult
from fleetcore.model.mirror import EntityKey, Loss, RegistryBody
from fleetcore.model.patch import same
from fleetcore_aws import answers
from fleetcore_aws.attributes import GROUPS, MARK, META, LaidOut, fit, gathered, lay_out
from fleetcore_aws.brought import BroughtCertificates
from fleetcore_aws.clients import Clients
from fleetcore_aws.failures import CallFailed
from fleetcore_aws.names import THING
from fleetcore_aws.shadows import Shadow, Shadows

_DESCRIBE = "iot:DescribeThing"
_LIST = "iot:ListThings"
_IN_GROUPS = "iot:ListThingGroupsForThing"

#: Registrations that are laid out and not sent yet: several batches.
_REMEMBERED = 2000

FOREIGN = "There is a thing of that name that this fleet did not create"


@frozen(kw_only=True)
class Thing:
    """A thing at AWS."""

    arn: str
    version: int
    type: str | None
    attributes: Mapping[str, str]


class Things:
    """Reads things, for every facet that needs them."""

    def __init__(self, clients: Clients, fleet: str, prefix: str) -> None:
        self._clients, self.fleet, self._prefix = clients, fleet, prefix

    async def describe(self, name: str) -> Thing | None:
        """The thing; None if it is missing."""
        try:
            answer = await self._clients.call(_DESCRIBE, thingName=name)
        except CallFailed as failed:
            if failed.kind == "missing":
                return None
            raise
        attributes = answers.record(_DESCRIBE, answer, "attributes")
        return Thing(
            arn=answers.text(_DESCRIBE, answer, "thingArn"),
            version=answers.number(_DESCRIBE, answer, "version"),
            type=answers.optional_text(answer, "thingTypeName"),
            attributes={key: str(value) for key, value in attributes.items()},
        )

    def owns(self, thing: Thing) -> bool:
        """Whether this fleet created it."""
        return thing.attributes.get(MARK) == self.fleet

    async def devices(self) -> AsyncIterator[str]:
        """The devices whose things have this fleet's mark."""
        async for each in self._clients.listed(_LIST, "things", attributeName=MARK, attributeValue=self.fleet):
            device = THING.decode(answers.text(_LIST, each, "thingName"), self._prefix)
            if device is not None:
                yield device


class Registry:
    """See the module."""

    def __init__(self, clients: Clients, things: Things, brought: BroughtCertificates, prefix: str) -> None:
        self._clients, self._things, self._brought, self._prefix = clients, things, brought, prefix
        self._meta = Shadows(clients, "meta")
        self._types: set[str] = set()
        #: The layouts of fitted bodies, until they are sent: computing one is half of the work.
        self._laid: dict[EntityKey, tuple[RegistryBody, LaidOut]] = {}
        self._type_turn = asyncio.Lock()
        self.use = CloudUse()

    # -- pure -------------------------------------------------------------------------------------------------------

    def fit(self, item: MirrorItem, body: RegistryBody) -> Fitted:
        """As in the interface."""
        if THING.encode(item.key.id, self._prefix) is None:
            return Fitted(item=None, lost=(Loss("", "The device's id is too long for a thing's name"),))
        fitted, lost, laid = fit(body, self._things.fleet, self._prefix)
        if fitted is None:
            return Fitted(item=None, lost=lost)
        if laid is not None:
            if len(self._laid) >= _REMEMBERED:
                self._laid.clear()
            self._laid[item.key] = (body, laid)
        kept = item if fitted == body else MirrorItem(key=item.key, body=fitted, remote_version=item.remote_version)
        return Fitted(item=kept, lost=lost)

    # -- calls ------------------------------------------------------------------------------------------------------

    async def apply(self, item: MirrorItem, body: RegistryBody | None) -> MirrorResult:
        """As in the interface, for one item; raises CallFailed."""
        name = THING.encode(item.key.id, self._prefix)
        if name is None:
            return MirrorResult(state="done" if body is None else "invalid", reason="The id is too long")
        if body is None:
            return await self._remove(name, item)
        known = self._laid.pop(item.key, None)
        laid = known[1] if known and known[0] is body else lay_out(body, self._things.fleet, self._prefix)
        if item.adopts and (adopted := await self._adopt(name, laid, item)) is not None:
            return adopted
        if item.remote_version is None and await self._made(name, laid):
            return await self._complete(name, laid, 1)
        return await self._change(name, laid, item)

    async def _adopt(self, name: str, laid: LaidOut, item: MirrorItem) -> MirrorResult | None:
        """Adopts a thing without a mark; None if it already has this fleet's.

        In one call if the thing is as it was imported; only otherwise is it read.
        """
        version = int((item.remote_version or "0").partition(".")[0])
        try:
            await self._update(name, laid, version, there_type=None)
        except CallFailed as failed:
            if failed.kind == "missing":
                return MirrorResult(state="conflict", reason="The thing was deleted")
            if failed.kind != "conflict":
                raise
        else:
            return await self._complete(name, laid, version + 1)
        there = await self._things.describe(name)
        if there is None:
            return MirrorResult(state="conflict", reason="The thing was deleted")
        if MARK in there.attributes:
            return None if self._things.owns(there) else MirrorResult(state="foreign", reason=FOREIGN)
        await self._clients.call(
            "iot:UpdateThing",
            thingName=name,
            expectedVersion=there.version,
            attributePayload={"attributes": {MARK: self._things.fleet}, "merge": True},
        )
        return MirrorResult(state="conflict")

    async def _made(self, name: str, laid: LaidOut) -> bool:
        """Creates the thing; False if there is another one of that name."""
        arguments: dict[str, object] = {}
        if laid.type is not None:
            await self._have_type(laid.type)
            arguments["thingTypeName"] = laid.type
        try:
            answer = await self._clients.call(
                "iot:CreateThing", thingName=name, attributePayload={"attributes": dict(laid.stands)}, **arguments
            )
        except CallFailed as failed:
            if failed.kind == "exists":
                return False
            if failed.kind == "missing" and laid.type is not None:
                self._types.discard(laid.type)  # it was removed: the next try creates it again
            raise
        answers.text("iot:CreateThing", answer, "thingName")
        return True

    async def _have_type(self, name: str) -> None:
        if name in self._types:
            return
        async with self._type_turn:
            if name in self._types:
                return
            try:
                await self._clients.call("iot:CreateThingType", thingTypeName=name)
            except CallFailed as failed:
                if failed.kind != "exists":
                    raise
            self._types.add(name)

    async def _change(self, name: str, laid: LaidOut, item: MirrorItem) -> MirrorResult:
        there = await self._things.describe(name)
        if there is None:
            return MirrorResult(state="conflict", reason="The thing was deleted")
        if not self._things.owns(there):
            return MirrorResult(state="foreign", reason=FOREIGN)
        meta = await self._meta_of(name, there)
        thing_same = there.type == laid.type and dict(there.attributes) == dict(laid.stands)
        rest_same = same({} if meta is None else meta.reported, laid.rest)
        if not (thing_same and rest_same) and item.remote_version != _version(there.version, meta):
            return MirrorResult(state="conflict")
        version = there.version
        if not thing_same:
            await self._leave(name, _groups_of(there) - set(laid.groups))
            await self._update(name, laid, there.version, there_type=there.type)
            version += 1
        return await self._complete(name, laid, version, meta, read=True)

    async def _update(self, name: str, laid: LaidOut, version: int, *, there_type: str | None) -> None:
        arguments: dict[str, object] = {}
        if laid.type is not None:
            await self._have_type(laid.type)
            arguments["thingTypeName"] = laid.type
        elif there_type is not None:
            arguments["removeThingType"] = True
        await self._clients.call(
            "iot:UpdateThing",
            thingName=name,
            expectedVersion=version,
            attributePayload={"attributes": dict(laid.stands), "merge": False},
            **arguments,
        )

    async def _complete(
        self, name: str, laid: LaidOut, version: int, meta: Shadow | None = None, *, read: bool = False
    ) -> MirrorResult:
        """Writes the rest beside the thing, and its groups."""
        if laid.rest:
            # A new thing may have been created before, by a call whose answer was lost.
            there = meta if read and meta is not None else await self._meta.get(name)
            meta = Shadow(await self._meta.replace(name, there, {}, laid.rest), {}, laid.rest)
        elif meta is not None:
            await self._meta.remove(name)
            meta = None
        if "group" in self.use.sends:
            for group in laid.groups:  # it costs only a call if the thing is already in it
                await self._clients.call("iot:AddThingToThingGroup", thingName=name, thingGroupName=group)
        return MirrorResult(state="done", remote_version=_version(version, meta))

    async def _leave(self, name: str, groups: set[str]) -> None:
        if "group" not in self.use.sends:
            return
        for group in sorted(groups):
            try:
                await self._clients.call("iot:RemoveThingFromThingGroup", thingName=name, thingGroupName=group)
            except CallFailed as failed:
                if failed.kind != "missing":
                    raise

    async def _meta_of(self, name: str, there: Thing) -> Shadow | None:
        return await self._meta.get(name) if META in there.attributes else None

    async def _remove(self, name: str, item: MirrorItem) -> MirrorResult:
        there = await self._things.describe(name)
        if there is None:
            return MirrorResult(state="done")
        if not self._things.owns(there):
            return MirrorResult(state="foreign", reason=FOREIGN)
        meta = await self._meta_of(name, there)
        if item.remote_version != _version(there.version, meta):
            return MirrorResult(state="conflict")
        if "certificate" in self.use.sends and await self._opens(name):
            return MirrorResult(state="failed", reason="Its certificates are removed before it")
        if meta is not None:
            await self._meta.remove(name)
        await self._clients.call("iot:DeleteThing", thingName=name, expectedVersion=there.version)
        return MirrorResult(state="done")

    async def _opens(self, name: str) -> bool:
        """Whether certificates of ours may be attached to the thing: they must not stay active unnoticed."""
        brought = await self._brought.get(name)
        return brought is not None and self._brought.is_own(brought)

    async def read(self, key: EntityKey) -> MirrorItem | None:
        """As in the interface, for one key; raises CallFailed."""
        name = THING.encode(key.id, self._prefix)
        there = None if name is None else await self._things.describe(name)
        if name is None or there is None or not self._things.owns(there):
            return None
        meta = await self._meta_of(name, there)
        groups = _groups_of(there)
        if groups and "group" in self.use.sends:
            groups &= await self._memberships(name)
        laid = LaidOut(
            type=there.type,
            attributes=there.attributes,
            groups=tuple(groups),
            rest={} if meta is None else meta.reported,
        )
        return MirrorItem(key=key, body=gathered(laid, self._prefix), remote_version=_version(there.version, meta))

    async def _memberships(self, name: str) -> set[str]:
        answer = await self._clients.call(_IN_GROUPS, thingName=name)  # a page has room for all that a thing may have
        return {
            answers.text(_IN_GROUPS, each, "groupName") for each in answers.records(_IN_GROUPS, answer, "thingGroups")
        }

    async def entities(self) -> AsyncIterator[EntityKey]:
        """As in the interface; raises CallFailed."""
        async for device in self._things.devices():
            yield EntityKey("registry", device)


def _groups_of(thing: Thing) -> set[str]:
    return set(filter(None, thing.attributes.get(GROUPS, "").split(",")))


def thing_version(thing: int) -> str:
    """The version of a thing without further data of the fleet."""
    return _version(thing, None)


def _version(thing: int, meta: Shadow | None) -> str:
    return f"{thing}.{'-' if meta is None else meta.version}"
