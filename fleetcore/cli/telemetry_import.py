"""``fleetcore telemetry import``: sends the readings of files to a fleet, part by part.

Device, metric and time identify a reading, so an interrupted import is simply started again: stored readings are
counted as duplicates.
"""

import asyncio
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fleetcore.cli.connect import Caller, Target, connect, fleet_option
from fleetcore.cli.exits import printable
from fleetcore.cli.output import output_option, show
from fleetcore.cli.readings_file import CHOICES, NA, Layout, count_lines, guess, readings
from fleetcore.cli.readings_mapping import mapping_text, read_mapping
from fleetcore.cli.refused import by_reason, exit_code
from fleetcore.errors import CODES, FleetError, Refused
from fleetcore.frontends.catalogue import WORD
from fleetcore.wire.times import format_time

if TYPE_CHECKING:
    from fleetcore.frontends.readings import Parts

_HINTS = {
    "device_unknown": "register them: `fleetcore device import`, or `fleetcore device register ID`",
    "time_unit": "--time-unit sets the unit of epochs",
    "time_invalid": "--date-order, --time-unit or --time-column",
    "time_in_future": "--zone sets the time zone of the file",
    "unit_mismatch": "--unit METRIC=UNIT, or leave the unit out",
    "payload_unreadable": "a line of JSONL must be one JSON object; a row of CSV has no more cells than the header",
    "number_not_finite": "leave such a cell empty, or name it with --na",
}
#: Refused readings that are listed with their lines.
_NAMED = 10
#: Readings that a dry run shows.
_PREVIEWED = 5
_COUNTS = ("count", "stored", "duplicates", "conflicts", "refused")


@click.command("import")
@click.argument(
    "files",
    nargs=-1,
    required=True,
    metavar="FILE…",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="CSV, JSONL (.gz too) or Parquet.",
)
@click.option("--dry-run", is_flag=True, help="Only show how files are read, and what would be stored.")
@click.option(
    "--mapping",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file that says what columns mean: options, metrics, units, devices. Options here come before it.",
)
@click.option(
    "--save-mapping",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write how the first file is read into a new mapping file, to be edited, and import nothing.",
)
@click.option("--from-line", type=click.IntRange(1), default=1, help="Start at this line of the first file.")
@click.option(
    "--format",
    "form",
    type=click.Choice(CHOICES["form"]),
    help="The files' format; by their names, if not given.",
)
@click.option("--device", help="The device of all rows.")
@click.option("--device-column", help="The column with the device.")
@click.option("--time-column", help="The column with the time.")
@click.option("--metric-column", help="In a long file, the column with the metric.")
@click.option("--value-column", help="In a long file, the column with the value.")
@click.option("--unit-column", help="The column with the unit.")
@click.option("--unit", "units", multiple=True, metavar="METRIC=UNIT", help="The unit of a metric; repeatable.")
@click.option("--delimiter", help="Between cells; \\t is a tab.")
@click.option("--decimal", type=click.Choice(CHOICES["decimal"]), help="The decimal mark of numbers.")
@click.option(
    "--date-order", type=click.Choice(CHOICES["date_order"]), help="The order of day, month and year in dates."
)
@click.option("--time-unit", type=click.Choice(CHOICES["time_unit"]), help="The unit of times that are numbers.")
@click.option("--zone", help="The time zone of times without one, such as Europe/Berlin; UTC if not given.")
@click.option("--na", multiple=True, help="A cell that means no value; repeatable.")
@fleet_option
@output_option
def import_(
    files: tuple[Path, ...], dry_run: bool, mapping: Path | None, save_mapping: Path | None, from_line: int,
    units: tuple[str, ...], na: tuple[str, ...], at: Target, output: str, **given: Any,
) -> int:  # fmt: skip
    """Store the readings of FILE…: CSV, JSONL or Parquet, a column for each metric or one of metrics and one of values.

    The layout of each file is guessed and shown; a dry run also shows its first readings as they were understood.
    Devices must be registered. Importing a file again changes nothing; an import that was interrupted says from which
    line it goes on. Exit 7 if readings are refused.
    """
    files = tuple(dict.fromkeys(files))
    for file in files:
        if not file.is_file():  # it is read more than once: to guess, to count, and to import
            raise Refused(f"{file} is a pipe or a device", remedy="Write its rows into a file, and import that")
    if given["delimiter"] == "\\t":
        given["delimiter"] = "\t"
    known, by_metric = ({}, {}) if mapping is None else read_mapping(mapping)
    for pair in units:
        metric, sign, unit = pair.partition("=")
        if not sign:
            raise click.BadParameter(f"{pair!r} is not METRIC=UNIT", param_hint="--unit")
        by_metric[metric] = unit
    asked = Layout(na=(*NA, *na), **{**known, **{name: value for name, value in given.items() if value is not None}})
    layouts = {file: guess(file, asked) for file in files}
    if save_mapping is not None:
        if save_mapping.exists():
            raise Refused(f"{save_mapping} exists", remedy="Name another file, or remove it")
        save_mapping.write_text(mapping_text(layouts[files[0]], by_metric), encoding="utf-8")
        click.echo(f"{save_mapping}: edit it, then fleetcore telemetry import --mapping {save_mapping} FILE…")
        return 0
    for file, layout in layouts.items():
        click.echo(printable(f"{f'{file}: ' if len(files) > 1 else ''}{layout.told()}"), err=True)
        if dry_run and output == "table":
            _preview(file, layout, by_metric)
    ended = asyncio.run(_import(at, layouts, by_metric, from_line, dry_run=dry_run))
    return _conclude(ended, output, dry_run=dry_run, many=len(files) > 1)


