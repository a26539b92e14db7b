"""The counts that a commit of readings would give, without one: new, already stored, or with a conflicting value.

The rule is the store's (:mod:`fleetcore.interfaces.storage`): of several values at one time the greatest stays.
Imported readings have no ``seq``; a device's reading with one is compared by its value alone.
"""

from collections.abc import Sequence

import numpy as np

from fleetcore.interfaces.storage import Storage
from fleetcore.model.telemetry import Int64, Tally

#: (device, metric), whether it is text, and the time.
_Key = tuple[tuple[str, str], bool, int]


async def dry_run(
    storage: Storage,
    names: Sequence[tuple[str, str]],
    at: Int64,
    time: Int64,
    value: Sequence[float | str],
    *,
    counted_from: int = 0,
) -> Tally:
    """Counts readings in order; those before ``counted_from`` are regarded as stored and not counted.

    Args:
        names: device and metric of each index in ``at``.
        value: in the store's unit, or text.
    """
    winners: dict[_Key, float | str] = {}
    for place in np.unique(at).tolist():
        await _held(storage, names[place], np.unique(time[at == place]), winners)
    stored = duplicates = conflicts = 0
    for number, (place, moment, new) in enumerate(zip(at.tolist(), time.tolist(), value, strict=True)):
        key = names[place], isinstance(new, str), moment
        old = winners.get(key)
        counts = number >= counted_from
        if old is None:
            winners[key] = new
            stored += counts
        elif old == new:
            duplicates += counts
        else:
            winners[key] = max(old, new)  # both text, or both numbers: the key says which
            conflicts += counts
    return Tally(stored=stored, duplicates=duplicates, conflicts=conflicts)


async def _held(storage: Storage, name: tuple[str, str], times: Int64, winners: dict[_Key, float | str]) -> None:
    """Adds the stored values at some times of a series."""
    series = storage.catalog.find(*name)
    if series is None:
        return
    first, last = int(times[0]), int(times[-1]) + 1
    async for piece in storage.read(series.index, first, last):
        there = np.isin(piece.time, times, assume_unique=True)
        for moment, value in zip(piece.time[there].tolist(), piece.value[there].tolist(), strict=True):
            winners[name, False, moment] = value
    wanted = frozenset(times.tolist())
    async for text in storage.read_texts(series.index, first, last):
        if text.time in wanted:
            winners[name, True, text.time] = text.value
