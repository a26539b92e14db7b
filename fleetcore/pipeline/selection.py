"""Selection: which readings of a batch belong to devices that a query selects.

A device is evaluated at its first reading, and again after a stored change.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fleetcore.errors import NotFound
from fleetcore.fleet.documents import TIMED
from fleetcore.fleet.search import Search, parts_of
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.model.events import changed_parts, device_of
from fleetcore.model.store import FeedEntry
from fleetcore.model.telemetry import TelemetryBatch
from fleetcore.query.ast import Clause
from fleetcore.query.resolve import is_timed

#: How long an answer that depends on the time is valid.
_BELIEVED_S = 60.0


class Selection:
    """Caches the answer by device until it may have changed."""

    def __init__(self, where: Clause, search: Search, storage: Storage, clock: Clock) -> None:
        self._where, self._search, self._storage, self._clock = where, search, storage, clock
        self._known: dict[str, bool] = {}
        #: Whether the answer depends on the time or on readings: then no stored change announces its change.
        self.is_timed = is_timed(where) or bool(parts_of(where) & (TIMED | {"latest"}))
        self._by_readings = "latest" in parts_of(where)
        self._since_s = clock.monotonic_s()

    def follow(self, entries: Sequence[FeedEntry]) -> None:
        """Forgets answers that the entries may have changed."""
        if self._by_readings or (self.is_timed and self._clock.monotonic_s() - self._since_s >= _BELIEVED_S):
            self._known.clear()
            self._since_s = self._clock.monotonic_s()
        for entry in entries:
            for event in entry.events:
                if changed_parts(event):
                    self._known.pop(device_of(event) or "", None)

    async def mask(self, batch: TelemetryBatch) -> npt.NDArray[np.bool_]:
        """Which readings are of devices that are selected now."""
        catalog = self._storage.catalog
        series, place = np.unique(batch.series, return_inverse=True)
        wanted = [await self.selects(catalog.series(index).device) for index in series.tolist()]
        return np.array(wanted, np.bool_)[place]

    async def selects(self, device: str) -> bool:
        """Whether a device is selected now."""
        known = self._known.get(device)
        if known is None:
            try:
                known = await self._search.is_true(self._where, device)
            except NotFound:
                known = False
            self._known[device] = known
        return known
