"""``fleetcore backup``: a consistent copy of a data folder, also of a running server."""

from pathlib import Path

import click

from fleetcore.cli.connect import call, data_option


@click.command()
@click.argument("target", type=click.Path(path_type=Path, file_okay=False))
@data_option
def backup(target: Path, data: Path) -> None:
    """Copy the data folder into TARGET, a new or empty folder. It holds the CA's keys: guard it."""
    call(data, "backup", str(target.resolve()))
    click.echo(f"Copied {data} to {target}. Back to work with it: fleetcore restore {target} --data NEW-FOLDER")
