"""``fleetcore twin``: the desired state of a device, and its reports."""

import json
from collections.abc import Sequence
from typing import Any

import click

from fleetcore.cli.derived import command, pair
from fleetcore.errors import Refused
from fleetcore.frontends.catalogue import core
from fleetcore.wire import strict_json


@click.group()
def twin() -> None:
    """Show and change the desired state of a device."""


@twin.group()
def layer() -> None:
    """The desired state of many devices: of the fleet, a group or a policy."""


def as_object(_context: click.Context, parameter: click.Parameter, words: Sequence[str]) -> str | None:
    """A JSON object from typed text: the object itself, or NAME=VALUE words. Raises Refused."""
    if not words:
        return None
    if "=" in words[0] and not words[0].startswith("{"):
        return json.dumps(dict(map(pair, words)))
    what, remedy = str(parameter.name), """Write it as in interval=60, or as in '{"interval": 60}'"""
    try:
        found: Any = strict_json.loads(" ".join(words).encode())
    except strict_json.StrictJsonError as error:
        raise Refused(f"/{what}: this is not JSON: {error.reason}", remedy=remedy) from None
    if not isinstance(found, dict):
        raise Refused(f"/{what}: this is not a JSON object", remedy=remedy)
    return " ".join(words)


def object_argument(name: str, *, required: bool = True) -> click.Argument:
    """An argument that takes a JSON object, or NAME=VALUE words."""
    said = "The object's members; VALUE may be JSON. Or the whole object as JSON."
    metavar = "NAME=VALUE…" if required else "[NAME=VALUE…]"
    return click.Argument([name], nargs=-1, required=required, metavar=metavar, callback=as_object, help=said)


for _name in ("set_desired", "set_attributes", "set_layer"):
    _call = core()[_name]
    (layer if _name == "set_layer" else twin).add_command(
        command(_call, _call.command, {}, options=[object_argument("patch")])
    )