def _preview(file: Path, layout: Layout, units: Mapping[str, str]) -> None:
    """Shows the first readings of a file as they are understood."""
    from fleetcore.cli import tables

    rows = [
        {
            "line": found.line, "device": found.device, "metric": found.metric,
            "time": found.code or format_time(found.time), "value": found.value,
            "unit": found.unit or units.get(found.metric) or "",
        }
        for found in islice(readings(file, layout), _PREVIEWED)
    ]  # fmt: skip
    kinds = {"line": "integer", "device": WORD, "metric": WORD, "time": "word", "value": "value", "unit": WORD}
    for line in tables.table(rows, tuple(kinds), kinds, now_ms=0):
        click.echo(printable(line.plain), err=True)


async def _import(
    at: Target, layouts: Mapping[Path, Layout], units: dict[str, str], from_line: int, *, dry_run: bool
) -> dict[str, Any]:
    from fleetcore.cli.progress import progress

    files = list(layouts)
    sum_of = _Outcome(many=len(files) > 1)
    sending: _Sending | None = None
    try:
        async with connect(at) as caller:
            lines = sum(count_lines(file, layout) for file, layout in layouts.items())
            with progress("checking" if dry_run else "importing", lines) as step:
                for file, layout in layouts.items():
                    first = from_line if file == files[0] else 1
                    sending = _Sending(caller, file, units, sum_of, dry_run=dry_run)
                    await sending.send_all(layout, first, step)
    except (FleetError, asyncio.CancelledError):  # here the bar is gone
        if sending is not None and not dry_run:
            _say_where(sending.file, sending.sent_to, files, sum_of.ended())
        raise
    return sum_of.ended()


def _say_where(file: Path, line: int, files: Sequence[Path], so_far: Mapping[str, Any]) -> None:
    """Says what an interrupted import has done, and how it goes on."""
    click.echo(f"So far {so_far['stored']} readings stored, {so_far['refused']} refused", err=True)
    for reason in by_reason(so_far["reasons"], _HINTS):
        click.echo(reason, err=True)
    rest = " ".join(shlex.quote(str(each)) for each in files[files.index(file) :])
    command = f"fleetcore telemetry import --from-line {line + 1} {rest}"
    click.echo(printable(f"Interrupted after line {line} of {file}. Go on, with the same options: {command}"), err=True)


