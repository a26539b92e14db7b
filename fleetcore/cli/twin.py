"""``fleetcore twin``: what is wanted of a device, and what it reports."""

from typing import Any

import click

from fleetcore.cli.connect import Target, call, fleet_option
from fleetcore.cli.output import output_option, show
from fleetcore.errors import Refused
from fleetcore.wire import strict_json


@click.group()
def twin() -> None:
    """Show and change what is wanted of a device."""


def patch_of(text: str, what: str = "patch") -> dict[str, Any]:
    """A JSON object from the command line, read as strictly as a device's; raises Refused."""
    try:
        patch = strict_json.loads(text.encode())
    except strict_json.StrictJsonError as error:
        message = f"The {what} is no JSON: {error.reason}"
        raise Refused(message, remedy="""Write it as in '{"interval": 60}'""") from None
    if not isinstance(patch, dict):
        raise Refused(f"The {what} is no JSON object", remedy="""Write it as in '{"interval": 60}'""")
    return patch


@twin.command("show")
@click.argument("device")
@fleet_option
@output_option
def show_(device: str, at: Target, output: str) -> None:
    """Show the twin of DEVICE: desired, reported, and what differs."""
    show(call(at, "get_twin", device), output)


@twin.command("set")
@click.argument("device")
@click.argument("patch")
@click.option("--if-version", type=click.IntRange(0), help="Only where the section is at this version.")
@click.option("--reason", default="")
@fleet_option
@output_option
def set_(device: str, patch: str, if_version: int | None, reason: str, at: Target, output: str) -> None:
    """Merge PATCH, a JSON object (RFC 7396: null deletes), into what is desired of DEVICE."""
    show(call(at, "set_desired", device, patch_of(patch), if_version=if_version, reason=reason), output)


@twin.command()
@click.argument("device")
@click.option("--section", type=click.Choice(["desired", "reported"]), default="desired", show_default=True)
@fleet_option
@output_option
def history(device: str, section: str, at: Target, output: str) -> None:
    """Show the kept changes of a section of DEVICE, the newest first, with what would take each back."""
    show(call(at, "twin_history", device, section), output)


@twin.command()
@click.argument("device")
@click.argument("time")
@click.option("--section", type=click.Choice(["desired", "reported"]), default="desired", show_default=True)
@fleet_option
@output_option
def at(device: str, time: str, section: str, at: Target, output: str) -> None:
    """Show a section of DEVICE as it was at TIME, RFC 3339 or ms since the epoch."""
    show(call(at, "twin_as_of", device, int(time) if time.isdigit() else time, section), output)


@twin.group()
def layer() -> None:
    """What is desired of many devices: of the fleet, a group, or by a policy."""


@layer.command("set")
@click.argument("name")
@click.argument("patch")
@click.option("--kind", type=click.Choice(["fleet", "group", "policy"]), default="fleet", show_default=True)
@click.option("--group", help="Whose devices it is for.")
@click.option("--priority", type=int, default=0, help="Among layers of a kind the greater overrides.")
@click.option("--if-version", type=click.IntRange(0))
@click.option("--reason", default="")
@fleet_option
@output_option
def layer_set(name: str, patch: str, at: Target, output: str, **options: Any) -> None:
    """Merge PATCH, a JSON object, into the layer NAME; its devices follow."""
    show(call(at, "set_layer", name, patch_of(patch), **options), output)


@layer.command("list")
@fleet_option
@output_option
def layer_list(at: Target, output: str) -> None:
    """List all layers, the weakest first."""
    show(call(at, "list_layers"), output, ("id", "kind", "group", "priority", "section"))


@layer.command("remove")
@click.argument("name")
@click.option("--reason", default="")
@fleet_option
@output_option
def layer_remove(name: str, reason: str, at: Target, output: str) -> None:
    """Remove the layer NAME; its devices fall back to what is below it."""
    show(call(at, "remove_layer", name, reason=reason), output)
