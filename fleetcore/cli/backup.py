"""``fleetcore backup``: copies a data folder consistently, also of a running server, and verifies a copy."""

import shlex
from pathlib import Path

import click

from fleetcore.cli.connect import data_option
from fleetcore.cli.derived import value
from fleetcore.cli.output import output_option, show
from fleetcore.cli.progress import bytes_progress
from fleetcore.errors import StorageError
from fleetcore.frontends.catalogue import core


class _Backup(click.Group):
    """``backup FOLDER`` is short for ``backup make FOLDER``."""

    #: The command used when none is named.
    default = "make"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            args = [self.default, *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Backup)
def backup() -> None:
    """Copy a data folder, also of a running server; verify a copy. ``backup FOLDER`` is ``backup make FOLDER``."""


@backup.command()
@click.argument("target", type=click.Path(path_type=Path, file_okay=False), help="A new or empty folder.")
@data_option
@output_option
def make(target: Path, data: Path, output: str) -> int:
    """Copy the data folder into TARGET, a new or empty folder. It holds the CA's keys: protect it."""
    answer = value(data, core()["back_up"], {"target": str(target.resolve())})
    if output != "table":
        show(answer, output)
        return int(bool(answer["problems"]))
    if answer["problems"]:
        raise StorageError(
            f"{target} is written, but the copied data is damaged: {' '.join(answer['problems']).rstrip('.')}",
            code="data_damaged",
            remedy="Keep earlier backups; `fleetcore restore` restores one",
        )
    place = shlex.quote(str(target))
    click.echo(f"Copied {data} to {target}. To restore it: fleetcore restore {place} --data NEW-FOLDER")
    return 0


@backup.command()
@click.argument(
    "folder", type=click.Path(path_type=Path, file_okay=False, exists=True), help="The folder of the backup."
)
@output_option
def verify(folder: Path, output: str) -> None:
    """Read all of the backup FOLDER and compare it with its manifest. Nothing is changed."""
    from fleetcore.runtime import manifest
    from fleetcore.runtime.backup import verify as read_all
    from fleetcore.wire.times import Ms

    size = manifest.size(folder)
    with bytes_progress("Verifying the backup", size) as read:
        found = read_all(folder, read)
    if found is None:
        raise manifest.missing(folder, "Make another backup: an earlier release wrote this one")
    answer = {"fleet": found.fleet, "name": found.name, "made": str(Ms(found.made)), "files": len(found.files)}
    if output != "table":
        show({**answer, "bytes": size}, output)
        return
    click.echo(
        f"{folder} is intact: {len(found.files)} files, {size:,} bytes, of fleet {found.name} ({found.fleet[:8]}), "
        f"made at {answer['made']}."
    )
