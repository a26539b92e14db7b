"""``fleetcore backup``: a consistent copy of a data folder, also of a running server."""

from pathlib import Path

import click

from fleetcore.cli.connect import data_option
from fleetcore.cli.derived import value
from fleetcore.cli.output import output_option, show
from fleetcore.frontends.catalogue import core


@click.command()
@click.argument("target", type=click.Path(path_type=Path, file_okay=False))
@data_option
@output_option
def backup(target: Path, data: Path, output: str) -> None:
    """Copy the data folder into TARGET, a new or empty folder. It holds the CA's keys: guard it."""
    answer = value(data, core()["back_up"], {"target": str(target.resolve())})
    if output != "table":
        show(answer, output)
        return
    click.echo(f"Copied {data} to {target}. Back to work with it: fleetcore restore {target} --data NEW-FOLDER")
