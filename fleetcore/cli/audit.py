"""``fleetcore audit``: who did what, and whether the log is as it was written."""

import json
import time
from pathlib import Path
from typing import Any

import click

from fleetcore.cli.connect import Target, call, fleet_option
from fleetcore.cli.exits import printable
from fleetcore.cli.output import output_option, show

_COLUMNS = ("seq", "time", "actor", "action", "object", "changed", "reason")


#: How often --follow looks.
_LOOK_S = 1.0


def _line(row: dict[str, Any]) -> str:
    changed = f" {', '.join(row['changed'])}" if row["changed"] else ""
    why = f" ({row['reason']})" if row["reason"] else ""
    return printable(f"{row['time']} {row['actor']}: {row['action']} {row['object']}{changed}{why}")


@click.group()
def audit() -> None:
    """Read and verify the audit log."""


@audit.command("list")
@click.option("--object", "what", help="Of this device, group, command … only.")
@click.option("--actor", help="By this person, token or device only.")
@click.option("--after", type=click.IntRange(0), default=0, help="Begin after this row.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True)
@click.option("--follow", is_flag=True, help="Go on with what happens, a line each, until interrupted.")
@fleet_option
@output_option
def list_(what: str | None, actor: str | None, after: int, limit: int, follow: bool, at: Target, output: str) -> None:
    """List rows in their order."""
    while True:
        rows = call(at, "list_audit", object=what, actor=actor, after=after, limit=limit)
        if not follow:
            show(rows, output, _COLUMNS)
            return
        for row in rows:
            click.echo(json.dumps(row) if output in ("json", "jsonl") else _line(row))
        after = max((row["seq"] for row in rows), default=after)
        if len(rows) < limit:
            time.sleep(_LOOK_S)


@audit.command()
@click.option(
    "--checkpoint", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Signed checkpoints to believe."
)
@fleet_option
@output_option
def verify(checkpoint: Path | None, at: Target, output: str) -> int:
    """Recompute every hash and compare with the signed checkpoints; exit 1 names the first bad row."""
    lines = None if checkpoint is None else checkpoint.read_text(encoding="utf-8", errors="replace").splitlines()
    found = call(at, "verify_audit", checkpoints=lines)
    show(found, output)
    return 0 if found["ok"] else 1
