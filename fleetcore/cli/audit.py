"""``fleetcore audit``: who did what, and whether the log is as it was written."""

from pathlib import Path

import click

from fleetcore.cli.connect import call, data_option
from fleetcore.cli.output import output_option, show

_COLUMNS = ("seq", "time", "actor", "action", "object", "changed", "reason")


@click.group()
def audit() -> None:
    """Read and verify the audit log."""


@audit.command("list")
@click.option("--object", "what", help="Of this device, group, command … only.")
@click.option("--actor", help="By this person, token or device only.")
@click.option("--after", type=click.IntRange(0), default=0, help="Begin after this row.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True)
@data_option
@output_option
def list_(what: str | None, actor: str | None, after: int, limit: int, data: Path, output: str) -> None:
    """List rows in their order."""
    show(call(data, "list_audit", object=what, actor=actor, after=after, limit=limit), output, _COLUMNS)


@audit.command()
@click.option(
    "--checkpoint", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Signed checkpoints to believe."
)
@data_option
@output_option
def verify(checkpoint: Path | None, data: Path, output: str) -> int:
    """Recompute every hash and compare with the signed checkpoints; exit 1 names the first bad row."""
    file = None if checkpoint is None else str(checkpoint.absolute())
    found = call(data, "verify_audit", checkpoints=file)
    show(found, output)
    return 0 if found["ok"] else 1
