"""Detector: finds abnormal readings among the stored ones, and series that have gone silent."""

from abc import ABC, abstractmethod

from fleetcore.model.anomaly import Findings, Silences
from fleetcore.model.telemetry import SeriesCatalog, TelemetryBatch


class Detector(ABC):
    """Scores readings in batches.

    The core passes each stored reading in the instance's scope (``where``, ``metrics``) exactly once, in commit order,
    also across restarts: the state from :meth:`snapshot` is stored with its place in the feed. Calls come one at a
    time, from a worker thread. A call that raises or exceeds its time-out is retried with back-off from the last
    snapshot and reported by ``fleetcore doctor``; ingest continues meanwhile. A detector must therefore be
    deterministic: the same readings in the same order give the same findings however they are cut into batches, since
    the batches after a crash may differ.
    """

    @abstractmethod
    def observe(self, batch: TelemetryBatch, catalog: SeriesCatalog) -> Findings:
        """Scores stored readings, in arrival order; ``catalog`` gives device, metric and unit of a series index."""

    def advance(self, now_ms: int) -> Silences:
        """Receives the time, and returns the series that are overdue; by default none.

        ``now_ms`` is in whole seconds of the server's clock. Before the readings received in a second, the detector
        gets that second; while none come, it gets each second in turn, 5 s late. Findings therefore depend only on the
        readings, not on when the detector runs. The time never goes back, neither across a restart nor when the clock
        is set back, and may skip seconds.

        An anomaly's id follows from detector, series and deadline: a repeated finding after a crash is the same
        anomaly. Between two readings of a series, report each deadline once.
        """
        del now_ms
        return Silences.none()

    def snapshot(self) -> bytes:
        """The state, in a form that later versions can read; empty for a stateless detector."""
        return b""

    def restore(self, state: bytes) -> None:
        """Restores the state of :meth:`snapshot`; raises ``ValueError`` for a state that it cannot read."""
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state")
