"""Tables and sheets for people: the catalogue's kind of each member decides its format."""

import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import frozen
from rich.cells import cell_len, set_cell_size

from fleetcore.cli.exits import printable
from fleetcore.errors import Refused
from fleetcore.frontends.catalogue import WORD
from fleetcore.wire.times import parse_time

if TYPE_CHECKING:
    from rich.text import Text

_GAP = "  "
#: A time as every answer writes it.
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", re.ASCII)
#: Kinds that may be cut, and the minimum width before a column is dropped.
_ELASTIC = frozenset({"text", "list", "object", "value"})
_NARROW = 12
_NUMBERS = frozenset({"integer", "count", "bytes", "number"})
#: The minimum length of a shown id.
MIN_ID_LENGTH = 8
#: Below this width a sheet shows an object on one line.
_ONE_LINE = 60

_GOOD, _WAITING, _BAD, _GONE = "green", "yellow", "red", "dim"
_STYLES = {
    **dict.fromkeys(("active", "accepted", "online", "succeeded", "provisioned"), _GOOD),
    **dict.fromkeys(
        ("asleep", "deferred", "draft", "late", "partly", "paused", "pending", "pending_activation", "quarantined",
         "stopped", "suspended", "warning"),
        _WAITING,
    ),
    **dict.fromkeys(
        ("critical", "error", "expired", "failed", "rejected", "reverted", "revoked", "timed_out"), _BAD,
    ),
    **dict.fromkeys(("aborted", "cancelled", "never", "offline", "retired", "skipped", "superseded"), _GONE),
}  # fmt: skip
_TRUE_IS_BAD = frozenset({"disabled", "revoked"})
_TRUE_IS_GOOD = frozenset({"accepted", "ok", "valid"})
#: The seconds from which a unit is used, and the seconds in it.
_UNITS = ((86_400 * 730, 86_400 * 365, "y"), (86_400 * 60, 86_400 * 30, "mo"), (172_800, 86_400, "d"),
          (7_200, 3_600, "h"), (60, 60, "min"), (0, 1, "s"))  # fmt: skip


@frozen
class _Column:
    name: str
    kind: str
    cells: Sequence[str]
    styles: Sequence[str]

    @property
    def width(self) -> int:
        """The full width of its content."""
        return max(cell_len(text) for text in (self.head, *self.cells))

    @property
    def head(self) -> str:
        """What stands above it."""
        return printable(self.name)

    @property
    def narrow(self) -> int:
        """The minimum width."""
        if self.kind not in _ELASTIC:
            return self.width
        return min(self.width, max(cell_len(self.head), _NARROW))


def table(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    members: Mapping[str, str],
    *,
    now_ms: int,
    width: int | None = None,
) -> "list[Text]":
    """The lines of a table, at most ``width`` wide; without a width everything is complete, and times are as stored.

    Columns that do not fit are dropped from the right, and the last line names them; the first always stays.
    """
    from rich.text import Text

    names = list(columns) or list(dict.fromkeys(name for row in rows for name in row))
    found = [_column(name, rows, members, None if width is None else now_ms) for name in names]
    shown = found if width is None else _fitting(found, width)
    widths = [column.width for column in shown] if width is None else _widths(shown, width)
    heads = [_placed(column.head, column.kind, size) for column, size in zip(shown, widths, strict=True)]
    lines = [Text(_GAP.join(heads).rstrip(), style="bold")]
    for at in range(len(rows)):
        line = Text()
        for column, size in zip(shown, widths, strict=True):
            text = column.cells[at]
            text = text if cell_len(text) <= size else _cut(text, size, rows[at].get(column.name))
            before = _GAP if column is not shown[0] else ""
            line.append(before).append(_placed(text, column.kind, size), style=column.styles[at])
        line.rstrip()
        lines.append(line)
    if width is not None and len(shown) < len(found):
        left = ", ".join(column.head for column in found[len(shown) :])
        lines += [Text(part, style="dim") for part in textwrap.wrap(f"(-o json also shows: {left})", width)]
    return lines


