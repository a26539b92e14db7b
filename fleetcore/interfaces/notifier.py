"""Notifier: tells people or systems about anomalies."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from fleetcore.model.anomaly import Anomaly


class Notifier(ABC):
    """Delivers anomalies to people or systems.

    Each is delivered at least once, in the order they were found, also over restarts; ``Anomaly.id`` tells repeats.
    """

    @abstractmethod
    async def notify(self, anomalies: Sequence[Anomaly]) -> None:
        """Returns once all are delivered; an exception makes the core repeat the call with back-off."""
