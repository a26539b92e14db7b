"""Mapping files of ``telemetry import``: what the columns of a file mean, written once and used for many files.

TOML with the options of the command, and tables that name metrics, units and devices::

    delimiter = ";"
    zone = "Europe/Berlin"
    skip = ["Bemerkung"]

    [metrics]
    "Temp (C)" = {metric = "temperature", unit = "Cel"}

    [devices]
    "0x1f" = "pump-1"
"""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fleetcore.cli.readings_file import Layout
from fleetcore.errors import Refused

#: The members of a layout that a mapping file may have, besides its tables.
KEYS = (
    "format", "delimiter", "decimal", "date_order", "time_unit", "zone", "device", "device_column", "time_column",
    "metric_column", "value_column", "unit_column",
)  # fmt: skip


def read_mapping(file: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The members of a layout that a mapping file gives, and units by metric; raises Refused for a faulty one."""
    try:
        given = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Refused(f"{file} cannot be read: {error}") from error
    metrics, devices, skip = given.pop("metrics", {}), given.pop("devices", {}), given.pop("skip", [])
    unknown = sorted(given.keys() - set(KEYS))
    if unknown:
        known = ", ".join((*KEYS, "skip", "metrics", "devices"))
        raise Refused(f"{file}: {unknown[0]!r} is unknown", remedy=f"It may have {known}")
    if not isinstance(skip, list) or not isinstance(metrics, dict) or not isinstance(devices, dict):
        raise Refused(f"{file}: skip is a list, metrics and devices are tables")
    if not all(isinstance(text, str) for text in (*given.values(), *skip, *devices.values())):
        raise Refused(f"{file}: every value is a text in quotes")
    names, units = {}, {}
    for column, meaning in metrics.items():
        meant = {"metric": meaning} if isinstance(meaning, str) else meaning
        if not isinstance(meant, dict) or meant.keys() - {"metric", "unit"} or "metric" not in meant:
            raise Refused(f"{file}: [metrics] {column!r} is neither a name nor {{metric = …, unit = …}}")
        names[column] = str(meant["metric"])
        if "unit" in meant:
            units[names[column]] = str(meant["unit"])
    if "format" in given:
        given["form"] = given.pop("format")
    return {**given, "names": names, "devices": devices, "skip": tuple(skip)}, units


def mapping_text(layout: Layout, units: Mapping[str, str]) -> str:
    """A mapping file that says what a layout does, to be edited."""
    lines = ["# How `fleetcore telemetry import --mapping` reads files like this one."]
    lines += [f"{key} = {_quoted(value)}" for key in KEYS if (value := _member(layout, key)) is not None]
    lines += [f"skip = [{', '.join(map(_quoted, layout.skip))}]", "", "[metrics]"]
    for column in layout.metrics if layout.value_column is None else layout.names:
        metric = layout.names.get(column, column)
        unit = f", unit = {_quoted(units[metric])}" if metric in units else ""
        lines.append(f"{_quoted(column)} = {{metric = {_quoted(metric)}{unit}}}")
    lines += ["", "[devices]", *(f"{_quoted(name)} = {_quoted(device)}" for name, device in layout.devices.items())]
    return "\n".join(lines) + "\n"


def _member(layout: Layout, key: str) -> str | None:
    value: str | None = getattr(layout, "form" if key == "format" else key)
    return value


def _quoted(text: str) -> str:
    """A TOML string; JSON's escapes are TOML's too."""
    return json.dumps(text, ensure_ascii=False)
