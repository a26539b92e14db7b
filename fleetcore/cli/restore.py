"""``fleetcore restore``: a data folder from a backup."""

from pathlib import Path

import click

from fleetcore.cli.connect import call, data_option
from fleetcore.errors import StorageError


@click.command()
@click.argument("source", type=click.Path(path_type=Path, file_okay=False, exists=True))
@data_option
def restore(source: Path, data: Path) -> None:
    """Make the data folder (--data, new or empty) from the backup SOURCE, and check it."""
    from fleetcore.runtime.backup import restore as copy

    copy(source, data)
    wrong = call(data, "check_storage")
    if wrong:
        raise StorageError(f"The restored data has faults: {'; '.join(wrong)}")
    click.echo(f"Restored {source} to {data}. Next: fleetcore serve --data {data}")
