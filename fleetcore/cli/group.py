"""``fleetcore group``: groups of devices, static or by a query."""

import click

from fleetcore.cli.connect import Target, call, fleet_option
from fleetcore.cli.output import output_option, show

_COLUMNS = ("id", "query", "within", "devices", "description")


@click.group()
def group() -> None:
    """Make groups, static or by a query, and see who is in them."""


@group.command()
@click.argument("name")
@click.option("--query", help="Makes it dynamic: its devices are those that the query selects.")
@click.option("--within", multiple=True, help="A group that it lies in; repeatable.")
@click.option("--description", default="")
@click.option("--reason", default="")
@fleet_option
@output_option
def create(
    name: str, query: str | None, within: tuple[str, ...], description: str, reason: str, at: Target, output: str
) -> None:
    """Make the group NAME."""
    show(
        call(at, "create_group", name, query=query, within=within, description=description, reason=reason), output
    )  # fmt: skip


@group.command("list")
@fleet_option
@output_option
def list_(at: Target, output: str) -> None:
    """List all groups."""
    show(call(at, "list_groups"), output, _COLUMNS)


@group.command("show")
@click.argument("name")
@fleet_option
@output_option
def show_(name: str, at: Target, output: str) -> None:
    """Show the group NAME and its devices."""
    show(call(at, "get_group", name), output)


@group.command()
@click.argument("device")
@fleet_option
@output_option
def of(device: str, at: Target, output: str) -> None:
    """List the groups of DEVICE, with since when and why it is in each."""
    show(call(at, "list_groups", device), output, ("group", "since", "why"))


@group.command()
@click.argument("name")
@click.argument("devices", nargs=-1, required=True)
@click.option("--reason", default="")
@fleet_option
@output_option
def add(name: str, devices: tuple[str, ...], reason: str, at: Target, output: str) -> None:
    """Put DEVICES into the static group NAME."""
    show({"group": name, "added": call(at, "add_to_group", name, devices, reason=reason)}, output)


@group.command()
@click.argument("name")
@click.argument("devices", nargs=-1, required=True)
@click.option("--reason", default="")
@fleet_option
@output_option
def take_out(name: str, devices: tuple[str, ...], reason: str, at: Target, output: str) -> None:
    """Take DEVICES out of the static group NAME."""
    show({"group": name, "taken_out": call(at, "take_out_of_group", name, devices, reason=reason)}, output)


@group.command()
@click.argument("name")
@click.option("--query")
@click.option("--within", multiple=True)
@click.option("--description")
@click.option("--reason", default="")
@fleet_option
@output_option
def change(
    name: str,
    query: str | None,
    within: tuple[str, ...],
    description: str | None,
    reason: str,
    at: Target,
    output: str,
) -> None:
    """Change the query of NAME, where it lies, or its description."""
    given = {"query": query, "within": within or None, "description": description}
    changes = {name: value for name, value in given.items() if value is not None}
    show(call(at, "change_group", name, changes, reason=reason), output)


@group.command()
@click.argument("name")
@click.option("--reason", default="")
@fleet_option
@output_option
def remove(name: str, reason: str, at: Target, output: str) -> None:
    """Remove the group NAME; its devices stay."""
    show(call(at, "remove_group", name, reason=reason), output)
