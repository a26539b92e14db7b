"""Files of rows, one per device: CSV with a header or JSONL, read and written line by line."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from attrs import frozen

from fleetcore.cli.lines import lines_of
from fleetcore.errors import Refused
from fleetcore.wire import strict_json

#: Members of a row that are not plain text: in CSV, JSON within a cell; lists may also be words separated by ``;``.
_LISTS = frozenset({"tags", "capabilities"})
_OBJECTS = frozenset({"attributes", "location"})


#: Objects in a row may nest as deeply as sections of twins, within the row and its member.
_DEPTH = 12
_FORMULA = tuple("=+-@\t\r")


@frozen
class Line:
    """A row and its line number; ``wrong`` says why a line is not a row."""

    number: int
    row: Any = None
    wrong: str = ""


def count(path: Path) -> int:
    """The number of non-empty lines, rows or not.

    Raises Refused, with file and line, if the file is neither CSV nor JSONL or ends within a cell.
    """
    return sum(1 for _ in _lines(path, parsed=False))


def read(path: Path) -> Iterator[Line]:
    """The non-empty lines, one after the other; raises like :func:`count`."""
    return _lines(path, parsed=True)


def _lines(path: Path, *, parsed: bool) -> Iterator[Line]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from (
                _csv(path, file, parsed=parsed) if path.suffix.lower() == ".csv" else _jsonl(path, file, parsed=parsed)
            )
    except UnicodeDecodeError as error:
        raise Refused(f"{path} is not UTF-8: {error}", remedy="Save it as UTF-8") from None


def _jsonl(path: Path, file: TextIO, *, parsed: bool) -> Iterator[Line]:
    for number, line in enumerate(lines_of(file, path), 1):
        if not line.strip():
            continue
        if not parsed:
            yield Line(number)
            continue
        try:
            yield Line(number, strict_json.loads(line.encode(), depth=_DEPTH))
        except strict_json.StrictJsonError as error:
            yield Line(number, wrong=f"this is not a JSON row: {error}")


def _csv(path: Path, file: TextIO, *, parsed: bool) -> Iterator[Line]:
    reader = csv.DictReader(lines_of(file, path), strict=True)
    try:
        if "id" not in (reader.fieldnames or ()):
            raise Refused(f"{path}:1: the header has no column id", remedy="The first line must name the columns")
        for row in reader:
            if not parsed:
                yield Line(reader.line_num)
            elif None in row:
                yield Line(reader.line_num, wrong="there are more cells than the header has columns")
            else:
                yield Line(reader.line_num, {name: _cell(name, text) for name, text in row.items() if text})
    except csv.Error as error:
        raise Refused(f"{path}:{reader.line_num}: {error}") from None


def _cell(name: str, text: str) -> object:
    if name in _LISTS and not text.startswith("["):
        return [word.strip() for word in text.split(";") if word.strip()]
    if name in _LISTS | _OBJECTS:
        try:
            return strict_json.loads(text.encode(), depth=_DEPTH)
        except strict_json.StrictJsonError:
            return text  # the row is refused with its line
    return from_spreadsheet(text)


def for_spreadsheet(text: str) -> str:
    """A cell that no spreadsheet runs as a formula: a quote makes it text (OWASP, CSV injection)."""
    return f"'{text}" if _runs(text) else text  # an existing quote is doubled, so that both can be told apart


def from_spreadsheet(text: str) -> str:
    """What was given to :func:`for_spreadsheet`."""
    return text[1:] if text[:1] == "'" and _runs(text) else text


def _runs(text: str) -> bool:
    """Whether a spreadsheet would run a cell as a formula, without the quotes before it."""
    return text.lstrip("'").startswith(_FORMULA)


class Writer:
    """Writes rows one by one."""

    def __init__(self, file: TextIO, members: Iterable[str], *, as_csv: bool) -> None:
        self._file = file
        self._members = list(members)
        self._as_csv = as_csv
        if as_csv:
            self._line(self._members)

    def write(self, row: Mapping[str, Any]) -> None:
        """One device."""
        if self._as_csv:
            self._line([_text(row.get(name)) for name in self._members])
        else:
            self._file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def _line(self, cells: Iterable[str]) -> None:
        # The csv module quotes only characters of the line end, so both are in it.
        line = io.StringIO(newline="")
        csv.writer(line, lineterminator="\r\n").writerow(cells)
        self._file.write(line.getvalue().removesuffix("\r\n") + "\n")


def _text(value: object) -> str:
    if value is None:
        return ""
    return for_spreadsheet(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
