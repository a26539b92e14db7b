"""``fleetcore telemetry plot``: a metric's readings over time, drawn in the terminal.

The store aggregates them into a bucket for each column, so a plot of millions of readings reads a few hundred rows.
"""

import asyncio
import shutil
from collections.abc import Mapping
from typing import Any

import click

from fleetcore.cli.connect import Caller, Target, connect
from fleetcore.cli.derived import command
from fleetcore.cli.encoding import takes_all
from fleetcore.cli.exits import printable
from fleetcore.cli.ids import with_whole_ids
from fleetcore.cli.items import items_of, pages_of
from fleetcore.cli.plotting import DOTS_ACROSS, Bucket, plot
from fleetcore.errors import NotFound, Refused
from fleetcore.frontends.catalogue import core
from fleetcore.wire.times import format_time, parse_time

#: Anomalies of a device that are marked, the newest first, and that are named below its plot.
_MAX_MARKS, _NAMED = 1000, 5
_MIN_WIDTH, _MIN_HEIGHT, _HEIGHT = 40, 6, 16

_OPTIONS = (
    click.Option(["--width"], type=click.IntRange(_MIN_WIDTH), help="Characters; the terminal's by default."),
    click.Option(
        ["--height"], type=click.IntRange(_MIN_HEIGHT), default=_HEIGHT, show_default=True, help="Lines of a plot."
    ),
)
#: The width decides the buckets.
_FIXED = {"bucket_s": None, "points": None, "tz": None, "where": None}
_HELP = """Draw a metric of a device over time in the terminal.

Each column shows the smallest and the largest of its values, so no extreme is lost. A stretch without readings stays
empty. ▲ marks anomalies, which are named below. Without --start and --end all readings are drawn.
"""


def plot_command() -> click.Command:
    """The command."""
    made = command(core()["list_buckets"], "telemetry plot DEVICE METRIC", _FIXED, options=_OPTIONS, ask=_plot)
    made.help, made.short_help = _HELP, "Draw a metric of a device over time in the terminal."
    made.params = [parameter for parameter in made.params if parameter.name != "limit"]
    return made


def _plot(at: Target, given: Mapping[str, Any], output: str, *, width: int | None, height: int) -> Any:
    across = width or max(_MIN_WIDTH, shutil.get_terminal_size().columns)
    return asyncio.run(_pictured(at, given, output, across, height))


async def _pictured(at: Target, given: Mapping[str, Any], output: str, width: int, height: int) -> Any:
    async with connect(at) as caller:
        return await with_whole_ids(
            caller, core()["list_buckets"], given, lambda whole: _draw(caller, whole, output, width, height)
        )


async def _draw(caller: Caller, given: Mapping[str, Any], output: str, width: int, height: int) -> Any:
    metric, device = given["metric"], given["device"]
    latest = await items_of(caller, core()["list_latest_readings"], {"device": device})
    newest = next((item for item in latest if item["metric"] == metric), None)
    if newest is None:
        raise NotFound(f"No reading of {metric} is stored", remedy="`fleetcore telemetry series` lists the metrics")
    start, end = await _edges(caller, given, newest)
    # No bucket is longer than a column: the margin has taken some of the width.
    bucket_s = max(0.001, (end - start) / 1000 / (width * DOTS_ACROSS))
    asked = {"metric": metric, "device": device, "start": format_time(start), "end": format_time(end)}
    pages = pages_of(caller, core()["list_buckets"], {**asked, "bucket_s": bucket_s, "points": 10_000})
    buckets = [bucket async for page in pages for series in page for bucket in series["buckets"]]
    if output != "table":
        return buckets
    found = [
        item
        for item in await items_of(caller, core()["list_anomalies"], {"device": device, "newest": True}, _MAX_MARKS)
        if item["metric"] == metric and item["time"] is not None and start <= parse_time(item["time"]) < end
    ]
    count, unit = sum(bucket["count"] for bucket in buckets), f" in {newest['unit']}" if newest["unit"] else ""
    click.echo(printable(f"{metric} of {device}{unit}: {count} readings, {format_time(start)} to {format_time(end)}"))
    drawn = [Bucket(parse_time(bucket["start"]), bucket["min"], bucket["max"]) for bucket in buckets]
    marks = [parse_time(item["time"]) for item in found]
    for line in plot(drawn, start, end, width=width, height=height, marks=marks, dots=takes_all()):
        click.echo(line)
    for item in found[:_NAMED]:
        click.echo(printable(f"▲ {item['time']} {item['severity']}: {item['explanation']}"))
    if len(found) > _NAMED:
        click.echo(f"  and {len(found) - _NAMED} more: fleetcore telemetry anomalies --device {device}")
    return None


async def _edges(caller: Caller, given: Mapping[str, Any], newest: Mapping[str, Any]) -> tuple[int, int]:
    """The times of the edges, as given; else of the first and of the last reading."""
    end = parse_time(newest["time"]) + 1 if given.get("end") is None else parse_time(given["end"])
    if given.get("start") is not None:
        start = parse_time(given["start"])
    else:
        asked = {"metric": given["metric"], "device": given["device"], "points": 1, "limit": 1}
        page = await caller.run("list_readings", asked)
        start = parse_time(page["items"][0]["points"][0][0])
    if start >= end:
        raise Refused(
            "--start lies behind the end of what is drawn", remedy="Give an earlier --start, or a later --end"
        )
    return start, end
