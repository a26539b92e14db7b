"""``fleetcore telemetry``: stored readings, with a picture."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import click

from fleetcore.cli.connect import Target
from fleetcore.cli.derived import command
from fleetcore.cli.telemetry_export import export
from fleetcore.cli.telemetry_import import import_
from fleetcore.cli.telemetry_plot import plot_command
from fleetcore.frontends.catalogue import core

_BARS = "▁▂▃▄▅▆▇█"
#: Points that a table shows.
_SHOWN = 50


@click.group()
def telemetry() -> None:
    """Show readings and anomalies, and import readings."""


def _pictured(_at: Target, given: Mapping[str, Any], series: list[dict[str, Any]], output: str) -> Any:
    """A row per point; as a table, the last points and a picture of all."""
    points = [point for series_ in series for point in series_["points"]]
    rows = [{"time": time, given["metric"]: value} for time, value in points]
    if output != "table":
        return rows
    numbers = [value for _, value in points if not isinstance(value, str)]
    if len(numbers) > 2:
        click.echo(sparkline(numbers))
    if len(rows) > _SHOWN:
        click.echo(f"the last {_SHOWN} of {len(rows)} points; -o csv gives all")
    return rows[-_SHOWN:]


def _buckets(_at: Target, _given: Mapping[str, Any], series: list[dict[str, Any]], _output: str) -> Any:
    return [bucket for series_ in series for bucket in series_["buckets"]]


_OWN = (("list_readings", _pictured, {"time": "time"}), ("list_buckets", _buckets, {"start": "time", "count": "count"}))
for _name, _finish, _members in _OWN:
    telemetry.add_command(command(core()[_name], core()[_name].command, {}, finish=_finish, members=_members))


telemetry.add_command(plot_command())
telemetry.add_command(import_)
telemetry.add_command(export)


def sparkline(values: Sequence[float], width: int = 72) -> str:
    """A one-line picture: for each of ``width`` stretches the value furthest from the overall mean."""
    if not values:
        return "nothing stored"
    width = min(width, len(values))
    edges = [round(i * len(values) / width) for i in range(width + 1)]
    scale = max(map(abs, values)) or 1.0  # the difference of two values may be no number
    low, high, mean = min(values) / scale, max(values) / scale, sum(value / scale for value in values) / len(values)
    shown = [max(values[a:b], key=lambda value: abs(value / scale - mean)) for a, b in pairwise(edges) if b > a]
    span = (high - low) or 1.0
    bars = "".join(_BARS[min(len(_BARS) - 1, int((item / scale - low) / span * len(_BARS)))] for item in shown)
    return f"{bars}  {min(values):g} to {max(values):g}"
