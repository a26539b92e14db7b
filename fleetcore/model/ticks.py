"""Time as detectors get it: in whole seconds derived from the readings, so that every run gets the same times."""

from collections.abc import Iterator

import numpy as np

from fleetcore.model.telemetry import TelemetryBatch

#: The step of a detector's time, ms.
TICK_MS = 1000
#: How far a detector's time is behind the clock while no readings come: received readings may wait this long for their
#: commit.
LAG_MS = 5000


def tick(time_ms: int) -> int:
    """The start of the second that contains a time."""
    return time_ms // TICK_MS * TICK_MS


def parts(batch: TelemetryBatch, now_ms: int) -> Iterator[tuple[int, slice]]:
    """Splits a batch by the second of receipt: for each part, the detector's time before it, and its slice.

    The time never goes back behind ``now_ms``: readings received before it belong to it. However a stream is cut into
    batches, its readings get the same times. Nothing here loops over readings.
    """
    if not len(batch):
        return
    seconds = np.maximum.accumulate(np.maximum(batch.received // TICK_MS * TICK_MS, now_ms))
    starts = np.flatnonzero(np.diff(seconds, prepend=seconds[0] - 1))
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(batch)], strict=True):
        yield int(seconds[start]), slice(start, end)
