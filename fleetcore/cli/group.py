"""``fleetcore group``: groups of devices, static or by a query."""

from pathlib import Path

import click

from fleetcore.cli.connect import call, data_option
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
@data_option
@output_option
def create(
    name: str, query: str | None, within: tuple[str, ...], description: str, reason: str, data: Path, output: str
) -> None:
    """Make the group NAME."""
    show(
        call(data, "create_group", name, query=query, within=within, description=description, reason=reason), output
    )  # fmt: skip


@group.command("list")
@data_option
@output_option
def list_(data: Path, output: str) -> None:
    """List all groups."""
    show(call(data, "list_groups"), output, _COLUMNS)


@group.command("show")
@click.argument("name")
@data_option
@output_option
def show_(name: str, data: Path, output: str) -> None:
    """Show the group NAME and its devices."""
    show(call(data, "get_group", name), output)


@group.command()
@click.argument("device")
@data_option
@output_option
def of(device: str, data: Path, output: str) -> None:
    """List the groups of DEVICE, with since when and why it is in each."""
    show(call(data, "list_groups", device), output, ("group", "since", "why"))


@group.command()
@click.argument("name")
@click.argument("devices", nargs=-1, required=True)
@click.option("--reason", default="")
@data_option
@output_option
def add(name: str, devices: tuple[str, ...], reason: str, data: Path, output: str) -> None:
    """Put DEVICES into the static group NAME."""
    show({"group": name, "added": call(data, "add_to_group", name, devices, reason=reason)}, output)


@group.command()
@click.argument("name")
@click.argument("devices", nargs=-1, required=True)
@click.option("--reason", default="")
@data_option
@output_option
def take_out(name: str, devices: tuple[str, ...], reason: str, data: Path, output: str) -> None:
    """Take DEVICES out of the static group NAME."""
    show({"group": name, "taken_out": call(data, "take_out_of_group", name, devices, reason=reason)}, output)


@group.command()
@click.argument("name")
@click.option("--query")
@click.option("--within", multiple=True)
@click.option("--description")
@click.option("--reason", default="")
@data_option
@output_option
def change(
    name: str,
    query: str | None,
    within: tuple[str, ...],
    description: str | None,
    reason: str,
    data: Path,
    output: str,
) -> None:
    """Change the query of NAME, where it lies, or its description."""
    given = {"query": query, "within": within or None, "description": description}
    changes = {name: value for name, value in given.items() if value is not None}
    show(call(data, "change_group", name, changes, reason=reason), output)


@group.command()
@click.argument("name")
@click.option("--reason", default="")
@data_option
@output_option
def remove(name: str, reason: str, data: Path, output: str) -> None:
    """Remove the group NAME; its devices stay."""
    show(call(data, "remove_group", name, reason=reason), output)
