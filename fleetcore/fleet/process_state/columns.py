"""Columns of the registry in memory: they answer a query over device records for a million devices in milliseconds.

The store is authoritative; the columns are built from it and follow the registry's changes. A column holds, for each
device, a code into the list of the path's distinct values. A clause is evaluated once per distinct value, by the same
evaluator as everywhere, so the answers cannot differ; the rest is looking up codes.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from msgspec import json

from fleetcore.interfaces.storage import Storage
from fleetcore.model.device import Device
from fleetcore.query.ast import And, Clause, Compare, Instant, Leaf, Not, Or, Path
from fleetcore.query.evaluate import ABSENT, evaluate, value_at
from fleetcore.query.resolve import paths
from fleetcore.wire.records import to_plain

Rows = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

#: With more distinct values, numbers are compared as arrays and not one by one.
_MANY = 256
#: Above this, integers and floats are no longer the same numbers.
_EXACT = 2**53
_PAGE = 1000
#: How many clauses have their results by value cached, per column.
_TABLES = 64
_OPERATORS: Mapping[str, Callable[[npt.NDArray[np.float64], float], Bools]] = {
    "=": np.equal,
    "!=": np.not_equal,
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
}


class Column:
    """One path: a code per row, and the value of each code; code 0 is "absent"."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.codes: npt.NDArray[np.int32] = np.zeros(1024, np.int32)
        self.values: list[object] = [ABSENT]
        self._known: dict[bytes, int] = {}
        self._numbers: npt.NDArray[np.float64] | None = None
        self._tables: dict[tuple[Leaf, bool], Bools] = {}
        # Rows in the order of their codes, and where the rows of each code begin; rows changed since are handled
        # separately.
        self._by_code: tuple[Rows, Rows] | None = None
        self._moved: set[int] = set()

    def set(self, row: int, value: object) -> None:
        """Sets the present value of the device in a row."""
        if row >= len(self.codes):
            self.codes = np.concatenate(
                (self.codes, np.zeros(max(row + 1 - len(self.codes), len(self.codes)), np.int32))
            )
        self._moved.add(row)
        if value is ABSENT:
            self.codes[row] = 0
            return
        key = json.encode(value)
        code = self._known.get(key)
        if code is None:
            code = self._known[key] = len(self.values)
            self.values.append(value)
        self.codes[row] = code

    def rows(self, table: Bools, count: int) -> Rows:
        """The rows whose codes a table selects, of the first ``count``; fast where these are few."""
        order, starts = self._ordered(count)
        wanted = np.flatnonzero(table[: len(starts) - 1])
        parts = [order[starts[code] : starts[code + 1]] for code in wanted.tolist()]
        if self._moved:
            moved = np.fromiter(self._moved, np.int64, len(self._moved))
            parts = [part[~np.isin(part, moved)] for part in parts]
            parts.append(moved[table[self.codes[moved]]])
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def many(self, table: Bools, count: int) -> int:
        """How many of the first ``count`` rows a table selects, without the latest changes."""
        _, starts = self._ordered(count)
        return int(np.diff(starts)[table[: len(starts) - 1]].sum())

    def _ordered(self, count: int) -> tuple[Rows, Rows]:
        if self._by_code is None or len(self._moved) > max(1000, count // 100):
            codes = self.codes[:count]
            starts = np.concatenate(([0], np.cumsum(np.bincount(codes, minlength=len(self.values)))))
            self._by_code = (np.argsort(codes, kind="stable"), starts)
            self._moved.clear()
        return self._by_code

    def table(self, leaf: Leaf, *, positive: bool) -> Bools:
        """For each code whether the clause is true for it, or, not positive, whether it is false."""
        cached = self._tables.get((leaf, positive))
        if cached is not None and len(cached) == len(self.values):
            return cached
        if len(self._tables) >= _TABLES:
            self._tables.clear()
        made = self._tables[leaf, positive] = self._table(leaf, positive=positive)
        return made

    def _table(self, leaf: Leaf, *, positive: bool) -> Bools:
        quick = self._compared(leaf, positive=positive) if len(self.values) > _MANY else None
        if quick is not None:
            return quick
        # The evaluator gets a document that contains only this value.
        wanted = positive
        answers = (
            evaluate(leaf, _document(self.path, value)) is wanted if value is not ABSENT
            else evaluate(leaf, {}) is wanted
            for value in self.values
        )  # fmt: skip
        return np.fromiter(answers, np.bool_, len(self.values))

    def _compared(self, leaf: Leaf, *, positive: bool) -> Bools | None:
        if not isinstance(leaf, Compare):
            return None
        value = leaf.value.ms if isinstance(leaf.value, Instant) else leaf.value
        if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > _EXACT:
            return None
        numbers = self._as_numbers()
        if numbers is None:
            return None
        truth = _OPERATORS[leaf.operator](numbers, float(value))
        return (truth if positive else ~truth) & ~np.isnan(numbers)

    def _as_numbers(self) -> npt.NDArray[np.float64] | None:
        """Each value as a number, NaN for other values; None where a number would not be exact."""
        if self._numbers is None or len(self._numbers) < len(self.values):
            fresh = [_number(value) for value in self.values[0 if self._numbers is None else len(self._numbers) :]]
            if any(item is None for item in fresh):
                return None
            more = np.array(fresh, np.float64)
            self._numbers = more if self._numbers is None else np.concatenate((self._numbers, more))
        return self._numbers


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return float("nan")
    return float(value) if abs(value) <= _EXACT else None


def _document(path: Path, value: object) -> Mapping[str, object]:
    document: object = value
    for key in reversed(path):
        document = {key: document}
    assert isinstance(document, dict)
    return document


class RegistryColumns:
    """All requested columns, one row a device."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._columns: dict[Path, Column] = {}
        self._rows: dict[str, int] = {}
        self._ids: list[str] = []
        self._alive: Bools = np.zeros(1024, np.bool_)
        # Devices that changed during a scan: the scan's data of them is older.
        self._touched: set[str] | None = None

    def changed(self, device: Device) -> None:
        """Notes that the registry stored a device."""
        if self._columns:
            self._take(device.id, to_plain(device), self._columns.values())
            if self._touched is not None:
                self._touched.add(device.id)

    def removed(self, device: str) -> None:
        """Notes that the registry removed a device."""
        row = self._rows.get(device)
        if row is not None:
            self._alive[row] = False
        if self._touched is not None:
            self._touched.add(device)

    def has(self, clause: Clause) -> bool:
        """Whether all columns that a query needs exist."""
        return all(path in self._columns for path in paths(clause)) and self._touched is None

    async def build(self, clause: Clause) -> None:
        """Makes the columns that a query needs, in one pass over the registry."""
        missing = [Column(path) for path in paths(clause) if path not in self._columns]
        if not missing or self._touched is not None:
            return
        self._touched = set()
        try:
            after: str | None = None
            # From here on changes are recorded; the scan fills in the rest.
            self._columns |= {column.path: column for column in missing}
            while True:
                page = await self._storage.find("device", after=after, limit=_PAGE)
                for record in page.items:
                    if record.key not in self._touched:
                        self._take(record.key, record.body, missing)
                after = page.after
                if after is None:
                    break
        except BaseException:
            for column in missing:
                del self._columns[column.path]
            raise
        finally:
            self._touched = None

    def _take(self, device: str, body: Mapping[str, object], columns: Iterable[Column]) -> None:
        row = self._rows.get(device)
        if row is None:
            row = self._rows[device] = len(self._ids)
            self._ids.append(device)
            if row >= len(self._alive):
                self._alive = np.concatenate((self._alive, np.zeros(len(self._alive), np.bool_)))
        self._alive[row] = True
        for column in columns:
            column.set(row, device if column.path == ("id",) else value_at(body, column.path))

    def few(self, clause: Clause, most: int) -> Sequence[str] | None:
        """As :meth:`select`, where that costs at most the work of ``most`` devices; None where it would be more."""
        least = min(self._weights(clause), default=len(self._ids))
        return self.select(clause) if least <= most else None

    def _weights(self, clause: Clause) -> Iterator[float]:
        """How many devices each single clause selects that every selected device must meet."""
        match clause:
            case And(inners):
                for inner in inners:
                    yield from self._weights(inner)
            case Or(inners):
                yield sum(min(self._weights(inner), default=float("inf")) for inner in inners)
            case Not(And() | Or()):
                yield float("inf")
            case _:
                yield self._weight(clause, positive=True)

    def select(self, clause: Clause) -> Sequence[str]:
        """The ids of the devices for which the query is true, sorted; its columns exist."""
        found = self._among(clause, None, positive=True)
        if found is None:
            found = np.flatnonzero(self._alive[: len(self._ids)])
        return sorted(self._ids[row] for row in found[self._alive[found]].tolist())

    def _among(self, clause: Clause, rows: Rows | None, *, positive: bool) -> Rows | None:
        """Which of some rows a clause selects; None means all rows."""
        match clause:
            case Not(inner):
                return self._among(inner, rows, positive=not positive)
            case And(inners) | Or(inners):
                if isinstance(clause, And) is positive:
                    # The most selective first; the others examine the rest.
                    for inner in sorted(inners, key=lambda inner: self._weight(inner, positive=positive)):
                        rows = self._among(inner, rows, positive=positive)
                    return rows
                parts = [self._among(inner, rows, positive=positive) for inner in inners]
                known = [part for part in parts if part is not None]
                if len(known) < len(parts):
                    return rows
                return np.unique(np.concatenate(known)) if known else np.empty(0, np.int64)
            case _:
                column = self._columns[clause.path]
                table = column.table(clause, positive=positive)
                if rows is None:
                    return column.rows(table, len(self._ids))
                return rows.compress(table.take(column.codes.take(rows)))

    def _weight(self, clause: Clause, *, positive: bool) -> float:
        """How many devices a clause selects; compound clauses come last."""
        match clause:
            case Not(inner):
                return self._weight(inner, positive=not positive)
            case And() | Or():
                return float("inf")
            case _:
                column = self._columns[clause.path]
                return column.many(column.table(clause, positive=positive), len(self._ids))
