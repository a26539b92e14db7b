"""The report of a campaign as one HTML page without scripts, and its devices as CSV."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from fleetcore.cli.rows import for_spreadsheet
from fleetcore.wire.times import read_ms

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 760, 220, 48, 24
_LINES = (("succeeded", "#2e7d32"), ("failed", "#c62828"), ("others", "#757575"))
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:800px;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;width:100%;margin:.5em 0 1.5em}"
    "th,td{text-align:left;padding:.25em .8em .25em 0;border-bottom:1px solid #ddd;vertical-align:top}"
    "svg{width:100%;height:auto}h2{margin-top:1.5em}"
)
_COLUMNS = ("device", "state", "attempt", "wave", "code", "reason", "reported_version", "changed")


def page(report: Mapping[str, Any]) -> str:
    """The page. Every text of the fleet is escaped."""
    campaign = report["campaign"]
    counts = {name: number for name, number in campaign["counts"].items() if number}
    facts = {
        "State": campaign["state"], "Why": campaign["reason"] or campaign["code"] or "", "Version": campaign["release"],
        "Image": campaign["sha256"] or "", "Devices": campaign["total"],
        "Counts": ", ".join(f"{name} {number}" for name, number in counts.items()),
        "Made by": campaign["by"], "Approved by": campaign["approved_by"] or "",
        "Ended a minute": report["per_minute"],
        "Median from offer to success": "" if report["median_s"] is None else f"{report['median_s']:g} s",
    }  # fmt: skip
    parts = [
        f"<h1>Campaign {_text(campaign['id'])}</h1>",
        _table((), facts.items()),
        "<h2>Devices over time</h2>",
        _picture(report["points"], campaign["total"]),
        "<h2>Waves</h2>",
        _of(report["waves"]),
        "<h2>Failures</h2>",
        _of(report["failures"]),
        "<h2>Slowest devices</h2>",
        _of(report["slowest"]),
        "<h2>Who did what</h2>",
        _of(report["actions"]),
    ]
    title = f"Campaign {_text(campaign['id'])}"
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    return head + "\n".join(parts) + "</html>\n"


def write_page(file: Path, report: Mapping[str, Any]) -> None:
    """Writes the page into a file."""
    file.write_text(page(report), encoding="utf-8")


def write_devices(file: Path, executions: Iterable[Mapping[str, Any]]) -> None:
    """Writes a row for each device."""
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(_COLUMNS)
        for item in executions:
            writer.writerow([for_spreadsheet("" if item[name] is None else str(item[name])) for name in _COLUMNS])


def _text(value: object) -> str:
    return escape("" if value is None else str(value))


def _of(items: Sequence[Mapping[str, Any]]) -> str:
    if not items:
        return "<p>None.</p>"
    return _table(tuple(items[0]), (item.values() for item in items))


def _table(head: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    heads = "".join(f"<th>{_text(name.replace('_', ' '))}</th>" for name in head)
    lines = "".join("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>{f'<tr>{heads}</tr>' if heads else ''}{lines}</table>"


def _picture(points: Sequence[Mapping[str, Any]], total: int) -> str:
    """The course as an SVG of lines: devices over time."""
    if len(points) < 2:
        return "<p>Too few devices have ended.</p>"
    times = [read_ms(point["time"]) for point in points]
    first, last, most = times[0], max(times[-1], times[0] + 1), max(1, total)

    def at(time: int, count: int) -> str:
        x = _LEFT + (time - first) / (last - first) * (_WIDTH - _LEFT - 10)
        y = 10 + (1 - count / most) * (_HEIGHT - _BOTTOM - 10)
        return f"{x:.1f},{y:.1f}"

    lines = "".join(
        f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="'
        + " ".join(at(time, point[name]) for time, point in zip(times, points, strict=True))
        + f'"><title>{name}</title></polyline>'
        for name, colour in _LINES
    )
    floor = _HEIGHT - _BOTTOM
    axis = f'<path d="M{_LEFT} 10V{floor}H{_WIDTH - 10}" fill="none" stroke="#999"/>'
    labels = (
        f'<text x="4" y="18" font-size="12">{most}</text><text x="4" y="{floor}" font-size="12">0</text>'
        f'<text x="{_LEFT}" y="{_HEIGHT - 6}" font-size="12">{_text(points[0]["time"])}</text>'
        f'<text x="{_WIDTH - 10}" y="{_HEIGHT - 6}" font-size="12" text-anchor="end">{_text(points[-1]["time"])}</text>'
    )
    legend = "".join(
        f'<text x="{_LEFT + 12 + 90 * number}" y="24" font-size="12" fill="{colour}">{name}</text>'
        for number, (name, colour) in enumerate(_LINES)
    )
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">{axis}{lines}{labels}{legend}</svg>'
