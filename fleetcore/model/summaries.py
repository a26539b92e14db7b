"""Summaries of readings that can be added to each other: what a gateway finds, and what the core makes of it.

A summary has the count, sum, smallest and largest of some readings, and the sketch of their quantiles where they are
wanted. A part is some summaries, each of one metric, group and bucket of time, in the compact form of a command's
output.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from attrs import define, field, frozen

from fleetcore.errors import Refused
from fleetcore.model.sketch import ACCURACY, Sketch, from_document, sketch_of_column

_MOST_COUNTED = 2**53
#: What a row has as JSON at most, beside the names, which are listed once, and its sketch; and a bucket of a sketch.
_ROW_BYTES, _BUCKET_BYTES = 110, 24
_ROW_MEMBERS = (7, 10)


class Key(NamedTuple):
    """What a summary is of; ``start`` is that of the bucket, ms since the epoch."""

    metric: str
    group: str
    start: int


@define
class Summary:
    """The count, sum, smallest and largest of some numbers, and their sketch.

    The sum is exact as long as it is of integers and below 2^53; None once it is beyond what a float holds.
    """

    count: int = 0
    total: float = 0.0
    least: float = math.inf
    most: float = -math.inf
    zeros: int = 0
    positive: Counter[int] = field(factory=Counter)
    negative: Counter[int] = field(factory=Counter)

    @property
    def sum(self) -> float | None:
        """The sum."""
        return self.total if math.isfinite(self.total) else None

    @property
    def mean(self) -> float | None:
        """The mean; None without any, and without a sum."""
        return None if self.sum is None or not self.count else self.sum / self.count

    def add(self, numbers: npt.NDArray[np.float64], *, sketched: bool) -> None:
        """Adds a column of finite numbers, at least one; with ``sketched`` to the sketch too."""
        self.count += len(numbers)
        with np.errstate(over="ignore", invalid="ignore"):
            self.total += float(numbers.sum())
        self.least, self.most = min(self.least, float(numbers.min())), max(self.most, float(numbers.max()))
        if sketched:
            self._sketch(sketch_of_column(numbers))

    def merge(self, other: "Summary") -> None:
        """Adds what another one summarises."""
        self.count += other.count
        self.total += other.total
        self.least, self.most = min(self.least, other.least), max(self.most, other.most)
        self._sketch(Sketch(positive=other.positive, negative=other.negative, zeros=other.zeros))

    def _sketch(self, sketch: Sketch) -> None:
        self.zeros += sketch.zeros
        self.positive.update(sketch.positive)
        self.negative.update(sketch.negative)

    def quantile(self, share: float) -> float | None:
        """The quantile within the sketch's error, see :meth:`.sketch.Sketch.quantile`."""
        if not self.count:
            return None
        sketch = Sketch(
            positive=self.positive, negative=self.negative, zeros=self.zeros, least=self.least, most=self.most
        )
        return sketch.quantile(share)

    @property
    def bytes(self) -> int:
        """The most that it has as a row of a part."""
        return _ROW_BYTES + _BUCKET_BYTES * (len(self.positive) + len(self.negative))


Table = dict[Key, Summary]


@frozen(kw_only=True)
class Part:
    """Some summaries of a gateway.

    Attributes:
        series: how many series it is of.
        next: where the next part begins: device, metric and time; None where this is the last one.
        metrics: the metrics that there are, where none is as wanted.
    """

    table: Table
    series: int = 0
    next: tuple[str, str, int] | None = None
    metrics: Sequence[str] = ()

    @property
    def readings(self) -> int:
        """The readings in it."""
        return sum(each.count for each in self.table.values())


def merge_into(table: Table, other: Mapping[Key, Summary]) -> None:
    """Adds the summaries of another table."""
    for key, summary in other.items():
        table.setdefault(key, Summary()).merge(summary)


