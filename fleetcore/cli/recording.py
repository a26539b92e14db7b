"""A recording: a CSV with a time in its first column and a metric in each further one.

It is read once to check it completely, and then again row by row, so that a long one is never in memory.
"""

import csv
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from attrs import frozen

from fleetcore.cli.lines import lines_of
from fleetcore.errors import Refused
from fleetcore.model.names import MAX_METRIC_LENGTH, METRIC_ALPHABET

_CELLS = "Write times as ISO 8601 or ms since the epoch, values as numbers"
_MAX_DATE_LENGTH = 8  # digits: ISO 8601 also writes 20260131
_UNNAMEABLE = re.compile(rf"[^{METRIC_ALPHABET}]+", re.ASCII)

#: ms since the epoch, and the values by metric.
Row = tuple[int, Mapping[str, float]]


@frozen(kw_only=True)
class Recording:
    """A file that was checked completely.

    Attributes:
        name: the file's name in messages.
        metrics: in column order; characters that metrics may not contain are underscores.
        count: rows with a reading.
    """

    file: Path
    name: Path
    metrics: Sequence[str]
    count: int

    @classmethod
    def read(cls, file: Path, name: Path | None = None) -> "Recording":
        """Checks the file; raises Refused with the line that cannot be read, or if it has no reading."""
        name = name or file
        metrics: list[str] = []
        count = sum(1 for _ in _rows(file, name, metrics))
        if not count:
            raise Refused(f"{name} has no reading", remedy=_CELLS)
        return cls(file=file, name=name, metrics=metrics, count=count)

    def rows(self) -> Iterator[Row]:
        """The rows; empty and non-finite cells are left out. Raises as :meth:`read` if the file has changed."""
        return _rows(self.file, self.name, [])


def _rows(file: Path, name: Path, metrics: list[str]) -> Iterator[Row]:
    """The rows of a file; fills ``metrics`` with the columns' names."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            yield from _parsed(stream, name, metrics)
    except (UnicodeDecodeError, csv.Error) as error:
        raise Refused(f"{name} is not CSV: {error}", remedy="Write UTF-8 text: timestamp,metric[,metric…]") from error


def _parsed(stream: TextIO, file: Path, metrics: list[str]) -> Iterator[Row]:
    reader = csv.reader(lines_of(stream, file))
    header = next(reader, [])
    if len(header) < 2:
        raise Refused(f"{file}:1: a metric column is missing", remedy="Write: timestamp,metric[,metric…]")
    metrics += [
        _UNNAMEABLE.sub("_", name.strip())[:MAX_METRIC_LENGTH] or f"column_{at}"
        for at, name in enumerate(header[1:], 2)
    ]
    twice = next((name for name in metrics if metrics.count(name) > 1), None)
    if twice is not None:
        raise Refused(f"{file}:1: two columns are both called {twice}", remedy="Give each metric a separate name")
    for number, cells in enumerate(reader, 2):
        if not cells:
            continue
        if len(cells) > len(header):
            raise Refused(
                f"{file}:{number}: {len(cells)} cells under {len(header)} headings",
                remedy="Give every column a heading; quote a cell that contains a comma",
            )
        try:
            when = _time_ms(cells[0].strip())
            values = {
                metric: value
                for metric, text in zip(metrics, cells[1:], strict=False)
                if text.strip() and math.isfinite(value := float(text))
            }
        except (ValueError, OverflowError) as error:
            raise Refused(f"{file}:{number}: {error}", remedy=_CELLS) from error
        if values:
            yield when, values


def _time_ms(text: str) -> int:
    """A time as recorders write it: ms since the epoch, or ISO 8601, in UTC if no offset is given."""
    if text.isdecimal() and len(text) > _MAX_DATE_LENGTH:
        return int(text)
    when = datetime.fromisoformat(text)
    return round((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1000)
