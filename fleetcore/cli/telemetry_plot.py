"""``fleetcore telemetry plot``: metrics of devices over time, drawn in the terminal or into a file.

The store aggregates them into a bucket for each column, so a plot of millions of readings reads a few hundred rows.
"""

import asyncio
import shutil
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import click
from attrs import frozen

from fleetcore.cli.connect import Caller, Target, connect
from fleetcore.cli.derived import command
from fleetcore.cli.encoding import takes_all
from fleetcore.cli.exits import printable
from fleetcore.cli.ids import with_whole_ids
from fleetcore.cli.items import items_of, pages_of
from fleetcore.cli.plotting import DOTS_ACROSS, Bucket, is_dense, limits_of, plot
from fleetcore.errors import NotAuthorised, NotFound, Refused
from fleetcore.frontends.catalogue import core
from fleetcore.model.firmware import ExecutionState
from fleetcore.plots import Band, Mark, draw
from fleetcore.wire.times import format_time, parse_time

#: Anomalies and changes of a device that are marked, the newest first, and that are named below its plot.
_MAX_MARKS, _NAMED = 1000, 5
_MIN_WIDTH, _MIN_HEIGHT, _HEIGHT = 40, 6, 16
#: Columns of a picture in a file.
_FILE_COLUMNS = 2000
#: The sign of each kind of mark, and its colour.
_SIGNS = {"anomaly": ("▲", "red"), "twin": ("◆", "cyan"), "firmware": ("●", "green")}
#: Ends of an update after which a device may behave differently.
_UPDATED = frozenset(f"execution.{state}" for state in (ExecutionState.SUCCEEDED, ExecutionState.REVERTED))

_OPTIONS = (
    click.Argument(["metrics"], nargs=-1, required=True, metavar="METRIC…", help="Metrics, each in a plot of its own."),
    click.Option(["--with", "others"], multiple=True, metavar="DEVICE", help="Another device in the plot. Repeatable."),
    click.Option(["--width"], type=click.IntRange(_MIN_WIDTH), help="Characters; the terminal's by default."),
    click.Option(
        ["--height"], type=click.IntRange(_MIN_HEIGHT), default=_HEIGHT, show_default=True, help="Lines of a plot."
    ),
    click.Option(
        ["--save"], type=click.Path(path_type=Path, dir_okay=False),
        help="Write a picture into this file instead: its ending says which kind, .png or .svg. Needs fleetcore[plot].",
    ),
)  # fmt: skip
#: The width decides the buckets.
_FIXED = {"bucket_s": None, "points": None, "tz": None, "where": None, "metric": None}
_HELP = """Draw metrics of a device over time.

Each column shows the smallest and the largest of its values, so no extreme is lost. A stretch without readings stays
empty. Plots of one metric share the axis of values. Below a plot ▲ marks anomalies, ◆ changes of desired state and ●
updated firmware. Without --start and --end all readings are drawn.
"""


@frozen(kw_only=True)
class _Panel:
    """One metric of one device: its buckets as they were answered, and what happened: time, kind and text."""

    device: str
    metric: str
    unit: str
    buckets: Sequence[Mapping[str, Any]]
    bucket_ms: float
    events: Sequence[tuple[int, str, str]]

    @property
    def title(self) -> str:
        unit = f" in {self.unit}" if self.unit else ""
        count = sum(bucket["count"] for bucket in self.buckets)
        return f"{self.metric} of {self.device}{unit}: {count} reading{'s' if count != 1 else ''}"

    @cached_property
    def drawn(self) -> list[Bucket]:
        """The buckets as they are drawn."""
        return [Bucket(parse_time(each["start"]), each["min"], each["max"], each["count"]) for each in self.buckets]


def plot_command() -> click.Command:
    """The command."""
    made = command(core()["list_buckets"], "telemetry plot DEVICE", _FIXED, options=_OPTIONS, ask=_plot)
    made.help, made.short_help = _HELP, "Draw metrics of a device over time."
    made.params = [parameter for parameter in made.params if parameter.name != "limit"]
    return made


