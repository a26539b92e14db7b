"""``fleetcore audit``: reads the audit log and verifies that it is unchanged."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from fleetcore.cli.connect import Target, fleet_option
from fleetcore.cli.derived import command, items, value
from fleetcore.cli.exits import printable
from fleetcore.cli.output import output_option, show
from fleetcore.frontends.catalogue import core

#: The maximum of a call.
_CHECKPOINTS = 250
#: How often --follow checks for new rows.
_LOOK_S = 1.0


def _line(row: dict[str, Any]) -> str:
    changed = f" {', '.join(row['changed'])}" if row["changed"] else ""
    what = f" {row['name']}" if row["name"] else ""
    where = f" on {row['device']}" if row["device"] else ""
    why = f" ({row['reason']})" if row["reason"] else ""
    return printable(f"{row['time']} {row['actor']}: {row['action']} {row['object']}{what}{where}{changed}{why}")


@click.group()
def audit() -> None:
    """Read and verify the audit log."""


def _follow(at: Target, given: Mapping[str, Any], rows: list[dict[str, Any]], output: str, *, follow: bool) -> Any:
    if not follow:
        return rows
    after = int(given.get("after") or 0)
    rows = sorted(rows, key=lambda row: row["seq"])
    while True:
        for row in rows:
            click.echo(json.dumps(row) if output in ("json", "jsonl") else _line(row))
        after = max((row["seq"] for row in rows), default=after)
        time.sleep(_LOOK_S)
        rows = items(at, core()["list_audit"], {**given, "after": after})


_FOLLOW = click.Option(["--follow"], is_flag=True, help="Continue with new events, a line each, until interrupted.")
audit.add_command(command(core()["list_audit"], "audit list", {}, options=[_FOLLOW], finish=_follow))


@audit.command()
@click.option(
    "--checkpoint",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The signed checkpoints to verify against.",
)
@fleet_option
@output_option
def verify(checkpoint: Path | None, at: Target, output: str) -> int:
    """Recompute every hash and compare with the signed checkpoints; exit 1 names the first bad row."""
    given: dict[str, Any] = {}
    if checkpoint is not None:
        # The chain binds each row to all before it: a checkpoint of the newest rows covers the older ones too.
        given["checkpoints"] = checkpoint.read_text(encoding="utf-8", errors="replace").splitlines()[-_CHECKPOINTS:]
    found = value(at, core()["verify_audit"], given)
    show(found, output, members=core()["verify_audit"].members)
    return 0 if found["ok"] else 1
