"""Files of rows, one a device: CSV with a header or JSONL, in and out."""

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

from fleetcore.errors import Refused

#: Members of a row that are no plain text: in CSV, JSON within a cell; lists may also be words with ``;`` between.
_LISTS = frozenset({"tags", "capabilities"})
_OBJECTS = frozenset({"attributes", "location"})


def read(path: Path) -> tuple[list[Any], list[int]]:
    """The rows and the line that each stands in; raises Refused with file and line."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return _csv(path, file) if path.suffix.lower() == ".csv" else _jsonl(path, file)
    except UnicodeDecodeError as error:
        raise Refused(f"{path} is not UTF-8: {error}", remedy="Save it as UTF-8") from None


def _jsonl(path: Path, file: TextIO) -> tuple[list[Any], list[int]]:
    rows, lines = [], []
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise Refused(f"{path}:{number}: this is no JSON: {error.msg} at column {error.colno}") from None
        lines.append(number)
    return rows, lines


def _csv(path: Path, file: TextIO) -> tuple[list[Any], list[int]]:
    reader = csv.DictReader(file, strict=True)
    rows, lines = [], []
    try:
        if "id" not in (reader.fieldnames or ()):
            raise Refused(f"{path}:1: the header has no column id", remedy="The first line names the columns")
        for row in reader:
            if None in row:
                raise Refused(f"{path}:{reader.line_num}: there are more cells than the header has columns")
            rows.append({name: _cell(name, text) for name, text in row.items() if text})
            lines.append(reader.line_num)
    except csv.Error as error:
        raise Refused(f"{path}:{reader.line_num}: {error}") from None
    return rows, lines


def _cell(name: str, text: str) -> object:
    if name in _LISTS and not text.startswith("["):
        return [word.strip() for word in text.split(";") if word.strip()]
    if name in _LISTS | _OBJECTS:
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            return text  # the row is refused with its line
    # What an export made harmless for spreadsheets is itself again.
    return text[1:] if text[:1] == "'" and text[1:2] in tuple("=+-@") else text


class Writer:
    """Writes rows as they come."""

    def __init__(self, file: TextIO, members: Iterable[str], *, as_csv: bool) -> None:
        self._file = file
        self._members = list(members)
        self._csv = csv.writer(file, lineterminator="\n") if as_csv else None
        if self._csv is not None:
            self._csv.writerow(self._members)

    def write(self, row: Mapping[str, Any]) -> None:
        """One device."""
        if self._csv is None:
            self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
            return
        self._csv.writerow([_text(row.get(name)) for name in self._members])


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        # A spreadsheet runs a cell that starts so as a formula (OWASP, CSV injection).
        return f"'{value}" if value[:1] in tuple("=+-@") else value
    return json.dumps(value, ensure_ascii=False)
