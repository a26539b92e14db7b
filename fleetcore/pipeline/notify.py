"""Notify: sends anomalies to a notifier; each at least once, in order, also over restarts."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

from fleetcore.fleet.anomalies import AnomalyDetector
from fleetcore.interfaces.boundary import plugin_call
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.notifier import Notifier
from fleetcore.interfaces.storage import Storage
from fleetcore.model.events import ANOMALY_FOUND
from fleetcore.model.store import FeedEntry
from fleetcore.pipeline.component import ComponentConsumer
from fleetcore.pipeline.component_state import ComponentState


class Notification(ComponentConsumer[Notifier]):
    """One notifier instance as a consumer.

    Args:
        opener: opens a new notifier; called again after a failure.
        timeout_s: a longer call counts as failed.
    """

    def __init__(
        self,
        name: str,
        opener: Callable[[], AbstractAsyncContextManager[Notifier]],
        storage: Storage,
        anomalies: AnomalyDetector,
        clock: Clock,
        *,
        kept: ComponentState | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        super().__init__(f"notifier/{name}", opener, storage, clock, kept)
        self._anomalies, self._timeout_s = anomalies, timeout_s

    async def _handle(self, entries: Sequence[FeedEntry]) -> bool:
        ids = [event.subject for entry in entries for event in entry.events if event.type == ANOMALY_FOUND]
        found = [item for item in [await self._anomalies.get(anomaly) for anomaly in dict.fromkeys(ids)] if item]
        if found:
            async with plugin_call(self.name, self._timeout_s):
                await self.component.notify(found)
        return bool(found)