class _Outcome:
    """What came of the readings of one or more files."""

    def __init__(self, *, many: bool) -> None:
        self._many = many
        self._total: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        #: The first of all: the file's number, the line, and what is shown.
        self._failures: list[tuple[int, int, dict[str, Any]]] = []
        self._numbers: dict[Path, int] = {}

    def add(self, file: Path, answer: Mapping[str, Any], lines: Sequence[int]) -> None:
        """Adds an answer about some readings, with their lines."""
        for name in _COUNTS:
            self._total[name] += answer[name]
        self._reasons.update(answer["reasons"])
        self._fail(file, [{**failure, "line": lines[failure["item"] - 1]} for failure in answer["failures"]])

    def refuse(self, file: Path, parts: "Parts") -> None:
        """Adds the cells that were not sent, because they are not readings."""
        here = sum(parts.reasons.values())
        self._total["count"] += here
        self._total["refused"] += here
        self._reasons.update(parts.reasons)
        self._fail(
            file,
            [
                {"line": failure.item, "device": failure.device, "metric": failure.metric, "code": failure.code}
                for failure in parts.failures
            ],
        )

    def _fail(self, file: Path, failures: Sequence[Mapping[str, Any]]) -> None:
        name = {"file": str(file)} if self._many else {}
        rows = [{**name, **{key: failure[key] for key in ("line", "device", "metric", "code")}} for failure in failures]
        number = self._numbers.setdefault(file, len(self._numbers))
        self._failures += [(number, row["line"], row) for row in rows]
        self._failures = sorted(self._failures, key=itemgetter(0, 1))[:_NAMED]

    def ended(self) -> dict[str, Any]:
        """All of it, as plain data."""
        return {
            **{name: self._total[name] for name in _COUNTS},
            "reasons": dict(self._reasons),
            "failures": [row for _, _, row in self._failures],
        }


class _Sending:
    """Sends a file; ``sent_to`` is the last line whose readings were all answered."""

    def __init__(self, caller: Caller, file: Path, units: dict[str, str], tally: _Outcome, *, dry_run: bool) -> None:
        from fleetcore.frontends.readings import Parts

        self._caller, self._units, self._tally, self._dry_run = caller, units, tally, dry_run
        self.file, self._parts = file, Parts(unit=units, dry_run=dry_run)
        self.sent_to = 0

    async def send_all(self, layout: Layout, first: int, step: Callable[[int], None]) -> None:
        seen = self.sent_to = first - 1
        for found in readings(self.file, layout):
            if found.line < first:
                continue
            if found.code:
                self._parts.refuse(found.line, found.device, found.metric, found.code)
                continue
            unit = found.unit or self._units.get(found.metric)
            self._parts.add(found.line, found.device, found.metric, found.time, found.value, unit)
            if self._parts.full:
                await self._send()
                self.sent_to = found.line - 1  # more readings of the line may follow
                step(found.line - seen)
                seen = found.line
        if self._parts.items:
            await self._send()
        self._tally.refuse(self.file, self._parts)

    async def _send(self) -> None:
        lines = self._parts.items
        given: dict[str, Any] = {"content": self._parts.take()}
        answer = await self._caller.run("import_readings", given | ({"dry_run": True} if self._dry_run else {}))
        self._tally.add(self.file, answer, lines)


def _conclude(ended: dict[str, Any], output: str, *, dry_run: bool, many: bool) -> int:
    for failure in ended["failures"]:
        at = f"{failure['file']}: " if many else ""
        what = " ".join(filter(None, (failure["device"], failure["metric"])))
        place = f"{at}line {failure['line']}{what and f': {what}'}"
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
