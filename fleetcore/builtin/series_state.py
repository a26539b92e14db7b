"""Shared by detectors: points grouped by series, state columns that grow with the series, and snapshots.

State is one array per quantity, indexed by series. A snapshot is a small header and the raw arrays, little-endian, so
that a later version can read it without unpickling.
"""

import struct
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from attrs import frozen

from fleetcore.model.telemetry import Int64, TelemetryBatch

#: Magic, format version, number of arrays, series.
_HEADER = struct.Struct("<4sHHQ")
_MAGIC = b"FCds"

Column = npt.NDArray[np.generic]


@frozen(eq=False)
class Grouped:
    """The points of a batch, one series after the other, each in arrival order.

    Attributes:
        order: position in the batch of each grouped point.
        ids: the series, ascending; ``starts`` and ``counts`` say where their points are.
    """

    order: Int64
    ids: Int64
    starts: Int64
    counts: Int64


def group(batch: TelemetryBatch) -> Grouped:
    """Groups a non-empty batch by series."""
    keys: npt.NDArray[np.integer] = batch.series
    if int(keys.max()) < 1 << 16:
        keys = keys.astype(np.uint16)  # numpy sorts 16 bits by radix, several times faster
    order = np.argsort(keys, kind="stable")
    ordered = batch.series[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    counts = np.diff(np.concatenate([starts, [len(ordered)]]))
    return Grouped(order, ordered[starts], starts, counts)


def grown(column: Column, size: int, fill: float = 0) -> Column:
    """The column with room for ``size`` series; its length doubles, so that growing it step by step stays cheap."""
    if size <= len(column):
        return column
    longer = np.full(max(size, 2 * len(column)), fill, column.dtype)
    longer[: len(column)] = column
    return longer


def pack(version: int, columns: Sequence[Column]) -> bytes:
    """Packs columns of equal length into bytes."""
    parts = [_HEADER.pack(_MAGIC, version, len(columns), len(columns[0]))]
    parts.extend(np.ascontiguousarray(column, column.dtype.newbyteorder("<")).tobytes() for column in columns)
    return b"".join(parts)


def unpack(state: bytes, versions: Mapping[int, Sequence[type[np.generic]]]) -> tuple[int, list[Column]]:
    """The version and the columns of :func:`pack`, as new arrays.

    Args:
        state: the packed bytes.
        versions: for each version that can be read, the types of its columns.

    Raises ``ValueError`` for an unknown version, a truncated state or foreign bytes.
    """
    if len(state) < _HEADER.size or not state.startswith(_MAGIC):
        raise ValueError("these bytes are not a detector state")
    _, version, count, size = _HEADER.unpack_from(state)
    types = versions.get(version)
    if types is None or count != len(types):
        raise ValueError(f"detector state of version {version} cannot be read; this release reads {sorted(versions)}")
    if len(state) - _HEADER.size != size * sum(np.dtype(item).itemsize for item in types):
        raise ValueError("the detector state is truncated")
    columns: list[Column] = []
    at = _HEADER.size
    for item in types:
        kind = np.dtype(item)
        columns.append(np.frombuffer(state, kind.newbyteorder("<"), size, at).astype(kind))
        at += size * kind.itemsize
    return version, columns
