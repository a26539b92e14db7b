"""Rows of the log: the readings of a commit as packed columns, and its texts and events as JSON.

A row is written with every commit on the hot path, so packing uses only nearly free methods: a column of one value
costs 8 bytes, an integer column the bytes of its range. The feed and, after a restart, the tail are read from it.
"""

import struct
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from attrs import frozen
from msgspec import json

from fleetcore.builtin.sqlite import checksum
from fleetcore.builtin.sqlite.plain import encode
from fleetcore.errors import StorageError
from fleetcore.model.store import Event, FeedEntry
from fleetcore.model.telemetry import Int64, TelemetryBatch, TextReading

Mask = npt.NDArray[np.bool_]

_FORMAT = 1
#: format, columns' widths (series, time, received, value, quality, seq, shown), number of readings.
_HEAD = struct.Struct("<B7BI")
#: The place of the values among the columns.
_VALUE = 3
_ONE = (1).to_bytes(8, "little")
_UNSIGNED = {1: "<u1", 2: "<u2", 4: "<u4"}
_LETTERS = {1: "B", 2: "H", 4: "I", 8: "q"}
#: Up to so many readings a row is read number by number: a call of numpy takes as long as twenty numbers.
_FEW = 32


@frozen(eq=False)
class Logged:
    """The readings of a row; those that are not ``shown`` (None: all are) only raise the stored ``seq``."""

    batch: TelemetryBatch
    shown: Mask | None = None


def pack(logged: Logged) -> bytes:
    """The readings as bytes."""
    batch, n = logged.batch, len(logged.batch)
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
    return b"".join((_HEAD.pack(_FORMAT, *widths, n), *parts))


def unpack(row: bytes) -> Logged:
    """The readings of a row.

    Raises:
        StorageError: the row is damaged or its format is unknown to this release.
    """
    try:
        kind, *widths, n = _HEAD.unpack_from(row)
        if kind != _FORMAT:
            raise StorageError(f"A log row has format {kind}, which is unknown to this release")
        if 8 * n > len(row):  # the values alone are longer
            raise checksum.damaged("A row of the log")
        return _few(row, widths, n) if n <= _FEW else _many(row, widths, n)
    except (ValueError, OverflowError, KeyError, struct.error) as error:
        raise checksum.damaged("A row of the log") from error


def _many(row: bytes, widths: Sequence[int], n: int) -> Logged:
    columns: list[Int64] = []
    at = _HEAD.size
    for place, width in enumerate(widths):
        if place == _VALUE:
            value = np.frombuffer(row, "<f8", n, at).astype(np.float64)
            at += 8 * n
            continue
        column, at = _widen(row, at, n, width)
        columns.append(column)
    series, time, received, quality, seq, shown = columns
    batch = TelemetryBatch(series, time, received, value, quality.astype(np.uint8), seq)
    return Logged(batch, None if shown.all() else shown.astype(np.bool_))


def _few(row: bytes, widths: Sequence[int], n: int) -> Logged:
    columns: list[Sequence[int]] = []
    at = _HEAD.size
    for place, width in enumerate(widths):
        if place == _VALUE:
            value = np.frombuffer(row, "<f8", n, at).astype(np.float64)
            at += 8 * n
        elif width == 8:
            columns.append(struct.unpack_from(f"<{n}q", row, at))
            at += 8 * n
        else:
            base = int.from_bytes(row[at : at + 8], "little", signed=True)
            at += 8
            if width == 0:
                columns.append((base,) * n)
                continue
            columns.append([base + each for each in struct.unpack_from(f"<{n}{_LETTERS[width]}", row, at)])
            at += width * n
    *numbers, quality, seq, shown = columns
    series, time, received, seqs = np.array((*numbers, seq), np.int64)
    batch = TelemetryBatch(series, time, received, value, np.array(quality, np.uint8), seqs)
    return Logged(batch, None if all(shown) else np.array(shown, np.bool_))


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
    if extras is None:
        return FeedEntry(position=position, readings=batch, texts=(), events=())
    plain = json.decode(extras)
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
