"""``fleetcore device``: register, show and change devices, and give them credentials."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from fleetcore.cli.connect import Target, connect, fleet_option
from fleetcore.cli.derived import command, value
from fleetcore.cli.exits import printable
from fleetcore.cli.output import output_option
from fleetcore.errors import Conflict
from fleetcore.frontends.catalogue import core


@click.group()
def device() -> None:
    """Register, show and change devices."""


def _enrolled(
    at: Target, _given: Mapping[str, Any], answer: dict[str, Any], _output: str, *, enroll: bool
) -> dict[str, Any]:
    if not enroll:
        return answer
    made = value(at, core()["create_enrollment_token"], {"device": answer["id"]})
    return {**answer, "enrollment_token": made["token"]}


_ENROLL = click.Option(["--enroll"], is_flag=True, help="Print a one-time enrolment token for it.")
device.add_command(
    command(core()["create_device"], "device register ID", {}, options=[_ENROLL], finish=_enrolled), "register"
)


def _explained(_at: Target, _given: Mapping[str, Any], answer: dict[str, Any], output: str) -> dict[str, Any] | None:
    if output != "table":
        return answer
    click.echo(f"{answer['device']} is {'' if answer['selected'] else 'not '}selected")
    for line in answer["why"]:
        click.echo(printable(line))
    return None


device.add_command(command(core()["explain_query"], core()["explain_query"].command, {}, finish=_explained))


@device.command("import")
@click.argument(
    "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="CSV with a header, or JSONL."
)
@click.option("--dry-run", is_flag=True, help="Only show what it would do.")
@click.option("--reason", default="", help="The reason, for the audit log.")
@fleet_option
@output_option
def import_(file: Path, dry_run: bool, reason: str, at: Target, output: str) -> int:
    """Register the devices of FILE: CSV with a header, or JSONL. Each failed line is named; exit 7 if there is one.

    Importing the same file again changes nothing, so an interrupted import can be repeated.
    """
    import asyncio

    from fleetcore.cli.operation import conclude
    from fleetcore.cli.sending import send_rows

    async def run() -> tuple[dict[str, Any], Sequence[int]]:
        async with connect(at) as caller:
            return await send_rows(caller, file, dry_run=dry_run, reason=reason)

    ended, lines = asyncio.run(run())
    return conclude(ended, output, lines)


@device.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), help="A new file, .csv or .jsonl.")
@fleet_option
def export(file: Path, at: Target) -> None:
    """Write all devices to FILE, as CSV or JSONL by its name; `import` reads it."""
    import asyncio

    from fleetcore.cli.rows import Writer
    from fleetcore.frontends.catalogue import PAGE
    from fleetcore.model.device import ROW_MEMBERS

    async def run() -> int:
        count, cursor = 0, None
        with file.open("x", encoding="utf-8", newline="") as target:
            writer = Writer(target, ROW_MEMBERS, as_csv=file.suffix.lower() == ".csv")
            async with connect(at) as caller:
                while True:
                    page = await caller.run("list_device_rows", {"limit": PAGE, "cursor": cursor})
                    for row in page["items"]:
                        writer.write(row)
                    count, cursor = count + len(page["items"]), page["next"]
                    if cursor is None:
                        return count

    try:
        count = asyncio.run(run())
    except FileExistsError:
        raise Conflict(f"{file} exists already", remedy="Name another file") from None
    click.echo(f"{count} devices")
