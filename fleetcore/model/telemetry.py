"""Telemetry as columns: a batch of readings, and the series they belong to.

A series is one metric of one device, interned once as a small integer. Numbers and booleans travel in
:class:`TelemetryBatch`; text readings travel beside it as :class:`TextReading`.
"""

from collections.abc import Sequence
from enum import IntFlag
from typing import Protocol

import numpy as np
import numpy.typing as npt
from attrs import evolve, frozen

from fleetcore.model.kinds import SeriesKind as SeriesKind  # noqa: PLC0414  # beside what has one

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
UInt8 = npt.NDArray[np.uint8]

#: The ``seq`` of a reading whose device sent none; every sent one wins against it.
NO_SEQ = -1


class Quality(IntFlag):
    """Bits of the ``quality`` column."""

    GOOD = 0
    SERVER_TIME = 1  #: the server assigned the time
    QUARANTINED = 2  #: the device was quarantined when it sent this
    CLOCK_SUSPECT = 4  #: the device's clock disagreed with ours
    BOOLEAN = 8  #: the reading is true or false, stored as 1.0 or 0.0


@frozen(kw_only=True)
class Series:
    """One metric of one device.

    Attributes:
        index: the store's small non-negative integer for it, never reused.
        unit: the unit of the first reading that has one, or None.
        kind: BOOLEAN where an earlier release stored booleans in it without ``Quality.BOOLEAN``. For the kind of each
            reading see :func:`booleans`.
    """

    index: int
    device: str
    metric: str
    unit: str | None = None
    kind: SeriesKind = SeriesKind.NUMBER


class SeriesCatalog(Protocol):
    """Looks series up by index; a detector gets it with each batch."""

    def series(self, index: int) -> Series:
        """The series of ``index``; raises ``KeyError`` where it does not exist."""
        ...