def _plot(
    at: Target, given: Mapping[str, Any], output: str, *,
    metrics: Sequence[str], others: Sequence[str], width: int | None, height: int, save: Path | None,
) -> Any:  # fmt: skip
    across = width or max(_MIN_WIDTH, shutil.get_terminal_size().columns)
    columns = _FILE_COLUMNS if save is not None else across * DOTS_ACROSS
    panels, start, end = asyncio.run(_read(at, given, metrics, others, columns))
    if save is not None:
        _save(panels, save)
        click.echo(f"{save}: {', '.join(panel.title for panel in panels)}")
        return None
    if output != "table":
        many = len(panels) > 1
        names = [{"device": panel.device, "metric": panel.metric} if many else {} for panel in panels]
        return [{**name, **bucket} for name, panel in zip(names, panels, strict=True) for bucket in panel.buckets]
    _show(panels, start, end, across, height)
    return None


async def _read(
    at: Target, given: Mapping[str, Any], metrics: Sequence[str], others: Sequence[str], columns: int
) -> tuple[list[_Panel], int, int]:
    """The panels, and the times of their edges."""
    async with connect(at) as caller:
        call = core()["list_latest_readings"]
        devices = []
        newest: dict[str, Mapping[str, Mapping[str, Any]]] = {}
        for typed in (given["device"], *others):
            device, latest = await with_whole_ids(caller, call, {"device": typed}, lambda whole: _latest(caller, whole))
            devices.append(device)
            newest[device] = latest
        wanted = [(device, metric) for metric in metrics for device in devices]
        for device, metric in wanted:
            if metric not in newest[device]:
                raise NotFound(
                    f"No reading of {metric} of {device} is stored",
                    remedy="`fleetcore telemetry latest` lists its metrics",
                )
        last = {(device, metric): newest[device][metric] for device, metric in wanted}
        start, end = await _edges(caller, given, last)
        # No bucket is longer than a column: the margin has taken some of the width.
        bucket_s = max(0.001, (end - start) / 1000 / columns)
        anomalies = {device: await _anomalies(caller, device, start, end) for device in newest}
        changes = {device: await _changes(caller, device, start, end) for device in newest}
        panels = []
        for device, metric in wanted:
            asked = {"metric": metric, "device": device, "start": format_time(start), "end": format_time(end)}
            pages = pages_of(caller, core()["list_buckets"], {**asked, "bucket_s": bucket_s, "points": 10_000})
            buckets = [bucket async for page in pages for series in page for bucket in series["buckets"]]
            events = [*anomalies[device].get(metric, ()), *changes[device]]
            unit = last[device, metric]["unit"] or ""
            made = _Panel(
                device=device, metric=metric, unit=unit, buckets=buckets, bucket_ms=bucket_s * 1000, events=events
            )
            panels.append(made)
    return panels, start, end


async def _latest(caller: Caller, given: Mapping[str, Any]) -> tuple[str, Mapping[str, Mapping[str, Any]]]:
    """The device, and its newest reading by metric."""
    latest = await items_of(caller, core()["list_latest_readings"], given)
    return given["device"], {item["metric"]: item for item in latest}


async def _edges(
    caller: Caller, given: Mapping[str, Any], newest: Mapping[tuple[str, str], Mapping[str, Any]]
) -> tuple[int, int]:
    """The times of the edges, as given; else of the first and of the last reading."""
    end = max(parse_time(item["time"]) for item in newest.values()) + 1
    if given.get("end") is not None:
        end = parse_time(given["end"])
    if given.get("start") is not None:
        start = parse_time(given["start"])
    else:
        firsts = []
        for device, metric in newest:
            page = await caller.run("list_readings", {"metric": metric, "device": device, "points": 1, "limit": 1})
            firsts.append(parse_time(page["items"][0]["points"][0][0]))
        start = min(firsts)
    if start >= end:
        raise Refused(
            "--start lies behind the end of what is drawn", remedy="Give an earlier --start, or a later --end"
        )
    return start, end


