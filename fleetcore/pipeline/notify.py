"""Notify: hands what detectors found to a notifier; each anomaly at least once, in order, also over restarts."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

from fleetcore.errors import PluginError
from fleetcore.fleet.anomalies import AnomalyDetector
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.notifier import Notifier
from fleetcore.interfaces.storage import Storage
from fleetcore.model.events import ANOMALY_FOUND
from fleetcore.model.store import FeedEntry
from fleetcore.pipeline.consumer import Consumer

_log = logging.getLogger(__name__)


class Notification(Consumer):
    """One notifier instance as a consumer.

    Args:
        opener: opens a fresh notifier; asked again after a failure.
        timeout_s: a call that takes longer counts as failed.
    """

    def __init__(
        self,
        name: str,
        opener: Callable[[], AbstractAsyncContextManager[Notifier]],
        storage: Storage,
        anomalies: AnomalyDetector,
        clock: Clock,
        *,
        timeout_s: float = 30.0,
    ) -> None:
        super().__init__(f"notifier/{name}", storage, clock)
        self._opener, self._anomalies, self._timeout_s = opener, anomalies, timeout_s
        self._entered: AbstractAsyncContextManager[Notifier] | None = None
        self._notifier: Notifier | None = None

    async def _open(self) -> None:
        self._entered = self._opener()
        try:
            async with asyncio.timeout(self._timeout_s):
                self._notifier = await self._entered.__aenter__()
        except BaseException:
            self._entered = None  # what was not entered is not left
            raise

    async def _shut(self) -> None:
        entered, self._entered, self._notifier = self._entered, None, None
        if entered is not None:
            try:
                async with asyncio.timeout(self._timeout_s):
                    await entered.__aexit__(None, None, None)
            except Exception as error:
                _log.warning("%s did not close well: %s: %s", self.name, type(error).__name__, error)

    async def _handle(self, entries: Sequence[FeedEntry]) -> bool:
        ids = [event.subject for entry in entries for event in entry.events if event.type == ANOMALY_FOUND]
        found = [one for one in [await self._anomalies.get(anomaly) for anomaly in dict.fromkeys(ids)] if one]
        if found:
            assert self._notifier is not None
            try:
                async with asyncio.timeout(self._timeout_s):
                    await self._notifier.notify(found)
            except SystemExit as error:  # exit() in a plugin is the plugin's failure, not our end
                raise PluginError(f"It called exit({error.code!r})") from error
        return bool(found)
