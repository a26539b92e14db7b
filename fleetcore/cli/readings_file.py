"""Files of readings: guesses the layout from the beginning of a file, and reads the readings line by line.

CSV and JSONL, also compressed by gzip, wide (a column for each metric) or long (metric and value), and Parquet through
pyarrow. Every guess is a member of :class:`Layout`, is shown before anything is sent, and can be overridden by an
option.
"""

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from attrs import evolve, frozen

from fleetcore.cli.lines import lines_of
from fleetcore.cli.rows import from_spreadsheet
from fleetcore.errors import Refused
from fleetcore.wire.zones import zone_of

#: Rows that guesses use.
_SAMPLE = 200
_DEVICE = ("device", "device_id", "deviceid", "sensor", "sensor_id", "entity_id", "id")
_TIME = ("time", "timestamp", "ts", "datetime", "date_time", "date", "zeit", "_time", "last_changed")
_METRIC = ("metric", "measurement", "field", "_field", "name", "variable")
_VALUE = ("value", "_value", "reading", "state", "wert")
_UNIT = ("unit", "unit_of_measurement", "einheit")
NA = ("", "na", "n/a", "nan", "null", "none", "-", "#n/a", "unavailable", "unknown")
_TRUTH = {"true": True, "false": False}
_DATE = re.compile(
    r"(\d{1,4})([./-])(\d{1,2})\2(\d{1,4})"
    r"(?:[T ,]+(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,9}))?)?(?: ?([AaPp])\.?[Mm]\.?)?)?(?: ?([Zz]|[+-]\d\d:?\d\d))?",
    re.ASCII,
)
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
#: For each decimal mark, numbers whose other marks can only part thousands: ``1.013,2`` or ``1.000.000``.
_GROUPED = {
    ".": re.compile(r"[+-]?\d{1,3}(?:(?:,\d{3})+\.\d+|(?:,\d{3}){2,})", re.ASCII),
    ",": re.compile(r"[+-]?\d{1,3}(?:(?:\.\d{3})+,\d+|(?:\.\d{3}){2,})", re.ASCII),
}
#: For each unit of epochs, the factor and the divisor to ms: integers of ns have more digits than a float.
_TO_MS = {"s": (1000, 1), "ms": (1, 1), "us": (1, 1000), "ns": (1, 1_000_000)}
#: The members of a layout with few possible values, and these.
CHOICES: Mapping[str, Sequence[str]] = {
    "form": ("csv", "jsonl", "parquet"),
    "decimal": (".", ","),
    "date_order": ("ymd", "dmy", "mdy"),
    "time_unit": tuple(_TO_MS),
}
#: From this magnitude an epoch is in this unit: seconds until the year 5138, and so on (wire.md §3).
_MAGNITUDES = ((1e11, "s"), (1e14, "ms"), (1e17, "us"), (float("inf"), "ns"))


@frozen(kw_only=True)
class Layout:
    """The layout of a file; None for a member that is to be guessed or does not exist."""

    form: str | None = None
    delimiter: str | None = None
    decimal: str | None = None
    date_order: str | None = None
    time_unit: str | None = None
    zone: str | None = None
    device: str | None = None
    device_column: str | None = None
    time_column: str | None = None
    metric_column: str | None = None
    value_column: str | None = None
    unit_column: str | None = None
    columns: Sequence[str] = ()
    na: Sequence[str] = NA
    #: Names of metrics and devices in the file → in the fleet, and columns of a wide file that are not metrics.
    names: Mapping[str, str] = {}
    devices: Mapping[str, str] = {}
    skip: Sequence[str] = ()

    def told(self) -> str:
        """One line that says how the file is read."""
        parts = [self.form or ""]
        if self.form == "csv":
            parts += [f"delimiter {self.delimiter!r}", f"decimal {self.decimal!r}"]
        parts.append(f"device {self.device!r}" if self.device_column is None else f"device in {self.device_column!r}")
        when = f"epoch {self.time_unit}" if self.time_unit else f"dates {self.date_order or 'ISO 8601'}"
        parts.append(f"time in {self.time_column!r} ({when}, zone {self.zone} if none is given)")
        if self.value_column:
            parts.append(f"metric in {self.metric_column!r}, value in {self.value_column!r}")
        else:
            parts.append(f"one metric each: {', '.join(self.names.get(name, name) for name in self.metrics)}")
            absent = [name for name in (*self.names, *self.skip) if name not in self.columns]
            if absent:
                parts.append(f"no column of the first rows is called {', '.join(map(repr, absent))}")
        return "; ".join(parts)

    @property
    def others(self) -> frozenset[str | None]:
        """The columns of a wide file that are not metrics."""
        return frozenset({self.device_column, self.time_column, self.unit_column, *self.skip})

    @property
    def metrics(self) -> list[str]:
        """The metric columns of a wide file. Later lines of JSONL may have more."""
        return [name for name in self.columns if name not in self.others]


