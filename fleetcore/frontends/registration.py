"""A device from a free mapping of a script: known members are parameters, all others become attributes."""

from collections.abc import Mapping
from typing import Any

from fleetcore.frontends.catalogue import core

_OWN = frozenset({"id", "type", "reason"})


def registration(properties: Mapping[str, Any] | None) -> dict[str, Any]:
    """The parameters of ``create_device`` from a mapping."""
    more = dict(properties or {})
    known = {parameter.name for parameter in core()["create_device"].parameters} - _OWN
    members = {name: more.pop(name) for name in known & more.keys()}
    if more:
        members["attributes"] = {**members.get("attributes", {}), **more}
    return members
