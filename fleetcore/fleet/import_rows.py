"""A device as a row of an import or export, and the comparison of a row with a device.

A row is an object with ``id`` and, as :meth:`Registry.register` takes them, ``type``, ``model``, ``name``, ``tags``,
``capabilities``, ``attributes``, ``location``, ``gateway``, ``key_id``. An export can be imported.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

from msgspec import json

from fleetcore.errors import FleetError, Refused
from fleetcore.fleet.registry import Registry
from fleetcore.model.device import ROW_MEMBERS, Device, Location

_MEMBERS = frozenset(ROW_MEMBERS)
_TEXTS = ("model", "name", "gateway", "key_id")
_CANONICAL = json.Encoder(order="sorted")


def device_of(registry: Registry, row: object) -> Device:
    """The device that a row describes, validated by itself: neither its id nor its gateway is looked up.

    Raises:
        Refused: with the row's id in ``ids``, where it has one.
    """
    if type(row) is not dict and not isinstance(row, Mapping):
        raise Refused("A row must be an object with an id")
    if not _MEMBERS.issuperset(row):
        unknown = sorted(str(name) for name in set(row) - _MEMBERS)
        raise Refused(
            f"A row cannot have {', '.join(unknown)}",
            remedy=f"Members: {', '.join(ROW_MEMBERS)}; put anything else into attributes",
            device=row.get("id"),
        )
    given: dict[str, Any] = {name: value for name, value in row.items() if value or value not in (None, "")}
    device = given.pop("id", None)
    if not isinstance(device, str):
        raise Refused("A row needs an id")
    try:
        for name in ("tags", "capabilities"):
            if name in given:
                given[name] = _texts(given[name], name)
        if "attributes" in given and not isinstance(given["attributes"], Mapping):
            raise Refused("attributes must be an object")
        if "location" in given:
            given["location"] = _location(given["location"])
        for name in _TEXTS:
            if name in given and not isinstance(given[name], str):
                raise Refused("model, name, gateway and key_id must be texts")
        return registry.checked(device, given.pop("type", "device"), **given)
    except FleetError as error:
        error.ids.setdefault("device", device)
        raise


def row_of(device: Device) -> dict[str, object]:
    """A device as a row; empty members are left out."""
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


def mark(device: Device) -> bytes:
    """A digest of 16 bytes, equal for devices with equal rows; ``1`` and ``1.0`` are the same number."""
    return hashlib.blake2b(_CANONICAL.encode(_whole(row_of(device))), digest_size=16).digest()


def _whole(value: object) -> object:
    match value:
        case Mapping():
            return {name: _whole(inner) for name, inner in value.items()}
        case list() | tuple():
            return [_whole(inner) for inner in value]
        case float() if value.is_integer():
            return int(value)
        case _:
            return value


def _texts(value: object, name: str) -> list[str]:
    if isinstance(value, list | tuple):
        for text in value:
            if not isinstance(text, str):
                break
        else:
            return list(value)
    raise Refused(f"{name} must be a list of texts")


def _location(value: object) -> Location:
    if isinstance(value, Mapping):
        lat, lon = value.get("lat"), value.get("lon")
        if _degrees(lat, 90) and _degrees(lon, 180):
            return Location(lat=float(lat), lon=float(lon))  # type: ignore[arg-type]  # _degrees saw numbers
    raise Refused("location must be {'lat': …, 'lon': …} in degrees")


def _degrees(value: object, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -most <= value <= most