@frozen
class Found:
    """One reading, or the reason why a cell is not one: then ``code`` is set, and ``value`` is the cell's text."""

    line: int
    device: str
    metric: str
    time: int
    value: Any
    unit: str | None = None
    code: str = ""


def guess(file: Path, given: Layout) -> Layout:
    """The layout with every guess made; raises Refused if a guess is impossible."""
    for name, possible in CHOICES.items():
        value = getattr(given, name)
        if value is not None and value not in possible:
            raise Refused(f"{name} {value!r} does not exist", remedy=f"It is one of {' '.join(possible)}")
    if given.delimiter is not None and (len(given.delimiter) != 1 or given.delimiter in '"\r\n'):
        raise Refused(f"{given.delimiter!r} is not a delimiter", remedy="It is one character; \\t is a tab")
    suffix = Path(file.stem).suffix if _zipped(file) else file.suffix
    form = given.form or {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}.get(suffix.lower(), "csv")
    layout = evolve(given, form=form)
    if form == "csv":
        layout = evolve(layout, delimiter=layout.delimiter or _delimiter(file))
    first = list(islice(_rows(file, layout), _SAMPLE))
    sample = [row for _, row in first if row is not None]
    if not first:
        raise Refused(f"{file} has no rows", remedy="The first line must name the columns, rows follow")
    if not sample:
        why = "is a JSON object" if form == "jsonl" else "has as many cells as the header"
        raise Refused(f"No row of {file} {why}", remedy="Is it another format, or another delimiter?")
    columns = list(dict.fromkeys(name for row in sample for name in row))
    layout = evolve(
        layout,
        columns=columns,
        device_column=None if given.device else _column(columns, given.device_column, _DEVICE),
        time_column=_column(columns, given.time_column, _TIME),
        value_column=_column(columns, given.value_column, _VALUE),
        unit_column=_column(columns, given.unit_column, _UNIT),
    )
    if layout.value_column is not None:
        layout = evolve(layout, metric_column=_column(columns, given.metric_column, _METRIC))
        if layout.metric_column is None:
            layout = evolve(layout, value_column=None)
    if layout.device_column is None and layout.device is None:
        raise Refused(
            f"No column of {file.name} looks like the device",
            remedy=f"Name it with --device-column, one of {', '.join(columns)}; or use --device ID for all rows",
        )
    if layout.time_column is None:
        raise Refused(f"No column of {file.name} looks like the time", remedy=f"--time-column: {', '.join(columns)}")
    if layout.decimal is None:
        layout = evolve(layout, decimal=_decimal(layout, sample))
    layout = _time_layout(layout, [row.get(str(layout.time_column)) for row in sample])
    return evolve(layout, zone=layout.zone or "UTC")


def count_lines(file: Path, layout: Layout) -> int:
    """The number of lines, or rows of a Parquet file; for the progress bar."""
    if layout.form == "parquet":
        with _parquet_file(file) as opened:
            return int(opened.metadata.num_rows)
    with _opened(file) as opened:
        return sum(piece.count(b"\n") for piece in iter(partial(opened.read, 1 << 20), b""))


def readings(file: Path, layout: Layout) -> Iterator[Found]:
    """The readings of a file, in order; empty and NA cells are skipped."""
    read_time = _time_reader(layout)
    read_value = partial(_value, decimal=layout.decimal or ".", na=frozenset(text.lower() for text in layout.na))
    device_column, time_column, unit_column = layout.device_column, layout.time_column, layout.unit_column
    long = (layout.metric_column, layout.value_column) if layout.value_column else None
    others = layout.others
    for line, row in _rows(file, layout):
        if row is None:
            yield Found(line, "", "", 0, None, None, "payload_unreadable")
            continue
        device = layout.device if device_column is None else row.get(device_column)
        device = "" if device is None else str(device).strip()
        device = layout.devices.get(device, device)
        cells = (
            [(row.get(long[0]), row.get(long[1] or ""))]
            if long
            else [(name, cell) for name, cell in row.items() if name not in others]
        )
        try:
            time = read_time(row.get(time_column))
        except (ValueError, OverflowError, TypeError, Refused):
            time = None
        given = None if unit_column is None else row.get(unit_column)
        unit = str(given).strip() or None if given is not None else None
        for name, cell in cells:
            value = read_value(cell)
            if value is None:
                continue
            metric = "" if name is None else str(name).strip()
            metric = layout.names.get(metric, metric)
            if time is None:
                yield Found(line, device, metric, 0, row.get(time_column), unit, "time_invalid")
            elif isinstance(value, int | float | str):
                yield Found(line, device, metric, time, value, unit)
            else:
                yield Found(line, device, metric, time, value, unit, "schema_invalid")


