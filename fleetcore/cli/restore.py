"""``fleetcore restore``: a data folder from a backup."""

from pathlib import Path

import click

from fleetcore.cli.connect import data_option
from fleetcore.cli.derived import value
from fleetcore.errors import StorageError
from fleetcore.frontends.catalogue import core


@click.command()
@click.argument("source", type=click.Path(path_type=Path, file_okay=False, exists=True))
@data_option
def restore(source: Path, data: Path) -> None:
    """Make the data folder (--data, new or empty) from the backup SOURCE, and check it.

    Every file is compared with the backup's manifest first. Where something is wrong, no folder is left behind.
    """
    from fleetcore.runtime.backup import remove
    from fleetcore.runtime.backup import restore as copy

    mine = not data.exists()
    verified = copy(source, data)
    try:
        wrong = value(data, core()["check_storage"], {})["problems"]
        if wrong:
            raise StorageError(f"The restored data has faults: {'; '.join(wrong)}", remedy="Take another backup")
    except BaseException:
        remove(data, folder_too=mine)
        raise
    if not verified:
        click.echo(f"{source} has no manifest: damage of its files cannot be seen.", err=True)
    click.echo(f"Restored {source} to {data}. Next: fleetcore serve --data {data}")
