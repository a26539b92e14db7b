"""``fleetcore telemetry``: readings and what detectors found in them."""

from itertools import pairwise

import click

from fleetcore.cli.connect import Target, call, fleet_option
from fleetcore.cli.dead_letters import dead_letters
from fleetcore.cli.numbers import Number
from fleetcore.cli.output import output_option, show

_BARS = "▁▂▃▄▅▆▇█"


@click.group()
def telemetry() -> None:
    """Look at readings and anomalies."""


@telemetry.command()
@click.argument("device", required=False)
@fleet_option
@output_option
def series(device: str | None, at: Target, output: str) -> None:
    """List the series of DEVICE, or all."""
    show(call(at, "list_series", device), output, ("device", "metric", "unit", "kind"))


@telemetry.command()
@click.argument("device")
@fleet_option
@output_option
def latest(device: str, at: Target, output: str) -> None:
    """Show the newest reading of each metric of DEVICE."""
    show(call(at, "latest_telemetry", device), output)


@telemetry.command()
@click.argument("device")
@click.argument("metric")
@click.option("--start", help="RFC 3339 time or ms since the epoch.")
@click.option("--end", help="RFC 3339 time or ms since the epoch.")
@fleet_option
@output_option
def query(device: str, metric: str, start: str | None, end: str | None, at: Target, output: str) -> None:
    """Show the points of METRIC of DEVICE; as a table, the last 50 and a picture of all."""
    found = call(at, "query_telemetry", device, metric, start=_time(start), end=_time(end))
    rows = [{"time": time, metric: value} for time, value in found["points"]]
    if output != "table":
        show(rows, output)
        return
    numbers = [value for _, value in found["points"] if not isinstance(value, str)]
    if len(numbers) > 2:
        click.echo(sparkline(numbers))
    if len(rows) > 50:
        click.echo(f"the last 50 of {len(rows)} points; -o csv gives all")
    show(rows[-50:], output)


@telemetry.command()
@click.argument("device")
@click.argument("metric")
@click.option("--every", "every_s", type=Number(min=0, min_open=True), default=3600.0, help="Seconds a bucket.")
@fleet_option
@output_option
def aggregate(device: str, metric: str, every_s: float, at: Target, output: str) -> None:
    """Show METRIC of DEVICE in buckets."""
    show(call(at, "aggregate_telemetry", device, metric, every_s), output)


@telemetry.command()
@click.argument("device", required=False)
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True)
@fleet_option
@output_option
def anomalies(device: str | None, limit: int, at: Target, output: str) -> None:
    """Show what detectors found on DEVICE, or on all."""
    columns = ("time", "device", "metric", "observed", "expected", "score", "severity", "detector", "explanation")
    show(call(at, "list_anomalies", device, limit=limit), output, columns)


telemetry.add_command(dead_letters)


def _time(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.isdigit() else text


def sparkline(values: list[float], width: int = 72) -> str:
    """A one-line picture: the mean of each of ``width`` stretches."""
    if not values:
        return "nothing stored"
    width = min(width, len(values))
    edges = [round(i * len(values) / width) for i in range(width + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges) if b > a]
    low, high = min(means), max(means)
    span = (high - low) or 1.0
    bars = "".join(_BARS[min(len(_BARS) - 1, int((one - low) / span * len(_BARS)))] for one in means)
    return f"{bars}  {low:g} to {high:g}"