async def _anomalies(caller: Caller, device: str, start: int, end: int) -> dict[str, list[tuple[int, str, str]]]:
    """The anomalies of a device, by metric."""
    by_metric: dict[str, list[tuple[int, str, str]]] = {}
    for item in await items_of(caller, core()["list_anomalies"], {"device": device, "newest": True}, _MAX_MARKS):
        if item["time"] is not None and start <= (time := parse_time(item["time"])) < end:
            text = f"{item['severity']}: {item['explanation']}"
            by_metric.setdefault(item["metric"], []).append((time, "anomaly", text))
    return by_metric


async def _changes(caller: Caller, device: str, start: int, end: int) -> list[tuple[int, str, str]]:
    """Changes of desired state and ended updates, the newest first; none without the right to read the audit log."""
    asked = {"device": device, "since": format_time(start)}
    try:
        rows = await items_of(caller, core()["list_audit"], asked, _MAX_MARKS)
    except NotAuthorised:
        return []
    found = []
    for row in rows:
        kind = "twin" if row["action"] == "twin.desired" else "firmware" if row["action"] in _UPDATED else ""
        if kind and parse_time(row["time"]) < end:
            by = f" by {row['actor']}" if kind == "twin" else ""
            found.append((parse_time(row["time"]), kind, f"{row['action']} {row['name'] or ''}{by}".replace("  ", " ")))
    return found


def _show(panels: Sequence[_Panel], start: int, end: int, width: int, height: int) -> None:
    """Draws them below each other; those of one metric share the axis of values."""
    if len(panels) > 1:
        click.echo(f"{format_time(start)} to {format_time(end)}")
    limits = {
        metric: limits_of(bucket for panel in panels if panel.metric == metric for bucket in panel.drawn)
        for metric in {panel.metric for panel in panels}
    }
    plain = not takes_all()
    for panel in panels:
        marks: dict[str, list[int]] = {}
        for time, kind, _ in panel.events:
            marks.setdefault(_SIGNS[kind][0], []).append(time)
        title, span = printable(panel.title), f"{format_time(start)} to {format_time(end)}"
        if len(panels) > 1:
            click.secho(title, bold=True)
        else:
            click.echo(f"{title}, {span}" if len(title) + len(span) + 2 <= width else f"{title}\n{span}")
        if not panel.drawn:
            click.echo(f"  It has no numbers to draw here: fleetcore telemetry query {panel.device} {panel.metric}")
            continue
        margin = 8 if len(panels) > 1 else 0
        for line in plot(
            panel.drawn, start, end, width=width, height=height, marks=marks, dots=not plain,
            limits=limits[panel.metric], margin=margin,
        ):  # fmt: skip
            click.echo(line)
        _name(panel)


def _name(panel: _Panel) -> None:
    """Names the newest of what is marked."""
    newest = sorted(panel.events, reverse=True)
    for time, kind, text in newest[:_NAMED]:
        sign, colour = _SIGNS[kind]
        click.echo(f"{click.style(sign, fg=colour)} {printable(f'{format_time(time)} {text}')}")
    if len(newest) > _NAMED:
        click.echo(f"  and {len(newest) - _NAMED} more: fleetcore telemetry anomalies {panel.device}")


def _save(panels: Sequence[_Panel], file: Path) -> None:
    """Writes a picture: a plot for each metric, with its devices."""
    import numpy as np

    if file.suffix.lower() not in (".png", ".svg"):
        raise Refused(f"{file} ends neither with .png nor with .svg", remedy="Name the file so")
    by_metric: dict[str, list[Band]] = {}
    for panel in panels:
        drawn = panel.drawn
        band = Band(
            label=panel.device, unit=panel.unit,
            time=np.array([each.start for each in drawn], np.int64),
            low=np.array([each.low for each in drawn], np.float64),
            high=np.array([each.high for each in drawn], np.float64),
            usual_ms=panel.bucket_ms if is_dense(drawn) else None,
        )  # fmt: skip
        by_metric.setdefault(panel.metric, []).append(band)
    marks = {Mark(time=time, kind=kind) for panel in panels for time, kind, _ in panel.events}
    titles = {metric: f"{metric} of {', '.join(band.label for band in bands)}" for metric, bands in by_metric.items()}
    figure = draw([(titles[metric], bands) for metric, bands in by_metric.items()], sorted(marks, key=lambda m: m.time))
    figure.savefig(file)
