"""``fleetcore adopt``: completes a data folder of which a part has no fleet id, or is permanently lost."""

import asyncio
import shlex
from pathlib import Path

import click

from fleetcore.cli.connect import data_option


@click.command()
@data_option
@click.option("--name", help="The fleet's name, if fleet.toml is lost; by default the one in its certificates.")
@click.option(
    "--new-ca", is_flag=True, help="pki/ is permanently lost: create a new CA. Every device has to enrol again."
)
@click.option("--empty-store", is_flag=True, help="The store is permanently lost: start without devices and readings.")
def adopt(data: Path, name: str | None, new_ca: bool, empty_store: bool) -> None:
    """Write the fleet's id into the parts of the data folder without one, and create the parts named as lost.

    A fleet's id is in fleet.toml, in the store and in pki/. Restore a lost part from a backup if there is one: what
    this command creates is empty.
    """
    from fleetcore.runtime.adopt import adopt as complete
    from fleetcore.runtime.identity import Adoption

    adoption = Adoption(new_ca=new_ca, empty_store=empty_store)
    before, fleet = asyncio.run(complete(data, adoption, name=name))
    for part, named in (("fleet.toml", before.toml_id), ("pki/", before.keys_id)):
        click.echo(f"{part:12}{'was of this fleet' if named == fleet else 'is now of this fleet'}")
    click.echo(f"{data} holds the fleet {fleet}. Next: fleetcore doctor --data {shlex.quote(str(data))}")
