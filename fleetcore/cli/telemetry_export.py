"""``fleetcore telemetry export``: readings of devices as CSV or JSONL, which ``telemetry import`` reads again."""

import asyncio
import csv
import json
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TextIO

import click

from fleetcore.cli.connect import Caller, Target, connect, fleet_option
from fleetcore.cli.items import items_of, pages_of
from fleetcore.cli.rows import for_spreadsheet
from fleetcore.errors import Refused
from fleetcore.frontends.catalogue import core

_COLUMNS = ("device", "metric", "time", "value", "unit")
#: Points of a page.
_POINTS = 10_000


@click.command()
@click.argument("devices", nargs=-1, metavar="[DEVICE…]", help="Devices whose readings are written; all by default.")
@click.option("--where", help="Instead of devices: those that a query selects.")
@click.option("--metric", "metrics", multiple=True, help="Only this metric; * stands for any characters. Repeatable.")
@click.option("--start", help="Only readings from this time on (RFC 3339).")
@click.option("--end", help="Only readings before this time (RFC 3339).")
@click.option("--to", "file", type=click.Path(path_type=Path, dir_okay=False), help="The file; else standard output.")
@click.option("--format", "form", type=click.Choice(["csv", "jsonl"]), help="By the file's name, else csv.")
@fleet_option
def export(
    devices: tuple[str, ...], where: str | None, metrics: tuple[str, ...], start: str | None, end: str | None,
    file: Path | None, form: str | None, at: Target,
) -> int:  # fmt: skip
    """Write readings, series by series in order of time: a row for each, with device, metric, time, value and unit.

    JSONL keeps the kind of each value. In CSV a text that looks like a number is a number to its reader, and one that a
    spreadsheet would run has a quote before it. A file appears when it is complete.
    """
    if devices and where is not None:
        raise click.UsageError("Name devices or give --where, not both")
    if file is not None and file.exists():
        raise Refused(f"{file} exists", remedy="Name another file, or remove it")
    chosen = form or ("jsonl" if file is not None and file.suffix.lower() in (".jsonl", ".ndjson") else "csv")
    span = {name: value for name, value in (("start", start), ("end", end)) if value is not None}
    wanted: list[dict[str, Any]] = [{"device": device} for device in devices] or [
        {} if where is None else {"where": where}
    ]
    with _written(file) as out:
        count, series = asyncio.run(_export(at, wanted, metrics, span, _writer(out, chosen)))
    click.echo(
        f"{count:,} reading{'s' * (count != 1)} of {series:,} series{'' if file is None else f' in {file}'}", err=True
    )
    return 0


async def _export(
    at: Target, wanted: Sequence[Mapping[str, Any]], metrics: Sequence[str], span: Mapping[str, str],
    write: Callable[[Sequence[Any]], None],
) -> tuple[int, int]:  # fmt: skip
    """Writes all readings; returns how many, and of how many series."""
    from fleetcore.cli.progress import progress

    count = series = 0
    async with connect(at) as caller:
        found = [item for given in wanted for item in await items_of(caller, core()["list_series"], given)]
        chosen = [
            item for item in found if not metrics or any(fnmatchcase(item["metric"], pattern) for pattern in metrics)
        ]
        with progress("exporting", len(chosen)) as step:
            for item in chosen:
                before = count
                async for time, value in _points(caller, item, span):
                    write((item["device"], item["metric"], time, value, item["unit"]))
                    count += 1
                series += count > before
                step(1)
    return count, series


async def _points(caller: Caller, item: Mapping[str, Any], span: Mapping[str, str]) -> AsyncIterator[tuple[str, Any]]:
    asked = {"device": item["device"], "metric": item["metric"], "points": _POINTS, **span}
    async for page in pages_of(caller, core()["list_readings"], asked):
        for part in page:
            for time, value in part["points"]:
                yield time, value


def _writer(out: TextIO, form: str) -> Callable[[Sequence[Any]], None]:
    """A function that writes a row."""
    if form == "jsonl":

        def write(row: Sequence[Any]) -> None:
            told = {name: cell for name, cell in zip(_COLUMNS, row, strict=True) if cell is not None}
            out.write(json.dumps(told, ensure_ascii=False) + "\n")

        return write
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(_COLUMNS)

    def write_cells(row: Sequence[Any]) -> None:
        rows.writerow([_cell(cell) for cell in row])

    return write_cells


def _cell(value: object) -> object:
    if isinstance(value, bool):
        return str(value).lower()
    return for_spreadsheet(value) if isinstance(value, str) else value


@contextmanager
def _written(file: Path | None) -> Iterator[TextIO]:
    """Standard output, or a file that appears under its name once it is complete."""
    if file is None:
        with nullcontext(sys.stdout) as out:
            yield out
        return
    part = file.with_name(f"{file.name}.part")
    try:
        with part.open("w", encoding="utf-8", newline="") as out:
            yield out
        part.rename(file)
    finally:
        part.unlink(missing_ok=True)
