"""Notifier: sends anomalies to people or systems."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from fleetcore.model.anomaly import Anomaly


class Notifier(ABC):
    """Delivers anomalies to people or systems.

    Each is delivered at least once, in the order of detection, also across restarts; ``Anomaly.id`` identifies repeats.
    """

    @abstractmethod
    async def notify(self, anomalies: Sequence[Anomaly]) -> None:
        """Returns when all are delivered; after an exception the core repeats the call with back-off."""
