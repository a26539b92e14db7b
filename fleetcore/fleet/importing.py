"""Bulk registration: rows in, each checked and registered or refused by its line; and the registry as rows again.

A row is an object with ``id`` and, as :meth:`Registry.register` takes them, ``type``, ``model``, ``name``, ``tags``,
``capabilities``, ``attributes``, ``location``, ``gateway``, ``key_id``. What is exported can be imported. Importing the
same rows again registers nothing twice and is no failure, so an import that broke off is simply done again.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from fleetcore.errors import FleetError, Refused
from fleetcore.fleet.operations import Operations
from fleetcore.fleet.registry import Registry
from fleetcore.model.device import ROW_MEMBERS, Device, Location
from fleetcore.model.operation import Operation

KIND = "import"


class Importing:
    """Starts imports, and reads the registry out."""

    def __init__(self, registry: Registry, operations: Operations) -> None:
        self._registry, self._operations = registry, operations
        operations.handle(KIND, self._register)

    async def check(self, rows: Sequence[object]) -> Mapping[int, FleetError]:
        """What is wrong with rows, by place; registers nothing and does not look for taken ids."""
        failed: dict[int, FleetError] = {}
        for place, row in enumerate(rows):
            try:
                await self._prepared(row)
            except FleetError as error:
                failed[place] = error
        return failed

    async def start(self, rows: Sequence[object], *, actor: str = "system", reason: str = "") -> Operation:
        """Starts an import and returns at once."""
        return await self._operations.start(KIND, rows, actor=actor, reason=reason)

    async def _register(self, operation: Operation, rows: Sequence[object]) -> Mapping[int, FleetError]:
        failed: dict[int, FleetError] = {}
        devices: dict[int, Device] = {}
        # A gateway may stand in the same file as its leaves: who has none comes first.
        order = sorted(range(len(rows)), key=lambda place: _gateway(rows[place]) is not None)
        for later in (False, True):
            devices = {}
            for place in order:
                if (_gateway(rows[place]) is not None) is not later:
                    continue
                try:
                    devices[place] = await self._prepared(rows[place])
                except FleetError as error:
                    failed[place] = error
            places = list(devices)
            taken = await self._registry.register_many(
                list(devices.values()), actor=operation.actor, reason=operation.reason
            )
            failed.update({places[at]: error for at, error in taken.items()})
        return failed

    async def _prepared(self, row: object) -> Device:
        if not isinstance(row, Mapping):
            raise Refused("A row is an object with an id")
        unknown = sorted(set(row) - set(ROW_MEMBERS))
        if unknown:
            raise Refused(
                f"A row has no member {', '.join(unknown)}",
                remedy=f"Members: {', '.join(ROW_MEMBERS)}; anything else goes into attributes",
                device=row.get("id"),
            )
        given: dict[str, Any] = {name: value for name, value in row.items() if value not in (None, "")}
        device = given.pop("id", None)
        if not isinstance(device, str):
            raise Refused("A row needs an id")
        try:
            for name in ("tags", "capabilities"):
                given[name] = _texts(given.get(name, []), name)
            if "attributes" in given and not isinstance(given["attributes"], Mapping):
                raise Refused("attributes is an object")
            if "location" in given:
                given["location"] = _location(given["location"])
            kind = given.pop("type", "device")
            if not all(isinstance(given.get(one, ""), str) for one in ("model", "name", "gateway", "key_id")):
                raise Refused("model, name, gateway and key_id are texts")
            return await self._registry.prepared(device, kind, **given)
        except FleetError as error:
            error.ids.setdefault("device", device)
            raise

    async def export(self, after: str | None = None) -> AsyncIterator[Mapping[str, object]]:
        """Every device as a row, in the order of ids, beginning after one."""
        async for device in self._registry.records.iterate(after=after):
            yield row_of(device)


def row_of(device: Device) -> dict[str, object]:
    """A device as a row; members that it does not have are left out."""
    place = device.location
    row: dict[str, object] = {
        "id": device.id,
        "type": device.type,
        "model": device.model,
        "name": device.name,
        "tags": list(device.tags),
        "capabilities": list(device.capabilities),
        "attributes": dict(device.attributes),
        "location": None if place is None else {"lat": place.lat, "lon": place.lon},
        "gateway": device.gateway,
        "key_id": device.key_id,
    }
    return {name: value for name, value in row.items() if value not in (None, [], {})}


def _gateway(row: object) -> object:
    return (row.get("gateway") or None) if isinstance(row, Mapping) else None


def _texts(value: object, name: str) -> list[str]:
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
        raise Refused(f"{name} is a list of texts")
    return list(value)


def _location(value: object) -> Location:
    if isinstance(value, Mapping):
        lat, lon = value.get("lat"), value.get("lon")
        if _degrees(lat, 90) and _degrees(lon, 180):
            return Location(lat=float(lat), lon=float(lon))  # type: ignore[arg-type]  # _degrees saw numbers
    raise Refused("location is {'lat': …, 'lon': …} in degrees")


def _degrees(value: object, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -most <= value <= most
