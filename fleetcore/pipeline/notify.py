"""Notify: sends anomalies to a notifier; each at least once, in order, also over restarts.

Anomalies of a backlog, such as a gateway's after an outage, are listed and are no news: a notifier gets them only where
its section says ``late = true``.
"""

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
        late: whether it gets anomalies of a backlog too.
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
        late: bool = False,
        timeout_s: float = 30.0,
    ) -> None:
        super().__init__(f"notifier/{name}", opener, storage, clock, kept)
        self._anomalies, self._late, self._timeout_s = anomalies, late, timeout_s

    async def _handle(self, entries: Sequence[FeedEntry]) -> bool:
        ids = [event.subject for entry in entries for event in entry.events if event.type == ANOMALY_FOUND]
        known = [await self._anomalies.get(anomaly) for anomaly in dict.fromkeys(ids)]
        found = [item for item in known if item is not None and (self._late or not item.late)]
        if found:
            async with plugin_call(self.name, self._timeout_s):
                await self.component.notify(found)
        return bool(found)