def _rows(file: Path, layout: Layout) -> Iterator[tuple[int, Mapping[Any, Any] | None]]:
    """The non-empty rows with their lines; None for one that is not a JSON object or has more cells than the header."""
    if layout.form == "parquet":
        yield from _parquet(file)
        return
    try:
        with _text(file) as opened:
            if layout.form == "jsonl":
                for number, line in enumerate(lines_of(opened, file), 1):
                    if line.strip():
                        yield number, _object(line)
                return
            # Strict: a quote that is not closed would make one cell of all lines after it.
            reader = csv.reader(lines_of(opened, file), delimiter=layout.delimiter or ",", strict=True)
            header = [name.strip() for name in next(reader, [])]
            if len(set(header)) != len(header):
                raise Refused(f"{file}:1: two columns have the same name")
            for cells in reader:
                if any(cells[len(header) :]):  # a decimal comma between commas, or a text without quotes
                    yield reader.line_num, None
                elif cells:
                    yield reader.line_num, dict(zip(header, cells, strict=False))
    except UnicodeDecodeError:
        raise Refused(
            f"{file}:{_undecodable(file)}: the line is not UTF-8",
            remedy="Save the file as UTF-8, for example with iconv -f WINDOWS-1252 -t UTF-8",
        ) from None
    except csv.Error as error:
        raise Refused(f"{file}:{reader.line_num}: {error}", remedy="Is a quote not closed?") from None


def _zipped(file: Path) -> bool:
    return file.suffix.lower() == ".gz"


@contextmanager
def _opened(file: Path) -> Iterator[io.BufferedReader | gzip.GzipFile]:
    """The bytes of a file, uncompressed; raises Refused, also while they are read, if that cannot be done."""
    try:
        if _zipped(file):
            with gzip.open(file, "rb") as unzipped:
                yield unzipped
        else:
            with file.open("rb") as plain:
                yield plain
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise Refused(f"{file} cannot be uncompressed: {error}", remedy="gzip -t says what is wrong with it") from None


@contextmanager
def _text(file: Path, errors: str = "strict") -> Iterator[TextIO]:
    with _opened(file) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", errors=errors, newline="") as opened:
        yield opened


def _undecodable(file: Path) -> int:
    """The first line that is not UTF-8."""
    with _text(file, "surrogateescape") as opened:
        return next((at for at, line in enumerate(lines_of(opened, file), 1) if not _is_text(line)), 1)


def _is_text(line: str) -> bool:
    try:
        line.encode()
    except UnicodeEncodeError:
        return False
    return True


