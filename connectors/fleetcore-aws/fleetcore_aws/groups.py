"""Groups as thing groups, flat: AWS lets a thing be in only one group of a hierarchy, the fleet in several.

Every group is static at AWS, with the fleet's members; its query is stored as an attribute.
"""

import base64
import re
from collections.abc import AsyncIterator, Mapping
from typing import cast

from attrs import evolve, frozen

from fleetcore.interfaces.cloud import Fitted, MirrorItem, MirrorResult, Unowned
from fleetcore.model.mirror import EntityKey, GroupBody, Loss
from fleetcore_aws import answers
from fleetcore_aws.attributes import MARK, OWN
from fleetcore_aws.clients import Clients
from fleetcore_aws.failures import CallFailed
from fleetcore_aws.names import THING

_DESCRIBE = "iot:DescribeThingGroup"
_LIST = "iot:ListThingGroups"
_QUERY = f"{OWN}query"
_MAX_QUERY_LENGTH = 800
#: ``[\p{Graph}\x20]{0,2028}`` (API reference, ThingGroupProperties).
_MAX_DESCRIPTION_LENGTH = 2028
_UNPRINTABLE = re.compile(r"[^\x20\x21-\x7e\u00a1-\U0010ffff]")
_FOREIGN = "There is a thing group of that name that this fleet did not create"


@frozen(kw_only=True)
class _Held:
    version: int
    description: str
    attributes: Mapping[str, str]
    query: str | None


