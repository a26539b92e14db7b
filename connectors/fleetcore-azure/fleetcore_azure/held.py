"""A device at the hub, from its twin: one call returns its owner, its content and its ETags.

Tags of fleetcore are in ``fleetcore``, and its section of the desired properties has the same name:

```text
tags.fleetcore.fleet             the mark of the fleet that made the device
tags.fleetcore.type, …           the registration (attributes.py)
tags.fleetcore.twin              the mark of the fleet that writes the twin, and what is reported (twins.py)
properties.desired.fleetcore     firmware (jobs.py) and commands (inbound.py)
```
"""

from collections.abc import AsyncIterator, Mapping
from typing import Any, cast

from attrs import frozen

from fleetcore.interfaces.call_failed import CallFailed
from fleetcore.model.patch import Document, patch
from fleetcore_azure.clients import Clients
from fleetcore_azure.documents import plain
from fleetcore_azure.failures import HubFailed
from fleetcore_azure.names import DEVICE
from fleetcore_azure.sdk import models

OWN = "fleetcore"
FOREIGN = "There is a device of that name that this fleet did not create"
CERTIFICATES = "The device has certificates at IoT Hub: only the device itself can send for it"
DISABLED = "The device is disabled at IoT Hub"
TOO_LONG = "The device's id is too long for a device id of IoT Hub"
#: A scope is this, a device's name, and the number of its generation.
_SCOPE = "ms-azure-iot-edge://"
#: How often a twin is read again after another facet or writer has changed it.
TRIES = 4
#: Devices of an import that wait to be adopted: some pages.
_TOLD = 1000


@frozen(kw_only=True)
class Held:
    """A device.

    Attributes:
        etag: the twin's, without quotes; ``device_etag`` is the identity's.
        thumbprints: those of its certificates, in lower case; None if it has keys.
        reported: written only by the device itself.
        reported_version: it only grows.
        connected: whether a connection of the device is open, ours or its own; reported up to 5 minutes late.
        metadata: when desired properties were written.
        edge: whether it is an IoT Edge device; ``scope`` is its own then, to which devices below it refer.
        above: the scope of the edge above it.
        rest: further members of the identity, which writes must keep: its place, and whether it is an edge.
    """

    name: str
    etag: str
    device_etag: str
    status: str
    status_reason: str | None
    thumbprints: tuple[str, ...] | None
    authentication: str
    tags: Document
    desired: Document
    reported: Document
    reported_version: int
    connected: bool
    metadata: Document
    edge: bool
    scope: str | None
    above: str | None
    rest: Mapping[str, object]

    @property
    def own(self) -> Document:
        """The tags of fleetcore."""
        return section(self.tags, OWN)

    @property
    def owner(self) -> str | None:
        """The mark of the fleet that created it."""
        owner = self.own.get("fleet")
        return owner if isinstance(owner, str) else None

    @property
    def parent(self) -> str | None:
        """The hub's name of the device above it."""
        return None if self.above is None else self.above.removeprefix(_SCOPE).rpartition("-")[0]


def section(document: Document, name: str) -> Document:
    """A member that is an object; empty if it is missing."""
    value = document.get(name)
    return cast("Document", value) if isinstance(value, dict) else {}


def held(twin: Any) -> Held:
    """The device in the SDK's record. Raises ValueError for a truncated one."""
    properties = None if twin is None else twin.properties
    if properties is None or not twin.device_id or not twin.etag or not isinstance(properties.desired, dict):
        raise ValueError("the answer is not a twin; it was truncated")
    thumbprints = None
    kind = twin.authentication_type or "sas"
    if kind == "selfSigned":
        prints = twin.x509_thumbprint
        both = () if prints is None else (prints.primary_thumbprint, prints.secondary_thumbprint)
        thumbprints = tuple(each.lower() for each in both if each)
    edge = bool(twin.capabilities is not None and twin.capabilities.iot_edge)
    # The scope of a device that is not an edge is that of the edge above.
    above = [*(twin.parent_scopes or ()), *([] if edge else [twin.device_scope])]
    return Held(
        name=twin.device_id,
        etag=twin.etag.strip('"'),
        device_etag=(twin.device_etag or "").strip('"'),
        status=twin.status or "enabled",
        status_reason=twin.status_reason,
        thumbprints=thumbprints,
        authentication=kind,
        tags=twin.tags or {},
        desired=plain(properties.desired),
        reported=plain(properties.reported or {}),
        reported_version=int((properties.reported or {}).get("$version", 0)),
        connected=str(twin.connection_state).lower() == "connected",
        metadata=section(properties.desired, "$metadata"),
        edge=edge,
        scope=(twin.device_scope or None) if edge else None,
        above=next((each for each in above if each), None),
        rest={
            "capabilities": twin.capabilities,
            "device_scope": twin.device_scope,
            "parent_scopes": twin.parent_scopes,
        },
    )


