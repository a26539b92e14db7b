"""Tables: CSV (RFC 4180) that a spreadsheet shows unchanged, and Arrow's stream format if pyarrow is installed.

In CSV, text that a spreadsheet would run as a formula gets a quote before it.
"""

import io
from collections.abc import Iterable, Sequence
from csv import writer
from typing import Any

from fleetcore.errors import Refused

CSV = "text/csv; charset=utf-8; header=present"
ARROW = "application/vnd.apache.arrow.stream"
#: Time columns, and columns that are text in every answer.
_TIMES = frozenset({"time", "start"})
_TEXTS = frozenset({"device", "metric", "unit"})
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """The whole table."""
    out = io.StringIO()
    lines = writer(out)
    lines.writerow(header)
    lines.writerows([_cell(item) for item in row] for row in rows)
    return out.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and value.startswith(_FORMULA):
        return "'" + value
    return "" if value is None else str(value)


def arrow(header: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """The same as an Arrow stream; times are ms in UTC. Raises Refused if pyarrow is not installed."""
    try:
        import pyarrow as pa  # type: ignore[import-not-found,import-untyped,unused-ignore]  # optional
    except ImportError:
        raise Refused(
            "This server cannot write Arrow",
            code="media_type_unsupported",
            remedy="Install fleetcore-api[arrow] there, or ask for format=csv",
        ) from None
    columns = list(zip(*rows, strict=True)) or [()] * len(header)
    arrays = {name: _column(pa, name, column) for name, column in zip(header, columns, strict=True)}
    sink = pa.BufferOutputStream()
    table = pa.table(arrays)
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    whole: bytes = sink.getvalue().to_pybytes()
    return whole


def _column(pa: Any, name: str, values: Sequence[object]) -> Any:
    if name in _TIMES:
        return pa.array([int(value) for value in values], pa.timestamp("ms", "UTC"))  # type: ignore[call-overload]  # Ms
    if name in _TEXTS or {type(value) for value in values} - {int, float}:
        return pa.array([None if value is None else _text(value) for value in values], pa.string())
    return pa.array(values, pa.int64() if name == "count" else pa.float64())


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