class Groups:
    """See the module."""

    def __init__(self, clients: Clients, fleet: str, prefix: str) -> None:
        self._clients, self._fleet, self._prefix = clients, fleet, prefix

    def fit(self, item: MirrorItem, body: GroupBody) -> Fitted:
        """As in the interface."""
        if THING.encode(item.key.id, self._prefix) is None:
            return Fitted(item=None, lost=(Loss("", "The name is too long for a thing group"),))
        lost = [
            Loss(f"/within/{number}", "A thing can be in only one group of a hierarchy, so groups are flat at AWS")
            for number, _ in enumerate(body.within)
        ]
        fitted = evolve(body, within=())
        if len(body.description) > _MAX_DESCRIPTION_LENGTH or _UNPRINTABLE.search(body.description):
            lost.append(
                Loss("/description", f"A description may have at most {_MAX_DESCRIPTION_LENGTH} printable characters")
            )
            fitted = evolve(fitted, description="")
        if body.query is not None and len(_encoded(body.query)) > _MAX_QUERY_LENGTH:
            lost.append(Loss("/query", f"An attribute can hold {_MAX_QUERY_LENGTH} characters of base64"))
            fitted = evolve(fitted, query=None)
        return Fitted(item=item if fitted == body else evolve(item, body=fitted), lost=lost)

    def _properties(self, body: GroupBody) -> Mapping[str, object]:
        attributes = {MARK: self._fleet}
        if body.query is not None:
            attributes[_QUERY] = _encoded(body.query)
        return {
            "thingGroupDescription": body.description,
            "attributePayload": {"attributes": attributes, "merge": False},
        }

    async def apply(self, item: MirrorItem, body: GroupBody | None) -> MirrorResult:
        """As in the interface, for one item; raises CallFailed."""
        name = THING.encode(item.key.id, self._prefix)
        if name is None:
            return MirrorResult(state="done" if body is None else "invalid", reason="The name is too long")
        if item.adopts and body is not None and (adopted := await self._adopt(name, item, body)) is not None:
            return adopted
        there = await self._describe(name) if item.remote_version is not None or body is None else None
        if there is None:
            if body is None:
                return MirrorResult(state="done")
            if item.remote_version is not None:
                return MirrorResult(state="conflict", reason="The thing group was deleted")
            try:
                answer = await self._clients.call(
                    "iot:CreateThingGroup", thingGroupName=name, thingGroupProperties=self._properties(body)
                )
                answers.text("iot:CreateThingGroup", answer, "thingGroupName")
                return MirrorResult(state="done", remote_version="1")
            except CallFailed as failed:
                if failed.kind != "exists":
                    raise
            there = await self._describe(name)
            if there is None:
                return MirrorResult(state="conflict")
        if there.attributes.get(MARK) != self._fleet:
            return MirrorResult(state="foreign", reason=_FOREIGN)
        version = str(there.version)
        if body is not None and _body(there) == body:
            return MirrorResult(state="done", remote_version=version)
        if item.remote_version != version:
            return MirrorResult(state="conflict")
        if body is None:
            await self._clients.call("iot:DeleteThingGroup", thingGroupName=name, expectedVersion=there.version)
            return MirrorResult(state="done")
        answer = await self._clients.call(
            "iot:UpdateThingGroup",
            thingGroupName=name,
            expectedVersion=there.version,
            thingGroupProperties=self._properties(body),
        )
        return MirrorResult(state="done", remote_version=str(answers.number("iot:UpdateThingGroup", answer, "version")))

    async def read(self, key: EntityKey) -> MirrorItem | None:
        """As in the interface, for one key; raises CallFailed."""
        name = THING.encode(key.id, self._prefix)
        there = None if name is None else await self._describe(name)
        if there is None or there.attributes.get(MARK) != self._fleet:
            return None
        return MirrorItem(key=key, body=_body(there), remote_version=str(there.version))

    async def unowned(self, name: str) -> Unowned | None:
        """A group that this fleet did not create, for an import; raises CallFailed."""
        there = await self._describe(name)
        owner = None if there is None else there.attributes.get(MARK)
        if there is None or owner == self._fleet:
            return None
        group = THING.decode(name, self._prefix)
        if group is None:
            return Unowned(name=name, key=None, reason=f"{name!r} cannot be a name in the fleet")
        key = EntityKey("group", group)
        if owner is not None:
            return Unowned(name=name, key=key, reason=f"The fleet {owner!r} created it")
        if there.query is not None:
            return Unowned(name=name, key=key, reason="It is dynamic: AWS itself selects its members")
        body = GroupBody(description=there.description)
        return Unowned(name=name, key=key, held=MirrorItem(key=key, body=body, remote_version=str(there.version)))

    async def _adopt(self, name: str, item: MirrorItem, body: GroupBody) -> MirrorResult | None:
        """Adopts a group without a mark; None if it already has this fleet's."""
        there = await self._describe(name)
        if there is None:
            return MirrorResult(state="conflict", reason="The thing group was deleted")
        owner = there.attributes.get(MARK)
        if owner is not None:
            return None if owner == self._fleet else MirrorResult(state="foreign", reason=_FOREIGN)
        same = item.remote_version == str(there.version)
        marked = {"attributePayload": {"attributes": {MARK: self._fleet}, "merge": True}}
        answer = await self._clients.call(
            "iot:UpdateThingGroup",
            thingGroupName=name,
            expectedVersion=there.version,
            thingGroupProperties=self._properties(body) if same else marked,
        )
        version = str(answers.number("iot:UpdateThingGroup", answer, "version"))
        return MirrorResult(state="done" if same else "conflict", remote_version=version)

    async def entities(self) -> AsyncIterator[EntityKey]:
        """As in the interface; raises CallFailed. One call per group: the list does not contain the mark."""
        only = {"namePrefixFilter": self._prefix} if self._prefix else {}
        async for each in self._clients.listed(_LIST, "thingGroups", **only):
            name = answers.text(_LIST, each, "groupName")
            group = THING.decode(name, self._prefix)
            if group is None:
                continue
            there = await self._describe(name)
            if there is not None and there.attributes.get(MARK) == self._fleet:
                yield EntityKey("group", group)

    async def _describe(self, name: str) -> _Held | None:
        try:
            answer = await self._clients.call(_DESCRIBE, thingGroupName=name)
        except CallFailed as failed:
            if failed.kind == "missing":
                return None
            raise
        properties = answers.record(_DESCRIBE, answer, "thingGroupProperties")
        payload = cast("Mapping[str, Mapping[str, object]]", properties.get("attributePayload", {}))
        return _Held(
            version=answers.number(_DESCRIBE, answer, "version"),
            description=answers.optional_text(properties, "thingGroupDescription") or "",
            query=answers.optional_text(answer, "queryString"),
            attributes={key: str(value) for key, value in payload.get("attributes", {}).items()},
        )


def _encoded(query: str) -> str:
    # Without the padding, whose character attributes do not allow.
    return base64.urlsafe_b64encode(query.encode()).decode().rstrip("=")


def _body(held: _Held) -> GroupBody:
    encoded = held.attributes.get(_QUERY)
    query = None
    if encoded is not None:
        query = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode("utf-8", "replace")
    return GroupBody(description=held.description, query=query)