class Devices:
    """Reads devices and writes their twins, for every facet that needs them."""

    def __init__(self, clients: Clients, mark: str, prefix: str) -> None:
        self._clients, self.mark, self._prefix = clients, mark, prefix
        #: The conditions in a query for devices that this fleet created, and for those whose twins it writes.
        self.mine = f"tags.{OWN}.fleet = {quoted(mark)}"
        self.mine_by_twin = f"tags.{OWN}.twin.fleet = {quoted(mark)}"
        #: From an import, the newest last.
        self._told: dict[str, Held] = {}

    def name(self, device: str) -> str | None:
        """The hub's name of a device; None if its id is too long."""
        return DEVICE.encode(device, self._prefix)

    def device(self, name: str) -> str | None:
        """The fleet's device for a name."""
        return DEVICE.decode(name, self._prefix)

    def owns(self, there: Held) -> bool:
        """Whether this fleet created it."""
        return there.owner == self.mark

    def told(self, there: Held) -> None:
        """Remembers a device of an import, for the write that adopts it."""
        self._told.pop(there.name, None)
        self._told[there.name] = there
        while len(self._told) > _TOLD:
            del self._told[next(iter(self._told))]

    async def to_write(self, name: str, *, adopts: bool) -> Held | None:
        """The device, for a write under its ETag: the state from an import, once, when it is adopted.

        The hub refuses the write if that is outdated. Otherwise like :meth:`get`; raises HubFailed.
        """
        there = self._told.pop(name, None) if adopts else None
        return there or await self.get(name)

    async def get(self, name: str) -> Held | None:
        """The device; None if it is missing. Raises HubFailed."""
        try:
            return await self._clients.call("twins/read", lambda service: held(service.devices.get_twin(name)))
        except CallFailed as failed:
            if failed.kind == "missing":
                return None
            raise

    async def why_closed(self, name: str) -> str | None:
        """Why the mirror cannot connect for a device; None if it can. Raises HubFailed."""
        there = await self.get(name)
        if there is None:
            return "There is no device of that name at IoT Hub"
        if there.owner is not None and not self.owns(there):
            return FOREIGN
        if there.owner is None:
            return "The device at IoT Hub has no mark of this fleet: it was created again"
        if there.authentication != "sas":
            return CERTIFICATES
        return DISABLED if there.status != "enabled" else None

    async def write(self, there: Held, tags: Document, desired: Document) -> Held:
        """Changes tags and desired properties from their present state to the given documents, under the twin's ETag.

        Raises HubFailed, of kind ``conflict`` if another writer was faster.
        """
        changed_tags, changed_desired = patch(there.tags, tags), patch(there.desired, desired)
        if not changed_tags and not changed_desired:
            return there
        return await self.patch(there.name, there.etag, changed_tags, changed_desired)

    async def patch(self, name: str, etag: str, tags: Document, desired: Document) -> Held:
        """Merges into tags and desired properties if the twin has this ETag. Raises HubFailed."""
        changed = models.Twin(
            tags=dict(tags) or None, properties=models.TwinProperties(desired=dict(desired)) if desired else None
        )
        return await self._clients.call(
            "twins/write",
            lambda service: held(service.devices.update_twin(name, changed, if_match=f'"{etag}"')),
        )

    def ours(self, where: str = "") -> AsyncIterator[Held]:
        """Devices with this fleet's mark, as the query's index has them. Raises HubFailed."""
        return self._found(f"{self.mine} AND {where}" if where else self.mine)

    def with_twins(self) -> AsyncIterator[Held]:
        """Devices whose twins have this fleet's mark, likewise."""
        return self._found(self.mine_by_twin)

    async def _found(self, where: str) -> AsyncIterator[Held]:
        async for twin in self._clients.queried(select(where)):
            try:
                yield held(twin)
            except ValueError as error:
                raise HubFailed("twins/query", "unavailable", str(error), lost=True) from error


def select(where: str) -> str:
    """The query for devices that match a condition."""
    return f"SELECT * FROM devices WHERE {where}"  # noqa: S608 - texts in it are quoted, and it only reads


def quoted(text: str) -> str:
    """A text in a query."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def with_own(document: Document, own: Mapping[str, object]) -> dict[str, object]:
    """A section whose fleetcore member is ``own``, or absent if ``own`` is empty."""
    rest = {key: value for key, value in document.items() if key != OWN}
    return {**rest, OWN: dict(own)} if own else rest