@frozen(eq=False)
class TelemetryBatch:
    """Readings as equally long columns, in arrival order.

    Attributes:
        series: int64, the index of each point's series.
        time: int64, event time in ms since the epoch.
        received: int64, when the server received it, ms since the epoch.
        value: float64, finite; booleans are 0.0 and 1.0.
        quality: uint8, bits of :class:`Quality`.
        seq: int64, the device's sequence number or ``NO_SEQ``.
    """

    series: Int64
    time: Int64
    received: Int64
    value: Float64
    quality: UInt8
    seq: Int64

    def __len__(self) -> int:
        return len(self.series)

    @classmethod
    def of(
        cls,
        series: Sequence[int] | Int64,
        time: Sequence[int] | Int64,
        value: Sequence[float] | Float64,
        *,
        received: Sequence[int] | Int64 | int | None = None,
        quality: Sequence[int] | UInt8 | int = 0,
        seq: Sequence[int] | Int64 | int = NO_SEQ,
    ) -> "TelemetryBatch":
        """Builds a batch; scalars apply to all points, and ``received`` defaults to ``time``."""
        index = np.asarray(series, np.int64)
        n = len(index)
        when = np.asarray(time, np.int64)

        def column(given: object, dtype: type[np.generic]) -> npt.NDArray[np.generic]:
            return np.full(n, given, dtype) if np.ndim(given) == 0 else np.asarray(given, dtype)  # type: ignore[arg-type]  # numpy's stubs do not take object

        return cls(
            index,
            when,
            when if received is None else column(received, np.int64),  # type: ignore[arg-type]  # see column
            np.asarray(value, np.float64),
            column(quality, np.uint8),  # type: ignore[arg-type]  # see column
            column(seq, np.int64),  # type: ignore[arg-type]  # see column
        )

    @classmethod
    def of_rows(cls, rows: "Sequence[NumberReading]") -> "TelemetryBatch":
        """Builds a batch of single readings, in their order."""
        return cls.of(
            [row.series for row in rows],
            [row.time for row in rows],
            [row.value for row in rows],
            received=[row.received for row in rows],
            quality=[row.quality for row in rows],
            seq=[row.seq for row in rows],
        )

    def rows(self) -> "list[NumberReading]":
        """The single readings, in their order."""
        columns = (self.series, self.time, self.received, self.value, self.quality, self.seq)
        return [NumberReading(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]

    @classmethod
    def empty(cls) -> "TelemetryBatch":
        """A batch of no points."""
        return cls.of([], [], [])

    def take(self, which: npt.NDArray[np.bool_] | Int64) -> "TelemetryBatch":
        """The points that a boolean mask or an index array selects, in that order."""
        return TelemetryBatch(
            self.series[which],
            self.time[which],
            self.received[which],
            self.value[which],
            self.quality[which],
            self.seq[which],
        )

    def at_series(self, series: Int64) -> "TelemetryBatch":
        """The same points under other series indices."""
        return evolve(self, series=series)

    @staticmethod
    def concat(batches: Sequence["TelemetryBatch"]) -> "TelemetryBatch":
        """One batch of all points, in order."""
        if not batches:
            return TelemetryBatch.empty()
        if len(batches) == 1:
            return batches[0]
        return TelemetryBatch(
            np.concatenate([b.series for b in batches]),
            np.concatenate([b.time for b in batches]),
            np.concatenate([b.received for b in batches]),
            np.concatenate([b.value for b in batches]),
            np.concatenate([b.quality for b in batches]),
            np.concatenate([b.seq for b in batches]),
        )


@frozen
class NumberReading:
    """One number: a row of :class:`TelemetryBatch`, for code that handles few readings."""

    series: int
    time: int
    received: int
    value: float
    quality: int = 0
    seq: int = NO_SEQ


@frozen
class TextReading:
    """One text value; ``seq`` and the winner's rule are those of the columns, with text compared by code point."""

    series: int
    time: int
    received: int
    value: str
    quality: int = 0
    seq: int = NO_SEQ


@frozen(kw_only=True, eq=False)
class SeriesData:
    """The result of reading one series: equally long columns sorted by time, each time once."""

    series: Series
    time: Int64
    value: Float64
    quality: UInt8

    def __len__(self) -> int:
        return len(self.time)


@frozen(kw_only=True, eq=False)
class Aggregates:
    """One series in buckets: ``start`` int64 ms, then float64 ``min max mean sum first last`` and int64 ``count``.

    Empty buckets are left out, so a gap in ``start`` is a gap in the data.
    """

    series: Series
    start: Int64
    count: Int64
    min: Float64
    max: Float64
    mean: Float64
    sum: Float64
    first: Float64
    last: Float64


@frozen
class Latest:
    """The reading with the newest event time of a series (not the last received)."""

    series: Series
    time: int
    value: float | bool | str

    @property
    def kind(self) -> SeriesKind:
        """The kind of the reading."""
        if isinstance(self.value, bool):
            return SeriesKind.BOOLEAN
        return SeriesKind.TEXT if isinstance(self.value, str) else SeriesKind.NUMBER


def booleans(series: Series, value: Float64, quality: UInt8) -> npt.NDArray[np.bool_]:
    """Which points of a series are booleans, as each point was sent."""
    flags: npt.NDArray[np.bool_] = (quality & Quality.BOOLEAN) != 0
    if series.kind is SeriesKind.BOOLEAN:
        # Earlier releases stored the booleans of such a series as numbers.
        flags |= (value == 0.0) | (value == 1.0)
    return flags


def shown(series: Series, value: Float64, quality: UInt8) -> list[float | bool]:
    """The values of some points as they were sent: numbers as float, booleans as bool."""
    flags = booleans(series, value, quality)
    if not flags.any():
        return list(value.tolist())
    return [bool(item) if flag else item for item, flag in zip(value.tolist(), flags.tolist(), strict=True)]


def shown_value(series: Series, value: float, quality: int) -> float | bool:
    """One point's value as it was sent."""
    return shown(series, np.array([value]), np.array([quality], np.uint8))[0]


@frozen
class Tally:
    """Counts of what became of points; ``sent = stored + duplicates + conflicts + refused`` always holds."""

    stored: int = 0
    duplicates: int = 0
    conflicts: int = 0
    refused: int = 0

    @property
    def sent(self) -> int:
        """The number of points examined."""
        return self.stored + self.duplicates + self.conflicts + self.refused

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.stored + other.stored,
            self.duplicates + other.duplicates,
            self.conflicts + other.conflicts,
            self.refused + other.refused,
        )
