"""The calls that this connector may make: rate, permission and purpose, in one table.

A class of calls has one rate. The printed role lists the permissions, and findings name them.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from attrs import frozen

from fleetcore.interfaces.cloud import CloudUse
from fleetcore.model.mirror import Facet
from fleetcore_azure.config import AzureConfig, Tier

#: Throttles by tier and unit; some have a rate that every hub allows, whatever its units.
SOURCE = "https://learn.microsoft.com/azure/iot-hub/iot-hub-devguide-quotas-throttling"

#: Permissions of shared access policies; RegistryWrite includes RegistryRead.
Permission = Literal["RegistryRead", "RegistryWrite", "ServiceConnect", "DeviceConnect"]

_RIGHT = "Microsoft.Devices/IotHubs/"


@frozen(kw_only=True)
class Action:
    """One class of calls.

    Attributes:
        least: the calls per second that every hub allows, whatever its units, by tier.
        a_unit: calls per second per unit, by tier; the higher of both applies.
        rights: its data actions; none if Entra ID does not allow it.
        permission: its permission of a shared access policy.
        why: its purpose.
    """

    least: Mapping[Tier, float]
    a_unit: Mapping[Tier, float]
    rights: Sequence[str]
    permission: Permission
    why: str


def _rate(s1: float, s2: float, s3: float) -> Mapping[Tier, float]:
    return {"S1": s1, "S2": s2, "S3": s3}


_NONE = _rate(0, 0, 0)
_REGISTRY = _rate(1.67, 1.67, 83.33)

ACTIONS: Mapping[str, Action] = {
    "devices/bulk": Action(
        least=_NONE, a_unit=_REGISTRY, rights=(f"{_RIGHT}devices/write", f"{_RIGHT}devices/delete"),
        permission="RegistryWrite", why="creates and removes devices, 100 per call",
    ),
    "devices/read": Action(
        least=_NONE, a_unit=_REGISTRY, rights=(f"{_RIGHT}devices/read",), permission="RegistryRead",
        why="reads an identity before its status or its parent is changed, to keep its keys",
    ),
    "devices/write": Action(
        least=_NONE, a_unit=_REGISTRY, rights=(f"{_RIGHT}devices/write",), permission="RegistryWrite",
        why="writes an identity's status, parent and thumbprints",
    ),
    "twins/read": Action(
        least=_rate(100, 100, 0), a_unit=_rate(0, 10, 500), rights=(f"{_RIGHT}twins/read",),
        permission="ServiceConnect", why="reads a device's twin, its mark and its version",
    ),
    "twins/write": Action(
        least=_rate(50, 50, 0), a_unit=_rate(0, 5, 250), rights=(f"{_RIGHT}twins/write",),
        permission="ServiceConnect", why="writes tags and desired properties",
    ),
    "twins/query": Action(
        least=_NONE, a_unit=_rate(20 / 60, 20 / 60, 1000 / 60), rights=(f"{_RIGHT}twins/read",),
        permission="ServiceConnect", why="finds the devices of this fleet, and those with commands",
    ),
    "links/open": Action(
        least=_rate(100, 0, 0), a_unit=_rate(12, 120, 6000), rights=(), permission="DeviceConnect",
        why="opens a device's connection, which writes its reported properties",
    ),
    "messages/send": Action(
        least=_rate(100, 0, 0), a_unit=_rate(12, 120, 6000), rights=(), permission="DeviceConnect",
        why="sends readings",
    ),
    "messages/receive": Action(
        least=_NONE, a_unit=_rate(16.67, 16.67, 833.33), rights=(), permission="DeviceConnect",
        why="takes cloud-to-device messages, and completes them",
    ),
}  # fmt: skip


def rates(config: AzureConfig) -> Mapping[str, float]:
    """Calls per second of the configured hub; ``[clouds.NAME.rates]`` overrides them."""
    return {
        name: max(action.least[config.tier], action.a_unit[config.tier] * config.units)
        for name, action in ACTIONS.items()
    }


#: facet → the calls to read it, and the further ones to write it. Bulk calls need the permission to delete in any case.
_FACETS: Mapping[Facet, tuple[Sequence[str], Sequence[str]]] = {
    "registry": (("twins/read", "twins/query"), ("devices/bulk", "devices/read", "devices/write", "twins/write")),
    "certificate": (("twins/read", "twins/query"), ("devices/write",)),
    "twin": (("twins/read", "twins/query"), ("twins/write",)),
    "job": (("twins/read", "twins/query"), ("twins/write",)),
}
_COMMANDS: Mapping[str, Sequence[str]] = {
    "desired": ("twins/query", "twins/read", "twins/write"),
    "c2d": ("twins/query", "messages/receive"),
}


def needed(use: CloudUse, config: AzureConfig) -> Sequence[str]:
    """The classes of calls of a mirror with this use and configuration, in the table's order."""
    found: set[str] = set()
    for facet in (use.sends | use.reads) & _FACETS.keys():
        read, written = _FACETS[facet]
        found.update(read)
        if facet in use.sends:
            found.update(written)
    if config.device_link is not None and "twin" in use.sends:
        found.update(("links/open", "twins/query"))
    if use.readings:
        found.update(("messages/send", "twins/read"))  # to report why a device is refused
    if config.commands_by is not None and use.commands:
        found.update(_COMMANDS[config.commands_by])
    return [name for name in ACTIONS if name in found]
