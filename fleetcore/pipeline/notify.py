"""Notify: hands what detectors found to a notifier; each anomaly at least once, in order, also over restarts."""

import asyncio
from collections.abc import Sequence

from fleetcore.fleet.anomalies import AnomalyDetector
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.notifier import Notifier
from fleetcore.interfaces.storage import Storage
from fleetcore.model.store import FeedEntry
from fleetcore.pipeline.consumer import Consumer
from fleetcore.pipeline.detect import FOUND


class Notification(Consumer):
    """One notifier instance as a consumer; a call that takes longer than ``timeout_s`` counts as failed."""

    def __init__(
        self,
        name: str,
        notifier: Notifier,
        storage: Storage,
        anomalies: AnomalyDetector,
        clock: Clock,
        *,
        timeout_s: float = 30.0,
    ) -> None:
        super().__init__(f"notifier/{name}", storage, clock)
        self._notifier, self._anomalies, self._timeout_s = notifier, anomalies, timeout_s

    async def _handle(self, entries: Sequence[FeedEntry]) -> bool:
        ids = [event.subject for entry in entries for event in entry.events if event.type == FOUND]
        found = [one for one in [await self._anomalies.get(anomaly) for anomaly in dict.fromkeys(ids)] if one]
        if found:
            async with asyncio.timeout(self._timeout_s):
                await self._notifier.notify(found)
        return bool(found)