def _object(line: str) -> Mapping[str, Any] | None:
    """A line of JSONL; None if it is not an object. NaN, which Python and others write, is a missing value."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if "\\u" in line and not _is_text(json.dumps(row, ensure_ascii=False)):  # a lone surrogate is not valid text
        return None
    return row if isinstance(row, dict) else None


def _parquet_file(file: Path) -> Any:
    try:
        from pyarrow import parquet  # type: ignore[import-not-found,import-untyped,unused-ignore]  # optional
    except ModuleNotFoundError as error:
        raise Refused("Parquet needs pyarrow", remedy="pip install 'fleetcore[arrow]'") from error
    return parquet.ParquetFile(file)


def _parquet(file: Path) -> Iterator[tuple[int, Mapping[Any, Any]]]:
    number = 0
    with _parquet_file(file) as opened:
        for batch in opened.iter_batches(batch_size=10_000):
            for row in batch.to_pylist():
                number += 1
                yield number, row


def _delimiter(file: Path) -> str:
    with _text(file, "replace") as opened:
        lines = [line for line in islice(lines_of(opened, file), 20) if line.strip()]
    if not lines:
        return ","
    # The header decides: cells may contain decimal commas.
    return max(",;\t|", key=lambda sign: (lines[0].count(sign) > 0, lines[0].count(sign)))


def _column(columns: Sequence[str], given: str | None, known: Sequence[str]) -> str | None:
    if given is not None:
        if given not in columns:
            raise Refused(f"Column {given!r} does not exist", remedy=f"The columns are {', '.join(columns)}")
        return given
    lower = {name.lower(): name for name in reversed(columns)}
    return next((lower[name] for name in known if name in lower), None)


def _decimal(layout: Layout, sample: Sequence[Mapping[Any, Any]]) -> str:
    names = [layout.value_column] if layout.value_column else layout.metrics
    cells = [str(row.get(name) or "") for row in sample for name in names]
    commas = sum(re.fullmatch(r"[+-]?\d+(?:\.\d{3})*,\d+", cell) is not None for cell in cells)
    points = sum(re.fullmatch(r"[+-]?\d+(?:,\d{3})*\.\d+", cell) is not None for cell in cells)
    return "," if commas > points else "."


def _time_layout(layout: Layout, cells: Sequence[Any]) -> Layout:
    texts = [str(cell).strip() for cell in cells if cell not in (None, "") and not isinstance(cell, datetime)]
    if layout.zone is not None:
        zone_of(layout.zone)
    if layout.time_unit or not texts:
        return layout
    numbers = [text for text in texts if _NUMBER.fullmatch(text)]
    dated = sum(text[4:5] == "-" or _DATE.fullmatch(text) is not None for text in texts)
    if numbers and len(numbers) >= dated:  # others are refused one by one
        largest = max(abs(float(text)) for text in numbers)
        return evolve(layout, time_unit=next(unit for least, unit in _MAGNITUDES if largest < least))
    if layout.date_order or all(len(text) >= 5 and text[4] == "-" for text in texts):
        return layout
    dates = [match for text in texts if (match := _DATE.fullmatch(text))]
    if not dates:
        return layout
    if any(len(match[1]) == 4 for match in dates):
        return evolve(layout, date_order="ymd")
    if any(int(match[1]) > 12 for match in dates) or dates[0][2] == ".":
        return evolve(layout, date_order="dmy")
    if any(int(match[3]) > 12 for match in dates):
        return evolve(layout, date_order="mdy")
    raise Refused(
        f"{texts[0]!r} may begin with the day or the month: no date in the first rows decides",
        remedy="Use --date-order dmy or --date-order mdy",
    )


def _time_reader(layout: Layout) -> Callable[[Any], int]:
    """A function from a cell to ms; it raises ValueError if the cell is not a time."""
    zone = zone_of(layout.zone or "UTC")
    factor, divisor = _TO_MS[layout.time_unit or "ms"]
    order = layout.date_order

    def of_datetime(when: datetime) -> int:
        if when.tzinfo is None:
            when = when.replace(tzinfo=zone)
        return round(when.timestamp() * 1000)

    def read(cell: Any) -> int:
        if isinstance(cell, datetime):
            return of_datetime(cell)
        if layout.time_unit:
            text = str(cell).strip()
            return round((int(text) if _INTEGER.fullmatch(text) else float(text)) * factor / divisor)
        text = str(cell).strip()
        if order is None:
            return of_datetime(datetime.fromisoformat(text))
        return of_datetime(_date(text, order))

    return read


def _date(text: str, order: str) -> datetime:
    match = _DATE.fullmatch(text)
    if match is None:
        raise ValueError(text)
    first, _, second, third, hour, minute, second_, fraction, half, offset = match.groups()
    named = dict(zip(order, (int(first), int(second), int(third)), strict=True))
    year = named["y"] + 2000 if named["y"] < 100 else named["y"]
    hours = int(hour or 0)
    if half:
        if not 1 <= hours <= 12:
            raise ValueError(text)
        hours = hours % 12 + (12 if half in "pP" else 0)
    when = datetime(  # noqa: DTZ001  # the zone follows
        year, named["m"], named["d"], hours, int(minute or 0), int(second_ or 0),
        int((fraction or "0")[:6].ljust(6, "0")),
    )  # fmt: skip
    if offset:
        when = when.replace(tzinfo=datetime.fromisoformat(f"2000-01-01T00:00:00{offset.upper()}").tzinfo)
    return when


def _value(cell: Any, *, decimal: str, na: frozenset[str]) -> Any:
    """The value of a cell; None for an empty one."""
    if not isinstance(cell, str):
        return None if cell is None or (isinstance(cell, float) and cell != cell) else cell  # noqa: PLR0124  # NaN
    text = cell.strip()
    lower = text.lower()
    if lower in na:
        return None
    number = text
    if (mark := "." if decimal == "," else ",") in text and _GROUPED[decimal].fullmatch(text):
        number = text.replace(mark, "")
    if decimal == ",":
        number = number.replace(",", ".")
    try:
        if _INTEGER.fullmatch(number):
            return int(number)
        if "_" not in number:  # Python would read 2024_01 as 202401
            return float(number)
    except ValueError:
        pass
    return _TRUTH.get(lower, from_spreadsheet(text))
