"""The columns of a batch while it is filled.

Points that share a time form a group, so that shared fields are stored once and expanded by ``numpy.repeat``.
"""

import numpy as np
import numpy.typing as npt

from fleetcore.model.telemetry import NO_SEQ, Int64, Quality, TelemetryBatch, TextReading, UInt8


class Columns:
    """Filled by the fast path, a group at a time, and by the steps, a reading at a time.

    Attributes:
        series, values: one entry per point.
        times, received, quality, counts: one entry per group.
    """

    __slots__ = ("_owners", "_seqs", "counts", "quality", "received", "series", "times", "values")

    def __init__(self) -> None:
        self.series: list[int] = []
        self.values: list[float | bool | str] = []
        self.times: list[int] = []
        self.quality: list[int] = []
        self.received: list[int] = []
        self.counts: list[int] = []
        # Rare fields: the message of a group, by group; a sequence number, by point.
        self._owners: list[tuple[int, int]] = []
        self._seqs: list[tuple[int, int]] = []

    def add(
        self, message: int, series: int, value: float | bool | str, time: int, received: int, quality: int, seq: int
    ) -> None:
        """One reading."""
        if seq != NO_SEQ:
            self._seqs.append((len(self.series), seq))
        self.series.append(series)
        self.values.append(value)
        self._owners.append((len(self.counts), message))
        self.times.append(time)
        self.quality.append(quality)
        self.received.append(received)
        self.counts.append(1)

    def finish(self) -> tuple[TelemetryBatch, tuple[TextReading, ...], Int64]:
        """The batch of numbers, the texts, and for each number its message: -1 for the fast path's."""
        counts = np.array(self.counts, np.int64)
        texts: tuple[TextReading, ...] = ()
        values = self.values
        numeric: npt.NDArray[np.bool_] | None = None
        quality: UInt8 = np.repeat(np.array(self.quality, np.uint8), counts)
        kinds = set(map(type, values))
        if bool in kinds:
            truth = np.fromiter((type(value) is bool for value in values), np.bool_, len(values))
            quality[truth] |= np.uint8(Quality.BOOLEAN)
        if str in kinds:
            numeric = np.fromiter((type(value) is not str for value in values), np.bool_, len(values))
            values = [0.0 if isinstance(value, str) else value for value in values]
        seq = np.full(len(values), NO_SEQ, np.int64)
        for position, given in self._seqs:
            seq[position] = given
        batch = TelemetryBatch(
            np.array(self.series, np.int64),
            np.repeat(np.array(self.times, np.int64), counts),
            np.repeat(np.array(self.received, np.int64), counts),
            # Adding 0.0 turns -0.0 into 0.0, so that both are one value everywhere.
            np.array(values, np.float64) + 0.0,
            quality,
            seq,
        )
        owners = np.full(len(counts), -1, np.int64)
        for group, message in self._owners:
            owners[group] = message
        owner = np.repeat(owners, counts)
        if numeric is not None:
            texts = tuple(
                TextReading(
                    int(batch.series[i]),
                    int(batch.time[i]),
                    int(batch.received[i]),
                    str(self.values[i]),
                    int(batch.quality[i]),
                    int(batch.seq[i]),
                )
                for i in np.flatnonzero(~numeric)
            )
            batch, owner = batch.take(numeric), owner[numeric]
        return batch, texts, owner


def server_time(quality: int) -> int:
    """The quality of a reading whose time the server assigns."""
    return quality | Quality.SERVER_TIME
