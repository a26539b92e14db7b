"""Converts readings of a script or a file to the parts that ``import_readings`` takes.

Rows, columns, data frames and Arrow tables become one form: a series, a time in ms and a value for each reading.
Readings that cannot be sent at all (no time, no number) are counted here by the codes of the data path; the server
validates the rest.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any

import msgspec
from attrs import define, field

from fleetcore.calls.responses.telemetry import ImportedReadingsResponse, RefusedReadingResponse
from fleetcore.calls.types import decode_hook, of_python
from fleetcore.errors import CODES, Refused
from fleetcore.model.kinds import EXACT
from fleetcore.wire.times import Ms, TimeFault

#: The most readings of a part: a larger commit is no faster beyond some ten thousand (benchmarks/bench_store.py).
PART = 25_000
_SHOWN = 100
_DEVICE, _METRIC, _TIME, _VALUE, _UNIT = _NAMES = ("device", "metric", "time", "value", "unit")
_encode = msgspec.json.Encoder().encode


@define
class Parts:
    """Fills parts with readings and counts those that cannot be sent.

    Attributes:
        dry_run: each part of a dry run repeats the values of earlier parts at the same times, so that they are counted
            as in a run; this takes some 100 bytes of memory a reading.
    """

    device: str | None = None
    metric: str | None = None
    unit: str | Mapping[str, str] | None = None
    count: int = 0
    dry_run: bool = False
    reasons: "Counter[str]" = field(factory=Counter)
    failures: list[RefusedReadingResponse] = field(factory=list)
    _series: dict[tuple[str, str, str | None], int] = field(factory=dict)
    _at: list[int] = field(factory=list)
    _time: list[int] = field(factory=list)
    _value: list[Any] = field(factory=list)
    #: The overall number of each reading in the present part.
    items: list[int] = field(factory=list)
    #: In a dry run, by device and metric: the values of earlier parts at each time.
    _seen: dict[tuple[str, str], dict[int, Any]] = field(factory=dict)
    _names: list[tuple[str, str, str | None]] = field(factory=list)
    _named: set[tuple[str, str, int]] = field(factory=set)
    _before: list[tuple[int, int, Any]] = field(factory=list)

    def of(self, readings: Any) -> Iterator[bytes]:
        """The parts of readings in any of the forms; raises Refused for another form."""
        for item, row in enumerate(_rows(readings), 1):
            self._row(item, row)
            if len(self._at) >= PART:
                yield self.take()
        if self._at:
            yield self.take()

    @property
    def full(self) -> bool:
        """Whether the present part is full."""
        return len(self._at) >= PART

    def take(self) -> bytes:
        """The present part; a new one begins. It lists all series so far, so that the first unit of each is known."""
        at, time, value = self._at, self._time, self._value
        columns: dict[str, Any] = {"series": list(self._series)}
        if self._before:
            columns["before"] = len(self._before)
            at, time, value = ([*map(itemgetter(i), self._before), *given] for i, given in enumerate((at, time, value)))
        body = _encode(columns | {"at": at, "time": time, "value": value})
        if self.dry_run:
            self._remember()
        self._at, self._time, self._value, self.items = [], [], [], []
        return body

    def _remember(self) -> None:
        """Moves the present part's values to those of earlier parts."""
        for place, time, value in [*zip(self._at, self._time, self._value, strict=True)]:
            device, metric, _ = self._names[place]
            seen = self._seen.setdefault((device, metric), {})
            there = seen.get(time)
            if there is None:
                seen[time] = (place, value)
            elif (place, value) != there and (place, value) not in (there if isinstance(there, list) else ()):
                seen[time] = [*(there if isinstance(there, list) else [there]), (place, value)]
        self._before, self._named = [], set()

    def add(self, item: int, device: str, metric: str, time: int, value: Any, unit: str | None) -> None:
        """Adds one reading with a plain time and value: ms, and a number, true or false, or text.

        A number that is not finite, or that cannot be held exactly, is counted as refused.
        """
        if isinstance(value, float) and not math.isfinite(value):
            self.refuse(item, device, metric, "number_not_finite")
            return
        if isinstance(value, int) and abs(value) > EXACT:
            self.refuse(item, device, metric, "number_inexact")
            return
        key = device, metric, unit
        place = self._series.get(key)
        if place is None:
            place = self._series[key] = len(self._series)
            self._names.append(key)
        if self.dry_run and (device, metric, time) not in self._named:
            self._name_again(device, metric, time)
        self.count += 1
        self._at.append(place)
        self._time.append(time)
        self._value.append(value)
        self.items.append(item)

    def _name_again(self, device: str, metric: str, time: int) -> None:
        """Repeats the values of earlier parts at a time, once a part."""
        there = self._seen.get((device, metric), {}).get(time)
        if there is not None:
            self._named.add((device, metric, time))
            self._before += [(place, time, value) for place, value in (there if isinstance(there, list) else [there])]

    def refuse(self, item: int, device: object, metric: object, code: str, reason: str = "") -> None:
        """Counts a reading that cannot be sent."""
        self.count += 1
        self.reasons[code] += 1
        if len(self.failures) < _SHOWN:
            self.failures.append(
                RefusedReadingResponse(
                    item=item, device=str(device or ""), metric=str(metric or ""), code=code,
                    reason=reason or CODES[code].title,
                )
            )  # fmt: skip

    def unit_of(self, metric: str) -> str | None:
        """The unit of a metric for readings without one."""
        return self.unit.get(metric) if isinstance(self.unit, Mapping) else self.unit

    def _row(self, item: int, row: Mapping[str, Any]) -> None:
        device = row.get(_DEVICE, self.device)
        if _VALUE in row:
            values = {row.get(_METRIC, self.metric): row[_VALUE]}
        else:
            values = {name: value for name, value in row.items() if name not in _NAMES}
        if not isinstance(device, str) or (_VALUE in row and not isinstance(next(iter(values)), str)):
            self.refuse(item, device, "", "schema_invalid", "It has no device, or no metric")
            return
        try:
            time = int(msgspec_time(row.get(_TIME)))
        except (TimeFault, Refused) as error:
            for metric in values:
                self.refuse(item, device, metric, getattr(error, "code", "time_invalid"), str(error))
            return
        unit = row.get(_UNIT)
        for metric, given in values.items():
            value = of_python(given)
            if value is None or (_VALUE not in row and isinstance(value, float) and math.isnan(value)):
                continue  # a cell without a value
            if not isinstance(value, int | float | str):
                if type(value).__name__ in ("NAType", "NaTType"):
                    continue
                reason = f"A {type(value).__name__} is not a reading's value"
                self.refuse(item, device, metric, "schema_invalid", reason)
            else:
                self.add(item, device, metric, time, value, unit if isinstance(unit, str) else self.unit_of(metric))

    def finish(self, total: ImportedReadingsResponse | None) -> ImportedReadingsResponse:
        """The fleet's answer combined with the counts made here."""
        here = ImportedReadingsResponse(
            count=sum(self.reasons.values()), stored=0, duplicates=0, conflicts=0,
            refused=sum(self.reasons.values()), reasons=dict(self.reasons), failures=self.failures,
        )  # fmt: skip
        return here if total is None else together(total, here)


