"""A device from a free mapping, as a script has it: known members are what they are, all others are attributes."""

from collections.abc import Mapping
from typing import Any

from fleetcore.frontends.catalogue import core

_OWN = frozenset({"id", "type", "reason"})


def registration(properties: Mapping[str, Any] | None) -> dict[str, Any]:
    """The parameters of ``create_device`` that a mapping stands for."""
    more = dict(properties or {})
    known = {parameter.name for parameter in core()["create_device"].parameters} - _OWN
    members = {name: more.pop(name) for name in known & more.keys()}
    if more:
        members["attributes"] = {**members.get("attributes", {}), **more}
    return members
