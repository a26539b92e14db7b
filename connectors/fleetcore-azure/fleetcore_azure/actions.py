"""The calls that this connector may make: at which rate, by which right, and what for. One table for all who ask.

A class of calls has one rate. The printed role lists the rights, and findings name them.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from attrs import frozen

from fleetcore.interfaces.cloud import CloudUse
from fleetcore.model.mirror import Facet
from fleetcore_azure.config import AzureConfig, Tier

#: Throttles by tier and unit; those of twins are of a hub at the least.
SOURCE = "https://learn.microsoft.com/azure/iot-hub/iot-hub-devguide-quotas-throttling"

#: Of shared access policies; RegistryWrite includes RegistryRead.
Permission = Literal["RegistryRead", "RegistryWrite", "ServiceConnect", "DeviceConnect"]

_RIGHT = "Microsoft.Devices/IotHubs/"


@frozen(kw_only=True)
class Action:
    """One class of calls.

    Attributes:
        least: calls a second that a hub has at the least, by tier.
        a_unit: calls a second that each unit adds, by tier; the higher of both counts.
        rights: the data actions that it needs; none where Entra ID does not open it.
        permission: what it needs of a shared access policy.
        why: what it is for.
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
        permission="RegistryWrite", why="makes and removes devices, 100 a call",
    ),
    "devices/read": Action(
        least=_NONE, a_unit=_REGISTRY, rights=(f"{_RIGHT}devices/read",), permission="RegistryRead",
        why="reads an identity before its status or its parent is changed, so that it keeps its keys",
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
        why="opens a device's connection, by which its reported properties are written",
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
    """Calls a second of the configured hub; ``[clouds.NAME.rates]`` overrides them."""
    return {
        name: max(action.least[config.tier], action.a_unit[config.tier] * config.units)
        for name, action in ACTIONS.items()
    }


#: facet → to read it, and beside these to write it. Bulk calls need the right to delete, whatever they do.
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
    """The classes of calls of a mirror so used and configured, in the table's order."""
    found: set[str] = set()
    for facet in (use.sends | use.reads) & _FACETS.keys():
        read, written = _FACETS[facet]
        found.update(read)
        if facet in use.sends:
            found.update(written)
    if config.device_link is not None and "twin" in use.sends:
        found.update(("links/open", "twins/query"))
    if use.readings:
        found.update(("messages/send", "twins/read"))  # which tells why a device is refused
    if config.commands_by is not None and use.commands:
        found.update(_COMMANDS[config.commands_by])
    return [name for name in ACTIONS if name in found]
