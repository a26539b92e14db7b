"""Entities created by others at AWS, for an import: thing groups, things and their shadows, members of groups.

A page of things costs one call, because it contains their types, attributes and versions; so a thing that is not
imported costs no further call.
"""

import asyncio
from collections.abc import Sequence

from fleetcore.interfaces.cloud import MirrorItem, Unowned
from fleetcore.model.mirror import EntityKey, TwinBody
from fleetcore_aws import answers
from fleetcore_aws.attributes import MARK, LaidOut, gathered
from fleetcore_aws.clients import Clients
from fleetcore_aws.failures import CallFailed
from fleetcore_aws.groups import Groups
from fleetcore_aws.names import THING
from fleetcore_aws.registry import thing_version
from fleetcore_aws.shadows import Shadows

_THINGS, _GROUPS, _MEMBERS = "iot:ListThings", "iot:ListThingGroups", "iot:ListThingsInThingGroup"
_PAGE = 250
#: The prefix of a page token: the list that it belongs to.
_OF_GROUPS, _OF_THINGS = "groups:", "things:"


class Imports:
    """See the module. Its methods raise CallFailed, and are otherwise those of the interface.

    Args:
        shadow: the name of the shadow with the twin; empty for the unnamed one.
        with_groups: whether groups are listed.
    """

    def __init__(self, clients: Clients, mark: str, prefix: str, groups: Groups, shadow: str) -> None:
        self._clients, self._mark, self._prefix, self._groups = clients, mark, prefix, groups
        self._shadows = Shadows(clients, shadow)

    async def unowned(self, after: str | None) -> tuple[Sequence[Unowned], str | None] | None:
        place = after or _OF_GROUPS
        list_, _, token = place.partition(":")
        of_groups = f"{list_}:" == _OF_GROUPS
        try:
            found, following = await (self._unowned_groups(token) if of_groups else self._unowned_things(token))
        except CallFailed as failed:
            if failed.kind == "invalid" and token:
                return None  # the token has expired
            raise
        if following is not None:
            return found, f"{_OF_GROUPS if of_groups else _OF_THINGS}{following}"
        return found, _OF_THINGS if of_groups else None

    async def _page(
        self, action: str, member: str, token: str, **more: str
    ) -> tuple[Sequence[answers.Answer], str | None]:
        arguments: dict[str, object] = {**more, "maxResults": _PAGE, **({"nextToken": token} if token else {})}
        answer = await self._clients.call(action, **arguments)
        return answers.records(action, answer, member), answers.optional_text(answer, "nextToken")

    async def _unowned_groups(self, token: str) -> tuple[Sequence[Unowned], str | None]:
        only = {"namePrefixFilter": self._prefix} if self._prefix else {}
        listed, following = await self._page(_GROUPS, "thingGroups", token, **only)
        names = [answers.text(_GROUPS, each, "groupName") for each in listed]
        found = await asyncio.gather(*(self._groups.unowned(name) for name in names))
        return [each for each in found if each is not None], following

    async def _unowned_things(self, token: str) -> tuple[Sequence[Unowned], str | None]:
        listed, following = await self._page(_THINGS, "things", token)
        found = [self._thing(each) for each in listed]
        return [each for each in found if each is not None], following

    def _thing(self, listed: answers.Answer) -> Unowned | None:
        name = answers.text(_THINGS, listed, "thingName")
        attributes = {key: str(value) for key, value in answers.record(_THINGS, listed, "attributes").items()}
        owner = attributes.get(MARK)
        if owner == self._mark or not name.startswith(self._prefix):
            return None
        device = THING.decode(name, self._prefix)
        if device is None:
            return Unowned(name=name, key=None, reason=f"{name!r} cannot be a name in the fleet")
        key = EntityKey("registry", device)
        if owner is not None:
            return Unowned(name=name, key=key, reason=f"The fleet {owner!r} created it")
        laid = LaidOut(type=answers.optional_text(listed, "thingTypeName"), attributes=attributes)
        version = thing_version(answers.number(_THINGS, listed, "version"))
        held = MirrorItem(key=key, body=gathered(laid, self._prefix), remote_version=version)
        return Unowned(name=name, key=key, held=held)

    async def read(self, found: Unowned) -> Sequence[MirrorItem]:
        """The states of one."""
        held = found.held
        if held is None:
            return ()
        if held.key.facet == "group":
            return (held,)
        shadow = await self._shadows.get(found.name)
        if shadow is None:
            return (held,)
        twin = TwinBody(desired=shadow.desired, reported=shadow.reported)
        return held, MirrorItem(key=EntityKey("twin", held.key.id), body=twin, remote_version=str(shadow.version))

    async def members(self, group: EntityKey, after: str | None) -> tuple[Sequence[str], str | None]:
        name = THING.encode(group.id, self._prefix)
        if name is None:
            return (), None
        answer = await self._clients.call(
            _MEMBERS, thingGroupName=name, maxResults=_PAGE, **({} if after is None else {"nextToken": after})
        )
        names = answer.get("things")
        if not isinstance(names, list):
            raise CallFailed(_MEMBERS, "unavailable", "the answer lacks things; it was truncated", lost=True)
        devices = [THING.decode(str(each), self._prefix) for each in names]
        return [each for each in devices if each is not None], answers.optional_text(answer, "nextToken")
