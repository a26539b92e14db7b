"""Plots in characters: for each column the band from the smallest to the largest value, with axes, gaps and marks.

A character has two columns of four dots (Unicode's braille patterns); without braille it is drawn as a whole.
"""

import datetime as dt
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise, zip_longest
from statistics import median_low

from attrs import frozen

from fleetcore.model.days import DAY_MS, HOUR_MS
from fleetcore.plots import CONNECTED, DENSE

#: Columns of dots in a character, and rows.
DOTS_ACROSS, _DOTS_DOWN = 2, 4
_BRAILLE = 0x2800
#: The bit of a dot, by its column and its row from the top.
_BITS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
#: Between two labels of the axis of values: a larger round value is infinite.
_LARGEST_STEP = 1e308
#: Characters between two labels of the time axis.
_LABEL_GAP = 3
#: Characters of a tick of the axis of numbers, about.
_COUNT_WIDTH = 10
_S, _MIN = 1000, 60_000
#: Steps of the time axis, and the format of their labels.
_TIME_STEPS = (
    *((step * _S, "%H:%M:%S") for step in (1, 2, 5, 10, 15, 30)),
    *((step * _MIN, "%H:%M") for step in (1, 2, 5, 10, 15, 30)),
    *((step * HOUR_MS, "%m-%d %H:%M") for step in (1, 2, 3, 6, 12)),
    *((step * DAY_MS, "%Y-%m-%d") for step in (1, 2, 7, 14, 30, 90, 365, 3650)),
)


@frozen
class Bucket:
    """The extremes of the ``count`` values from ``start`` (ms since the epoch) on, up to the next bucket."""

    start: int
    low: float
    high: float
    count: int = 1


