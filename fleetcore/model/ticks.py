"""Time as detectors are told it: in whole seconds, by the readings, so that it is the same whenever it is told."""

from collections.abc import Iterator

import numpy as np

from fleetcore.model.telemetry import TelemetryBatch

#: How fine time is told, ms.
TICK_MS = 1000
#: How far behind the clock time is told while no readings come: those that were received wait so long for their commit.
LAG_MS = 5000


def tick(time_ms: int) -> int:
    """The beginning of the second of a time."""
    return time_ms // TICK_MS * TICK_MS


def parts(batch: TelemetryBatch, now_ms: int) -> Iterator[tuple[int, slice]]:
    """A batch second by second as it was received: the time to be told before each part, and where the part is.

    The time never goes back behind ``now_ms``: readings that were received before it belong to it. However a stream is
    cut into batches, its readings get the same times. Nothing here loops over readings.
    """
    if not len(batch):
        return
    seconds = np.maximum.accumulate(np.maximum(batch.received // TICK_MS * TICK_MS, now_ms))
    starts = np.flatnonzero(np.diff(seconds, prepend=seconds[0] - 1))
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(batch)], strict=True):
        yield int(seconds[start]), slice(start, end)
