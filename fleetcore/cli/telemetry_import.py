"""``fleetcore telemetry import``: sends the readings of a file to a fleet, part by part.

Device, metric and time identify a reading, so an interrupted import is simply started again: stored readings are
counted as duplicates.
"""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import click

from fleetcore.cli.connect import Caller, Target, connect, fleet_option
from fleetcore.cli.exits import printable
from fleetcore.cli.output import output_option, show
from fleetcore.cli.readings_file import NA, Layout, count_lines, guess, readings
from fleetcore.cli.refused import by_reason, exit_code
from fleetcore.errors import CODES

_HINTS = {
    "device_unknown": "register them: `fleetcore device import`, or `fleetcore device register ID`",
    "time_unit": "--time-unit sets the unit of epochs",
    "time_invalid": "--date-order, --time-unit or --time-column",
    "time_in_future": "--zone sets the time zone of the file",
    "unit_mismatch": "--unit METRIC=UNIT, or leave the unit out",
    "payload_unreadable": "a line of JSONL must be one JSON object",
    "number_not_finite": "leave such a cell empty, or name it with --na",
}
#: Refused readings that are listed with their lines.
_NAMED = 10


@click.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="CSV, JSONL or Parquet.")
@click.option("--dry-run", is_flag=True, help="Only show how the file is read and what would be stored.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "jsonl", "parquet"]),
    help="The file's format; by its name, if not given.",
)
@click.option("--device", help="The device of all rows.")
@click.option("--device-column", help="The column with the device.")
@click.option("--time-column", help="The column with the time.")
@click.option("--metric-column", help="In a long file, the column with the metric.")
@click.option("--value-column", help="In a long file, the column with the value.")
@click.option("--unit-column", help="The column with the unit.")
@click.option("--unit", "units", multiple=True, metavar="METRIC=UNIT", help="The unit of a metric; repeatable.")
@click.option("--delimiter", help="Between cells; \\t is a tab.")
@click.option("--decimal", type=click.Choice([".", ","]), help="The decimal mark of numbers.")
@click.option(
    "--date-order", type=click.Choice(["ymd", "dmy", "mdy"]), help="The order of day, month and year in dates."
)
@click.option("--time-unit", type=click.Choice(["s", "ms", "us", "ns"]), help="The unit of times that are numbers.")
@click.option("--zone", help="The time zone of times without one, such as Europe/Berlin; UTC if not given.")
@click.option("--na", multiple=True, help="A cell that means no value; repeatable.")
@fleet_option
@output_option
def import_(
    file: Path, dry_run: bool, units: tuple[str, ...], na: tuple[str, ...], at: Target, output: str, **given: Any
) -> int:
    """Store the readings of FILE: CSV, JSONL or Parquet, a column for each metric or one of metrics and one of values.

    The layout of the file is guessed and shown. Devices must be registered. Importing the same file again changes
    nothing. Exit 7 if readings are refused.
    """
    if given["delimiter"] == "\\t":
        given["delimiter"] = "\t"
    by_metric = {}
    for pair in units:
        metric, sign, unit = pair.partition("=")
        if not sign:
            raise click.BadParameter(f"{pair!r} is not METRIC=UNIT", param_hint="--unit")
        by_metric[metric] = unit
    layout = guess(file, Layout(na=(*NA, *na), **given))
    click.echo(printable(layout.told()), err=True)
    ended = asyncio.run(_import(at, file, layout, by_metric, dry_run=dry_run))
    return _conclude(ended, output, dry_run=dry_run)


async def _import(at: Target, file: Path, layout: Layout, units: dict[str, str], *, dry_run: bool) -> dict[str, Any]:
    from fleetcore.cli.progress import progress
    from fleetcore.frontends.readings import Parts

    parts = Parts(unit=units, dry_run=dry_run)
    total: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    failures: list[dict[str, Any]] = []

    async def send(caller: Caller) -> None:
        lines = parts.items
        given: dict[str, Any] = {"content": parts.take()}
        answer = await caller.run("import_readings", given | ({"dry_run": True} if dry_run else {}))
        for name in ("count", "stored", "duplicates", "conflicts", "refused"):
            total[name] += answer[name]
        reasons.update(answer["reasons"])
        failures.extend({**failure, "line": lines[failure["item"] - 1]} for failure in answer["failures"])
        del failures[_NAMED:]

    async with connect(at) as caller:
        with progress("checking" if dry_run else "importing", count_lines(file, layout)) as step:
            seen = 0
            for found in readings(file, layout):
                if found.code:
                    parts.refuse(found.line, found.device, found.metric, found.code)
                    continue
                parts.add(
                    found.line, found.device, found.metric, found.time, found.value,
                    found.unit or units.get(found.metric),
                )  # fmt: skip
                if parts.full:
                    await send(caller)
                    step(found.line - seen)
                    seen = found.line
            if parts.items:
                await send(caller)
    here = sum(parts.reasons.values())
    total["count"] += here
    total["refused"] += here
    reasons.update(parts.reasons)
    failures += [
        {"line": failure.item, "device": failure.device, "metric": failure.metric, "code": failure.code}
        for failure in parts.failures
    ]
    return {
        **{name: total[name] for name in ("count", "stored", "duplicates", "conflicts", "refused")},
        "reasons": dict(reasons),
        "failures": [
            {name: failure[name] for name in ("line", "device", "metric", "code")}
            for failure in sorted(failures, key=lambda failure: int(failure["line"]))[:_NAMED]
        ],
    }


def _conclude(ended: dict[str, Any], output: str, *, dry_run: bool) -> int:
    for failure in ended["failures"]:
        place = f"line {failure['line']}: {failure['device']} {failure['metric']}".rstrip(": ")
        click.echo(printable(f"{place}: {CODES[failure['code']].title} [{failure['code']}]"), err=True)
    if ended["refused"] > len(ended["failures"]):
        click.echo(f"… and {ended['refused'] - len(ended['failures'])} more", err=True)
    if output != "table":
        show(ended, output)
    elif dry_run:
        click.echo(
            f"{ended['stored']} of {ended['count']} readings would be stored, {ended['duplicates']} are duplicates, "
            f"{ended['conflicts']} conflicts, {ended['refused']} would be refused"
        )
    else:
        click.echo(
            f"{ended['stored']} of {ended['count']} readings stored, {ended['duplicates']} were duplicates, "
            f"{ended['conflicts']} conflicts, {ended['refused']} refused"
        )
    for line in by_reason(ended["reasons"], _HINTS):
        click.echo(line, err=output != "table")
    return exit_code(ended["refused"])
