"""``fleetcore health``: how well the fleet, a group or a device is, and why."""

import click

from fleetcore.cli.connect import Target, call, fleet_option
from fleetcore.cli.exits import printable
from fleetcore.cli.output import output_option, show


@click.group()
def health() -> None:
    """See how well the fleet, a group or a device is, and why."""


@health.command()
@click.argument("id")
@fleet_option
@output_option
def device(id: str, at: Target, output: str) -> None:
    """Show what bears on device ID: what is not as it should be first."""
    found = call(at, "why_device", id)
    if output != "table":
        show(found, output)
        return
    click.echo(f"{id}: {found['health']['score']:g} of 100")
    for sentence in found["findings"] or ["all is as it should be"]:
        click.echo(f"  {printable(sentence)}")
    click.echo(f"  (-o json shows all: {', '.join(name for name in found if found[name])})")