def sheet(result: Mapping[str, Any], members: Mapping[str, str], *, now_ms: int | None = None) -> list[str]:
    """The lines for one record; ``now_ms`` adds to each time its distance from now."""
    width = max((cell_len(printable(name)) for name in result), default=0)
    lines: list[str] = []
    for member, value in result.items():
        name = printable(member)
        parts = _whole(value, _kind(member, [value], members), now_ms)
        if isinstance(value, str) and "\n" in value:  # PEM: complete, and on separate lines, for copying
            lines += [name, *parts]
        else:
            lines += [f"{set_cell_size(name if not at else '', width)}  {part}" for at, part in enumerate(parts)]
    return [line.rstrip() for line in lines]


def line(item: Mapping[str, Any], columns: Sequence[str]) -> "Text":
    """One item of a stream, complete; a word such as ``command.failed`` has the colour of its last part."""
    from rich.text import Text

    cells = [(kind_of(item.get(name)), cell(item.get(name), kind_of(item.get(name)))) for name in columns or item]
    return Text(_GAP).join(
        Text(text, style="dim" if kind == "time" else style_of(text.rpartition(".")[2]) if kind == WORD else "")
        for kind, text in cells
        if text
    )


def short_ids(ids: Iterable[str]) -> dict[str, str]:
    """Each id with the shortest unique beginning; for ``ISSUER:SERIAL`` that of the serial."""
    tails = {whole: whole.rpartition(":")[2] for whole in ids}
    ordered = sorted(tails.values())
    needed: dict[str, int] = {}
    for at, tail in enumerate(ordered):
        near = [other for other in (ordered[at - 1] if at else "", *ordered[at + 1 : at + 2]) if other]
        needed[tail] = max((_common(tail, other) + 1 for other in near), default=0)
    return {
        whole: whole if needed[tail] > len(tail) else tail[: max(MIN_ID_LENGTH, needed[tail])]
        for whole, tail in tails.items()
    }


def kind_of(value: object) -> str:
    """The kind of a member that the catalogue does not describe."""
    match value:
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case dict():
            return "object"
        case list() | tuple():
            return "list"
        case str() if _TIME.fullmatch(value):
            return "time"
        case str() if " " in value:
            return "text"
        case _:
            return WORD


def cell(value: Any, kind: str, now_ms: int | None = None) -> str:
    """A value on one line; ``now_ms``: short for people, else complete."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case dict():
            return " ".join(f"{name}={text}" for name, text in _leaves(value))
        case list() | tuple():
            return ", ".join(_items(value))
        case int() | float() if now_ms is not None:
            return _number(value, kind)
        case str() if kind == "time" and now_ms is not None:
            return relative(value, now_ms)
    return printable(str(value))


def relative(text: str, now_ms: int) -> str:
    """A time relative to now: ``3 min ago``, ``in 2 d``."""
    try:
        apart = (parse_time(text) - now_ms) / 1000
    except Refused:  # beyond the times that devices may send
        return printable(text)
    seconds = abs(apart)
    if seconds < 1:
        return "now"
    size, unit = next((size, unit) for least, size, unit in _UNITS if seconds >= least)
    return f"in {seconds // size:.0f} {unit}" if apart > 0 else f"{seconds // size:.0f} {unit} ago"


def _kind(name: str, values: Sequence[object], members: Mapping[str, str]) -> str:
    """The catalogue's kind; undescribed text is a word, unless no member is described."""
    if name in members:
        return members[name]
    kind = next((kind_of(value) for value in values if value is not None), WORD)
    return WORD if members and kind in ("text", "time") else kind


def _column(name: str, rows: Sequence[Mapping[str, Any]], members: Mapping[str, str], now_ms: int | None) -> _Column:
    values = [row.get(name) for row in rows]
    kind = _kind(name, values, members)
    if kind == "id" and now_ms is not None:
        short = short_ids(value for value in values if isinstance(value, str))
        values = [short.get(value, value) if isinstance(value, str) else value for value in values]
    cells = [cell(value, kind, now_ms) for value in values]
    return _Column(name, kind, cells, [_style(name, kind, value) for value in values])


