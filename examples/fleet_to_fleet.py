"""A connector from fleet to fleet: mirrors devices, twins and readings to another fleetcore, over its operators' API.

[fleet]
plugins = ["./fleet_to_fleet.py"]

[clouds.headquarters]
kind = "fleet"
url = "https://hq.example:8443"
token = "env:HEADQUARTERS_TOKEN"
ca = "hq-ca.pem"
metrics = ["temperature"]

There a device has in its attributes the fleets it came through, the last of which owns it, and what a fleet cannot
store of another fleet's device: life cycle, groups, gateway, position, and its reports.
"""

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal, cast

import msgspec
from attrs import evolve, frozen

from fleetcore import hookimpl, offer_cloud
from fleetcore.client import AsyncFleetClient
from fleetcore.errors import (
    Conflict,
    CredentialsRejected,
    FleetError,
    NotAuthenticated,
    NotAuthorised,
    NotFound,
    Refused,
    Unavailable,
)
from fleetcore.fleet.mirrors import VIA
from fleetcore.frontends.async_fleet import AsyncFleet
from fleetcore.interfaces import CloudBackend, CloudLimits, Context, Fitted, MirrorItem, MirrorResult, Provider, Sent
from fleetcore.model.mirror import EntityKey, Facet, RegistryBody, TwinBody
from fleetcore.model.telemetry import SeriesCatalog, TelemetryBatch
from fleetcore.model.twin import diff_patch
from fleetcore.wire.records import from_plain, to_plain

#: The attribute with data that the other fleet cannot store otherwise.
KEPT = "mirrored"
_DESCRIBED = ("model", "name", "tags", "capabilities")


@frozen(kw_only=True)
class FleetToFleetConfig:
    """``[clouds.NAME]``. Attributes: url, token, ca: of the other fleet's API; the token is a reference."""

    url: str
    token: str
    ca: str | None = None