def plot(
    buckets: Iterable[Bucket],
    start: int,
    end: int,
    *,
    width: int,
    height: int,
    marks: Mapping[str, Iterable[int]] = {},
    dots: bool = True,
    limits: tuple[float, float] | None = None,
    margin: int = 0,
    counted: bool = False,
) -> list[str]:
    """The lines of a plot of ``width`` by ``height`` characters, its axes included.

    Every extreme of a bucket is drawn, whatever the size. A stretch without values stays empty.

    Args:
        buckets: in order of time, none of them longer than a column of dots.
        start, end: the times (ms since the epoch) of the left and the right edge.
        marks: times that are marked below the plot, by their sign.
        dots: whether the output has braille patterns.
        limits: the smallest and the largest value, for plots that share an axis; its own by default.
        margin: the minimum width of the labels of values, which aligns plots below each other.
        counted: ``start`` and ``end`` are numbers of things, not times.
    """
    drawn = [bucket for bucket in buckets if math.isfinite(bucket.low) and math.isfinite(bucket.high)]
    rows = max(2, height - 3)
    low, high = limits_of(drawn) if limits is None else limits
    if low == high:
        half = (abs(low) or 1.0) / 2
        low, high = max(low - half, -sys.float_info.max), min(high + half, sys.float_info.max)
    ticks = _value_ticks(low, high, max(2, rows // 3))
    names = {_row(tick, low, high, rows): text for tick, text in zip(ticks, _texts(ticks), strict=True)}
    margin = max([margin, *map(len, names.values())])
    across = max(1, width - margin - 2)
    grid = _Grid(across, rows)
    for column, first, last in _columns(drawn, start, end, across * DOTS_ACROSS):
        grid.fill(column, _dot(last, low, high, grid.down), _dot(first, low, high, grid.down))
    lines = [
        f"{names.get(row, ''):>{margin}} {'┤' if row in names else '│'}{text}"
        for row, text in enumerate(grid.lines(dots=dots))
    ]
    axis, labels = (_count_axis if counted else _time_axis)(start, end, across)
    lines += [f"{'':{margin}} └{axis}", f"{'':{margin}}  {labels}"]
    below = [" "] * across
    for sign, times in marks.items():
        for time in times:
            if start <= time < end:
                below[_place(time, start, end, across)] = sign
    if below.count(" ") < across:
        lines.append(f"{'':{margin}}  {''.join(below)}")
    return [line.rstrip() for line in lines]


def limits_of(buckets: Iterable[Bucket]) -> tuple[float, float]:
    """The smallest and the largest value; 0 and 1 without any."""
    drawn = [bucket for bucket in buckets if math.isfinite(bucket.low) and math.isfinite(bucket.high)]
    return min((each.low for each in drawn), default=0.0), max((each.high for each in drawn), default=1.0)


def is_dense(buckets: Sequence[Bucket]) -> bool:
    """Whether the readings are closer to each other than the buckets, so that an empty bucket is a gap."""
    return bool(buckets) and median_low([bucket.count for bucket in buckets]) >= DENSE


class _Grid:
    def __init__(self, across: int, rows: int) -> None:
        self.across, self.rows, self.down = across, rows, rows * _DOTS_DOWN
        self._cells = [[0] * across for _ in range(rows)]

    def fill(self, column: int, top: int, bottom: int) -> None:
        for row in range(top, bottom + 1):
            self._cells[row // _DOTS_DOWN][column // DOTS_ACROSS] |= _BITS[column % DOTS_ACROSS][row % _DOTS_DOWN]

    def lines(self, *, dots: bool) -> Iterator[str]:
        for cells in self._cells:
            yield "".join((chr(_BRAILLE + cell) if dots else "#") if cell else " " for cell in cells)


def _columns(buckets: Sequence[Bucket], start: int, end: int, across: int) -> Iterator[tuple[int, float, float]]:
    """Each column of dots that has values, with its extremes; neighbours are connected."""
    found: dict[int, tuple[float, float]] = {}
    for bucket in buckets:
        column = _place(bucket.start, start, end, across)
        low, high = found.get(column, (bucket.low, bucket.high))
        found[column] = (min(low, bucket.low), max(high, bucket.high))
    places = sorted(found)
    usual = 1 if is_dense(buckets) else median_low([after - before for before, after in pairwise(places)] or [1])
    for place, following in zip_longest(places, places[1:]):
        low, high = found[place]
        yield place, low, high
        if following is None or following - place > usual * CONNECTED:
            continue
        # From the middle of a band to the middle of the next: the extremes themselves are not moved.
        before, after = (low + high) / 2, sum(found[following]) / 2
        steps = following - place
        for step in range(steps):
            here, there = (before + (after - before) * part / steps for part in (step, step + 1))
            yield place + step, min(here, there), max(here, there)


def _place(time: int, start: int, end: int, across: int) -> int:
    return min(across - 1, max(0, (time - start) * across // max(1, end - start)))


def _dot(value: float, low: float, high: float, down: int) -> int:
    """The row of dots of a value, from the top."""
    # Halves: the difference of the largest floats is infinite.
    share = (high / 2 - value / 2) / (high / 2 - low / 2)
    return min(down - 1, max(0, round(share * (down - 1))))


def _row(value: float, low: float, high: float, rows: int) -> int:
    return _dot(value, low, high, rows * _DOTS_DOWN) // _DOTS_DOWN


def _value_ticks(low: float, high: float, most: int) -> list[float]:
    """Round values from ``low`` to ``high``, ``most`` + 1 at most."""
    span = high / most - low / most
    step = 10.0 ** math.floor(math.log10(span))
    step = min(_LARGEST_STEP, step * next(factor for factor in (1, 2, 5, 10, 20) if span <= step * factor))
    first = math.ceil(low / step)
    return [number * step for number in range(first, math.floor(high / step) + 1)]


def _texts(ticks: Sequence[float]) -> list[str]:
    """The ticks as text, with as many digits as tell them apart."""
    for digits in range(6, 18):
        texts = [f"{tick:.{digits}g}" for tick in ticks]
        if len(set(texts)) == len(texts):
            break
    return texts if ticks else []


def _time_axis(start: int, end: int, across: int) -> tuple[str, str]:
    """The axis with its ticks, and their labels."""
    step, form = next(
        (
            (step, form)
            for step, form in _TIME_STEPS
            if (end - start) / step * (len(_label(start, form)) + _LABEL_GAP) <= across
        ),
        (_TIME_STEPS[-1][0] * math.ceil((end - start) / _TIME_STEPS[-1][0] / 4), "%Y"),
    )
    ticks = range(-(-start // step) * step, end, step)
    return _axis({tick: _label(tick, form) for tick in ticks}, start, end, across)


def _count_axis(start: int, end: int, across: int) -> tuple[str, str]:
    """The same for numbers of things."""
    ticks = {int(tick): f"{int(tick)}" for tick in _value_ticks(start, end, max(2, across // _COUNT_WIDTH))}
    return _axis(ticks, start, end, across)


def _axis(ticks: Mapping[int, str], start: int, end: int, across: int) -> tuple[str, str]:
    """An axis with ticks, and their labels."""
    axis, labels = ["─"] * across, [" "] * across
    for tick, label in ticks.items():
        place = _place(tick, start, end, across)
        axis[place] = "┬"
        if place + len(label) <= across:
            labels[place : place + len(label)] = label
    return "".join(axis), "".join(labels)


def _label(time: int, form: str) -> str:
    return dt.datetime.fromtimestamp(time / 1000, dt.UTC).strftime(form)