def style_of(choice: str) -> str:
    """The style of a state."""
    return _STYLES.get(choice, "")


def _style(name: str, kind: str, value: object) -> str:
    if isinstance(value, bool):
        if name in _TRUE_IS_GOOD:
            return _GOOD if value else _BAD
        return _BAD if value and name in _TRUE_IS_BAD else ""
    return style_of(str(value)) if kind == "choice" or name == "state" else ""


def _fitting(columns: Sequence[_Column], width: int) -> Sequence[_Column]:
    """The first columns, as many as fit at their minimum width."""
    used = 0
    for at, column in enumerate(columns):
        used += column.narrow + (len(_GAP) if at else 0)
        if at and used > width:
            return columns[:at]
    return columns


def _widths(columns: Sequence[_Column], width: int) -> list[int]:
    """The width of each column; the rest goes to those that need more, the narrowest first."""
    widths = [column.narrow for column in columns]
    spare = width - sum(widths) - len(_GAP) * (len(columns) - 1)
    wanting = sorted((column.width - column.narrow, at) for at, column in enumerate(columns))
    for place, (wanted, at) in enumerate(wanting):
        given = min(wanted, max(spare, 0) // (len(wanting) - place))
        widths[at] += given
        spare -= given
    return widths


def _placed(text: str, kind: str, width: int) -> str:
    """A cell in its column: numbers are right-aligned."""
    room = " " * (width - cell_len(text))
    return room + text if kind in _NUMBERS else text + room


def _cut(text: str, width: int, value: object) -> str:
    """As much of a cell as fits; of a list complete items, and how many more there are."""
    if isinstance(value, list | tuple):
        items = list(_items(value))
        for count in range(len(items) - 1, 0, -1):
            some = f"{', '.join(items[:count])} +{len(items) - count}"
            if cell_len(some) <= width:
                return some
    return set_cell_size(text, width - 1).rstrip() + "…"


def _items(values: Iterable[object]) -> Iterable[str]:
    for value in values:
        yield f"({cell(value, 'object')})" if isinstance(value, dict) else cell(value, kind_of(value))


def _leaves(value: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, str]]:
    """The members of an object as NAME=VALUE words; nested names are joined by dots."""
    for name, inner in value.items():
        if isinstance(inner, dict) and inner:
            yield from _leaves(inner, f"{before}{printable(name)}.")
        elif isinstance(inner, bool):  # as typed in NAME=VALUE
            yield f"{before}{printable(name)}", str(inner).lower()
        else:
            text = "none" if inner is None else ",".join(_items(inner)) if isinstance(inner, list) else cell(inner, "")
            yield f"{before}{printable(name)}", text


def _number(value: float, kind: str) -> str:
    """With six significant digits; integers stay exact."""
    if kind == "count":
        return f"{value:,}"
    if kind == "bytes":
        return _size(value)
    if isinstance(value, int) or not math.isfinite(value):
        return str(value)
    if 1e6 <= abs(value) < 1e15:
        return f"{value:.0f}"
    return f"{value:.6g}"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"


def _whole(value: Any, kind: str, now_ms: int | None) -> list[str]:
    """A value of a sheet, line by line."""
    if isinstance(value, str) and "\n" in value:
        return [printable(part) for part in value.splitlines()]
    if isinstance(value, dict) and len(cell(value, kind)) > _ONE_LINE:
        return [f"{name}={text}" for name, text in _leaves(value)]
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return [cell(item, kind_of(item)) for item in value]
    if isinstance(value, float) and math.isfinite(value):
        return [f"{value:.9g}"]
    text = cell(value, kind)
    if kind == "time" and now_ms is not None and text:
        return [f"{text} ({relative(text, now_ms)})"]
    if kind == "bytes" and now_ms is not None and isinstance(value, int) and value >= 1000:
        return [f"{text} ({_size(value)})"]
    return [text]


def _common(item: str, other: str) -> int:
    """The length of the common beginning of two texts."""
    return next((at for at, (a, b) in enumerate(zip(item, other, strict=False)) if a != b), min(len(item), len(other)))
