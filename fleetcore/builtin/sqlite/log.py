"""Rows of the log: the readings of a commit as packed columns, and its texts and events as JSON.

A row is written with every commit on the hot path, so packing uses only nearly free methods: a column of one value
costs 8 bytes, an integer column the bytes of its range. The feed and, after a restart, the tail are read from it.
"""

import numpy as np
import numpy.typing as npt
from attrs import frozen
from msgspec import json

from fleetcore.builtin.sqlite import checksum
from fleetcore.builtin.sqlite.plain import encode
from fleetcore.errors import StorageError
from fleetcore.model.store import Event, FeedEntry
from fleetcore.model.telemetry import Float64, Int64, TelemetryBatch, TextReading

Mask = npt.NDArray[np.bool_]

_FORMAT = 1
#: format, columns' widths (series, time, received, value, quality, seq, shown), number of readings.
_HEAD = np.dtype([("format", "u1"), ("width", "u1", (7,)), ("n", "<u4")])
_ONE = (1).to_bytes(8, "little")
_UNSIGNED = {1: "<u1", 2: "<u2", 4: "<u4"}


@frozen(eq=False)
class Logged:
    """The readings of a row; those that are not ``shown`` (None: all are) only raise the stored ``seq``."""

    batch: TelemetryBatch
    shown: Mask | None = None


def pack(logged: Logged) -> bytes:
    """The readings as bytes."""
    batch, n = logged.batch, len(logged.batch)
    head = np.zeros(1, _HEAD)
    shown = (_ONE, 0) if logged.shown is None else _narrow(logged.shown.astype(np.uint8))
    columns = (
        _narrow(batch.series),
        _narrow(batch.time),
        _narrow(batch.received),
        (np.ascontiguousarray(batch.value, "<f8").tobytes(), 8),
        _narrow(batch.quality),
        _narrow(batch.seq),
        shown,
    )
    widths = [width for _, width in columns]
    parts = [octets for octets, _ in columns]
    head["format"], head["width"], head["n"] = _FORMAT, widths, n
    return b"".join((head.tobytes(), *parts))


def unpack(row: bytes) -> Logged:
    """The readings of a row.

    Raises:
        StorageError: the row is damaged or its format is unknown to this release.
    """
    try:
        head = np.frombuffer(row, _HEAD, 1)[0]
        if head["format"] != _FORMAT:
            raise StorageError(f"A log row has format {head['format']}, which is unknown to this release")
        n, at = int(head["n"]), _HEAD.itemsize
        columns: list[Int64 | Float64] = []
        for i, width in enumerate(head["width"].tolist()):
            if i == 3:
                columns.append(np.frombuffer(row, "<f8", n, at).astype(np.float64))
                at += 8 * n
                continue
            column, at = _widen(row, at, n, width)
            columns.append(column)
    except ValueError as error:
        raise checksum.damaged("A row of the log") from error
    series, time, received, value, quality, seq, shown = columns
    batch = TelemetryBatch(
        series.astype(np.int64),
        time.astype(np.int64),
        received.astype(np.int64),
        value.astype(np.float64),
        quality.astype(np.uint8),
        seq.astype(np.int64),
    )
    return Logged(batch, None if shown.all() else shown.astype(np.bool_))


def pack_extras(texts: tuple[TextReading, ...], events: tuple[Event, ...]) -> bytes | None:
    """Texts and events as JSON, or None for none."""
    if not texts and not events:
        return None
    return encode(
        {
            "t": [[t.series, t.time, t.received, t.value, t.quality, t.seq] for t in texts],
            "e": [[e.type, e.subject, e.time, e.actor, e.reason, e.data] for e in events],
        }
    )


#: A stored row, as the functions below take it.
COLUMNS = "position, readings, extras, checksum"
Row = tuple[int, bytes | None, bytes | None, int | None]


def intact(row: Row) -> Row:
    """The row; raises StorageError (``data_damaged``) if its checksum does not match."""
    position, readings, extras, kept = row
    if kept is not None and kept != checksum.of_log(position, readings, extras):
        raise checksum.damaged(f"Commit {position} of the log", position=position)
    return row


def entry(row: Row) -> FeedEntry:
    """A row as an entry of the feed; raises as :func:`intact`."""
    position, readings, extras, _ = intact(row)
    batch = None
    if readings is not None:
        logged = unpack(readings)
        shown = logged.batch if logged.shown is None else logged.batch.take(logged.shown)
        batch = shown if len(shown) else None
    plain = json.decode(extras) if extras is not None else {"t": [], "e": []}
    return FeedEntry(
        position=position,
        readings=batch,
        texts=tuple(TextReading(*t) for t in plain["t"]),
        events=tuple(
            Event(type=kind, subject=subject, time=time, actor=actor, reason=reason, data=data)
            for kind, subject, time, actor, reason, data in plain["e"]
        ),
    )


def _narrow(column: np.ndarray) -> tuple[bytes, int]:
    """The minimum and then the distances from it, in 1, 2, 4 or 8 bytes each; no distances if all are equal."""
    low, high = int(column.min()), int(column.max())
    base = low.to_bytes(8, "little", signed=True)
    if low == high:
        return base, 0
    for width, dtype in _UNSIGNED.items():
        if high - low < 1 << (8 * width):
            return base + (column if low == 0 else column - low).astype(dtype).tobytes(), width
    return column.astype("<i8").tobytes(), 8


def _widen(row: bytes, at: int, n: int, width: int) -> tuple[Int64, int]:
    if width == 8:
        return np.frombuffer(row, "<i8", n, at).astype(np.int64), at + 8 * n
    base = int.from_bytes(row[at : at + 8], "little", signed=True)
    if width == 0:
        return np.full(n, base, np.int64), at + 8
    column = np.frombuffer(row, _UNSIGNED[width], n, at + 8).astype(np.int64)
    column += base
    return column, at + 8 + width * n
