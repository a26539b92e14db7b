"""``fleetcore adopt``: completes a data folder whose parts name no fleet, or of which a part is lost for good."""

import asyncio
from pathlib import Path

import click
from attrs import evolve

from fleetcore.cli.connect import data_option
from fleetcore.errors import ConfigError


@click.command()
@data_option
@click.option("--name", help="The fleet's name, where fleet.toml is lost; by default what its certificates say.")
@click.option("--new-ca", is_flag=True, help="pki/ is lost for good: make another CA. Every device has to enrol again.")
@click.option("--empty-store", is_flag=True, help="The store is lost for good: begin with no device and no reading.")
def adopt(data: Path, name: str | None, new_ca: bool, empty_store: bool) -> None:
    """Write the fleet's id into the parts of the data folder that name none, and make what is named as lost.

    A fleet's id stands in fleet.toml, in the store and in pki/. Restore a lost part from a backup instead where there
    is one: what this command makes anew is empty.
    """
    from fleetcore.fleet.security.folder import fleet_name
    from fleetcore.runtime.app import Fleet
    from fleetcore.runtime.config import Config, FleetSection, load
    from fleetcore.runtime.identity import Adoption, look

    if not data.is_dir():
        raise ConfigError(f"There is no data folder {data}", remedy="Name the folder of a fleet with --data")
    toml = data / "fleet.toml"
    config = load(toml) if toml.is_file() else Config()
    if config.data is None:
        known = name or fleet_name(data / "pki") or config.fleet.name
        section = config.fleet if toml.is_file() else FleetSection(name=known)
        config = evolve(config, fleet=evolve(section, data="." if config.file else str(data)))
    before = look(config)

    async def complete() -> str:
        adoption = Adoption(new_ca=new_ca, empty_store=empty_store)
        fleet = await Fleet.open(config, create=False, adoption=adoption)
        await fleet.close()
        return fleet.id

    fleet = asyncio.run(complete())
    for part, named in (("fleet.toml", before.toml_id), ("pki/", before.keys_id)):
        click.echo(f"{part:12}{'was of this fleet' if named == fleet else 'is now of this fleet'}")
    click.echo(f"{data} holds the fleet {fleet}. Next: fleetcore doctor --data {data}")