def msgspec_time(value: object) -> Ms:
    """A script's time, in ms; raises TimeFault, Refused."""
    return decode_hook(Ms, of_python(value))  # type: ignore[return-value]  # it is asked for Ms


def together(first: ImportedReadingsResponse, second: ImportedReadingsResponse) -> ImportedReadingsResponse:
    """The sums of two answers, and the first failures."""
    return ImportedReadingsResponse(
        count=first.count + second.count,
        stored=first.stored + second.stored,
        duplicates=first.duplicates + second.duplicates,
        conflicts=first.conflicts + second.conflicts,
        refused=first.refused + second.refused,
        reasons=dict(Counter(first.reasons) + Counter(second.reasons)),
        failures=[*first.failures, *second.failures][:_SHOWN],
    )


def _rows(readings: Any) -> Iterator[Mapping[str, Any]]:
    """The rows of readings in any form. Frames and tables are recognised by their methods."""
    if isinstance(readings, str | bytes):
        raise Refused("Text is not a list of readings", remedy="Give rows, columns, a DataFrame or an Arrow table")
    if hasattr(readings, "iloc") and hasattr(readings, "columns"):  # pandas
        columns = {str(name): readings[name].to_numpy() for name in readings.columns}
        if _TIME not in columns:
            columns[_TIME] = readings.index.to_numpy()
        return _of_columns(columns)
    if hasattr(readings, "__arrow_c_stream__"):
        return _of_arrow(readings)
    if isinstance(readings, Mapping):
        return _of_columns(readings)
    names = getattr(getattr(readings, "dtype", None), "names", None)
    if names:  # a structured array of numpy
        return _of_columns({name: readings[name] for name in names})
    if not isinstance(readings, Iterable):
        raise Refused(f"{type(readings).__name__} is not a list of readings")
    return map(_row_of, readings)


def _row_of(row: Any) -> Mapping[str, Any]:
    if isinstance(row, Mapping):
        return row
    if isinstance(row, Sequence) and not isinstance(row, str | bytes) and 4 <= len(row) <= len(_NAMES):
        return dict(zip((_DEVICE, _METRIC, _TIME, _VALUE, _UNIT), row, strict=False))
    raise Refused(
        f"{str(row)[:60]!r} is not a reading", remedy="Give dicts, or tuples (device, metric, time, value, unit)"
    )


def _of_columns(columns: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    lists = {name: _listed(column) for name, column in columns.items()}
    lengths = {len(column) for column in lists.values() if column is not None}
    if len(lengths) != 1:
        raise Refused("The columns differ in length")
    (n,) = lengths
    names = list(lists)
    filled = [[columns[name]] * n if column is None else column for name, column in lists.items()]
    return (dict(zip(names, row, strict=True)) for row in zip(*filled, strict=True))


def _listed(column: Any) -> list[Any] | None:
    """The column as Python's values; None for one value that applies to all rows."""
    if isinstance(column, str):
        return None
    kind = getattr(getattr(column, "dtype", None), "kind", "")
    if kind == "M":
        missing = -(2**63)
        found = column.astype("datetime64[ms]").astype("int64").tolist()
        return [None if ms == missing else Ms(ms) for ms in found]
    return list(column.tolist() if hasattr(column, "tolist") else column)


def _of_arrow(readings: Any) -> Iterator[Mapping[str, Any]]:
    try:
        import pyarrow as pa  # type: ignore[import-not-found,import-untyped,unused-ignore]  # optional
    except ModuleNotFoundError as error:
        raise Refused("Arrow data needs pyarrow", remedy="pip install 'fleetcore[arrow]'") from error
    for batch in pa.RecordBatchReader.from_stream(readings):
        yield from batch.to_pylist()
