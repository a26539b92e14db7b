"""``fleetcore restore``: a data folder from a backup."""

import asyncio
import shlex
from pathlib import Path

import click

from fleetcore.cli.connect import connect, data_option
from fleetcore.cli.progress import bytes_progress
from fleetcore.cli.verifying import verified_store
from fleetcore.errors import StorageError


@click.command()
@click.argument(
    "source", type=click.Path(path_type=Path, file_okay=False, exists=True), help="The folder of the backup."
)
@click.option("--unverified", is_flag=True, help="Accept a backup without a manifest, of an earlier release.")
@data_option
def restore(source: Path, data: Path, unverified: bool) -> None:
    """Create the data folder (--data, new or empty) from the backup SOURCE, and check it.

    Every file is first compared with the backup's manifest. If something is wrong, no folder is left behind.
    """
    from fleetcore.runtime import manifest
    from fleetcore.runtime.backup import remove
    from fleetcore.runtime.backup import restore as copy

    mine = not data.exists()
    with bytes_progress("Verifying the backup", manifest.size(source)) as read:
        copy(source, data, unverified=unverified, read=read)
    try:
        asyncio.run(_check(data))
    except BaseException:
        remove(data, folder_too=mine)
        raise
    click.echo(f"Restored {source} to {data}. Next: fleetcore serve --data {shlex.quote(str(data))}")


async def _check(data: Path) -> None:
    async with connect(data) as caller:
        wrong, _unread = await verified_store(caller)
    if wrong:
        raise StorageError(f"The restored data has faults: {' '.join(wrong).rstrip('.')}", remedy="Take another backup")