class OtherFleet(CloudBackend):
    """Versions are digests of the mirrored state: the other fleet may change its own part of a device."""

    limits = CloudLimits(
        items=20,
        parallel=2,
        readings=1000,
        readings_after_device=True,
        rates={"call": 500.0},
        facets=frozenset({"registry", "twin"}),
    )

    def __init__(self, other: AsyncFleet, fleet_id: str, identity: str) -> None:
        self._other, self._own, self.identity = other, fleet_id, identity

    def fit(self, item: MirrorItem) -> Fitted:
        """A fleet can hold everything of a fleet."""
        return Fitted(item=item)

    async def apply(self, items: Sequence[MirrorItem]) -> Sequence[MirrorResult]:
        """Each item separately, all in parallel."""
        return await asyncio.gather(*map(self._apply, items))

    async def _apply(self, item: MirrorItem) -> MirrorResult:
        try:
            return await self._written(item)
        except Conflict:
            return MirrorResult(state="conflict")
        except Unavailable as error:
            if error.code != "overloaded":
                raise
            return MirrorResult(state="throttled", retry_after_s=error.retry_after_s or 0.0)
        except Refused as error:
            return MirrorResult(state="invalid", reason=error.message)

    async def _written(self, item: MirrorItem) -> MirrorResult:
        device = await self._device(item.key.id)
        if device is not None and not self._is_own(device):
            return MirrorResult(state="foreign", reason=f"this fleet did not create {item.key.id}")
        there = None if device is None else await self._held(item.key, device)
        if there is not None and there.body == item.body:
            return there_is(there)
        if item.remote_version != (None if there is None else there.remote_version):
            return MirrorResult(state="conflict" if there is not None or item.body is not None else "done")
        if item.key.facet == "registry":
            await self._describe(item, device)
        elif device is None:
            state: Literal["failed", "done"] = "done" if item.body is None else "failed"
            return MirrorResult(state=state, reason="Its device does not exist yet")
        else:
            await self._want(item, device)
        return MirrorResult(state="done", remote_version=None if item.body is None else _version(item.body))

    async def _describe(self, item: MirrorItem, device: Any | None) -> None:
        if item.body is None:
            if device is not None:
                await self._call("erase_device", item.key.id, if_version=device.version)
            return
        body = cast("RegistryBody", item.body)
        kept = {**({} if device is None else device.attributes[KEPT])}
        plain = to_plain(evolve(body, attributes={}))
        kept["registry"] = {name: value for name, value in plain.items() if name not in {*_DESCRIBED, "attributes"}}
        described = {name: plain.get(name) for name in _DESCRIBED}
        attributes = {**body.attributes, VIA: [*body.via, self._own], KEPT: kept}
        if device is None:
            await self._call("create_device", item.key.id, body.type, **described, attributes=attributes)
        else:
            patch = diff_patch(device.attributes, attributes)
            await self._call("update_device", item.key.id, **described, attributes=patch, if_version=device.version)

    async def _want(self, item: MirrorItem, device: Any) -> None:
        body = item.body if isinstance(item.body, TwinBody) else None
        twin = await self._call("get_twin", item.key.id)
        patch = diff_patch(twin.desired, {} if body is None else body.desired)
        if patch:
            await self._call("set_desired", item.key.id, patch, if_version=twin.desired_version)
        kept = {name: value for name, value in device.attributes[KEPT].items() if name != "reported"}
        if body is not None:
            kept["reported"] = body.reported
        patch = diff_patch({KEPT: device.attributes[KEPT]}, {KEPT: kept})
        if patch:
            await self._call("update_device", item.key.id, attributes=patch, if_version=device.version)

    async def read(self, keys: Sequence[EntityKey]) -> Sequence[MirrorItem | None]:
        """Each separately, all in parallel."""
        return await asyncio.gather(*map(self._read, keys))

    async def _read(self, key: EntityKey) -> MirrorItem | None:
        device = await self._device(key.id)
        return None if device is None or not self._is_own(device) else await self._held(key, device)

    async def _held(self, key: EntityKey, device: Any) -> MirrorItem | None:
        kept = device.attributes[KEPT]
        body: RegistryBody | TwinBody
        if key.facet == "twin":
            if "reported" not in kept:
                return None
            body = TwinBody(desired=(await self._call("get_twin", key.id)).desired, reported=kept["reported"])
        else:
            attributes = {name: value for name, value in device.attributes.items() if name not in {VIA, KEPT}}
            described = {name: getattr(device, name) for name in _DESCRIBED}
            plain = {**kept["registry"], **described, "attributes": attributes}
            body = from_plain("registry", plain, RegistryBody)
        return MirrorItem(key=key, body=body, remote_version=_version(body))

    async def entities(self, facet: Facet) -> AsyncIterator[EntityKey]:
        """The devices of the other fleet that this one created."""
        cursor: str | None = None
        while True:
            page = await self._call("list_devices", limit=1000, **({} if cursor is None else {"cursor": cursor}))
            for device in page:
                if self._is_own(device) and (facet == "registry" or "reported" in device.attributes[KEPT]):
                    yield EntityKey(facet, device.id)
            cursor = page.next
            if cursor is None:
                return

    async def send(self, batch: TelemetryBatch, catalog: SeriesCatalog) -> Sent:
        """Like an import: repeating the same readings changes nothing."""
        if not len(batch):
            return Sent(taken=0)
        places = {index: at for at, index in enumerate(dict.fromkeys(batch.series.tolist()))}
        series = [(of.device, of.metric, of.unit) for of in map(catalog.series, places)]
        columns = {
            "series": series, "at": [places[index] for index in batch.series.tolist()],
            "time": batch.time.tolist(), "value": batch.value.tolist(),
        }  # fmt: skip
        answer = await self._call("import_readings", io.BytesIO(msgspec.json.encode(columns)))
        refused = {each.item - 1: each.reason for each in answer.failures}
        return Sent(taken=len(batch) - len(refused), refused=refused)

    async def _device(self, device: str) -> Any | None:
        try:
            return await self._call("get_device", device)
        except NotFound:
            return None

    def _is_own(self, device: Any) -> bool:
        via = device.attributes.get(VIA) or [None]
        return bool(via[-1] == self._own and KEPT in device.attributes)

    async def _call(self, name: str, /, *given: object, **more: object) -> Any:
        await self.pace.take("call")
        try:
            return await getattr(self._other, name)(*given, **more)
        except FleetError as error:
            if error.code == "overloaded":
                self.pace.slow_down("call", getattr(error, "retry_after_s", None) or 0.0)
            if isinstance(error, NotAuthenticated | NotAuthorised):
                raise CredentialsRejected(f"The other fleet refuses the token: {error.message}") from error
            raise


def there_is(item: MirrorItem) -> MirrorResult:
    """It already matches."""
    return MirrorResult(state="done", remote_version=item.remote_version)


def _version(body: object) -> str:
    return hashlib.sha256(msgspec.json.encode(to_plain(body), order="sorted")).hexdigest()[:16]


@asynccontextmanager
async def open_other_fleet(config: FleetToFleetConfig, context: Context) -> AsyncIterator[OtherFleet]:
    """The client keeps its connection while the mirror runs."""
    async with AsyncFleetClient(config.url, context.secret(config.token), ca=config.ca) as other:
        yield OtherFleet(other, context.fleet_id, config.url)


@hookimpl
def fleetcore_clouds() -> Iterable[Provider[CloudBackend]]:
    """One connector, named ``fleet``."""
    yield offer_cloud("fleet", FleetToFleetConfig, open_other_fleet)