def part_to_document(part: Part, *, sketched: bool) -> dict[str, object]:
    """A part as JSON.

    ``rows`` has for each summary the place of its metric in ``metrics`` and of its group in ``groups``, the bucket's
    start, count, sum, smallest and largest; with a sketch also the number of zeros, and bucket and count by turns of
    its positive and its negative numbers.
    """
    metrics, groups = ({name: at for at, name in enumerate(sorted(names))} for names in (
        {key.metric for key in part.table}, {key.group for key in part.table},
    ))  # fmt: skip
    rows = []
    for key, each in sorted(part.table.items()):
        row: list[object] = [metrics[key.metric], groups[key.group], key.start]
        row += [each.count, each.sum, each.least, each.most]
        if sketched:
            row += [each.zeros, _flat(each.positive), _flat(each.negative)]
        rows.append(row)
    return {
        "accuracy": ACCURACY, "metrics": list(metrics), "groups": list(groups), "rows": rows, "series": part.series,
        "next": None if part.next is None else list(part.next), "known": list(part.metrics),
    }  # fmt: skip


def _flat(buckets: Mapping[int, int]) -> list[int]:
    return [number for pair in sorted(buckets.items()) for number in pair]


def part_from_document(document: object) -> Part:
    """A part from JSON, which a gateway may have made up.

    Raises:
        Refused: ``schema_invalid``, with the ``pointer`` of the member.
    """
    if not isinstance(document, Mapping):
        raise Refused("A part is an object")
    metrics, groups, known = (_names(document, name) for name in ("metrics", "groups", "known"))
    rows, table = _list(document, "rows"), Table()
    for at, row in enumerate(rows):
        key, summary = _row(row, f"/rows/{at}", metrics, groups, document.get("accuracy"))
        table[key] = summary
    series = document.get("series")
    if type(series) is not int or not _is_count(series):
        raise Refused("series is a count", pointer="/series")
    return Part(table=table, series=series, next=read_place(document.get("next")), metrics=known)


def read_place(found: object) -> tuple[str, str, int] | None:
    """Where a part begins, from JSON; raises Refused."""
    match found:
        case None:
            return None
        case [str(device), str(metric), int(time)]:
            return device, metric, time
    raise Refused("A place is a device, a metric and a time", pointer="/next")


def _row(row: object, at: str, metrics: Sequence[str], groups: Sequence[str], accuracy: object) -> tuple[Key, Summary]:
    if not isinstance(row, Sequence) or len(row) not in _ROW_MEMBERS:
        raise Refused("A row has 7 members, with a sketch 10", pointer=at)
    metric, group, start, count, total, least, most, *sketch = row
    if not (_is_count(metric) and metric < len(metrics) and _is_count(group) and group < len(groups)):
        raise Refused("A row begins with the places of its metric and its group", pointer=at)
    if type(start) is not int or not _is_count(count) or not count:
        raise Refused("A row has the start of its bucket, and a count", pointer=at)
    if not (_is_number(least) and _is_number(most) and least <= most and (total is None or _is_number(total))):
        raise Refused("A row has sum, smallest and largest", pointer=at)
    made = Summary(count, math.nan if total is None else float(total), float(least), float(most))
    if sketch:
        zeros, positive, negative = sketch
        document = {
            "accuracy": accuracy, "positive": _pairs(positive, at), "negative": _pairs(negative, at), "zeros": zeros,
            "least": least, "most": most,
        }  # fmt: skip
        found = from_document(document)
        if found.count != count:
            raise Refused("The sketch of a row is of as many numbers as its count", pointer=at)
        made.zeros, made.positive, made.negative = found.zeros, Counter(found.positive), Counter(found.negative)
    return Key(metrics[metric], groups[group], start), made


def _pairs(flat: object, at: str) -> Sequence[Sequence[object]]:
    if not isinstance(flat, list) or len(flat) % 2:
        raise Refused("Buckets are their number and their count by turns", pointer=at)
    return [flat[place : place + 2] for place in range(0, len(flat), 2)]


def _names(document: Mapping[str, object], name: str) -> Sequence[str]:
    found = _list(document, name)
    if not all(isinstance(each, str) and len(each) <= 128 for each in found):
        raise Refused(f"{name} is a list of names", pointer=f"/{name}")
    return found


def _list(document: Mapping[str, object], name: str) -> Sequence[Any]:
    found = document.get(name)
    if not isinstance(found, Sequence) or isinstance(found, str):
        raise Refused(f"{name} is a list", pointer=f"/{name}")
    return found


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MOST_COUNTED


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
