"""Detector: finds abnormal readings in what was stored, and series that have fallen silent."""

from abc import ABC, abstractmethod

from fleetcore.model.anomaly import Findings, Silences
from fleetcore.model.telemetry import SeriesCatalog, TelemetryBatch


class Detector(ABC):
    """Scores readings in batches.

    The core shows each stored reading of the instance's scope (``where``, ``metrics``) exactly once, in the order it
    was committed, also over restarts: the state from :meth:`snapshot` is kept with the place in the feed it belongs to.
    Calls come one at a time, from a worker thread; a call that raises or overruns its time-out is retried with
    back-off from the last snapshot and shown by ``fleetcore doctor``; ingest goes on meanwhile.
    So a detector must be deterministic: the same readings in the same order give the same findings, also where they
    come in other batches, for what is shown again after a crash need not be cut as it was before.
    """

    @abstractmethod
    def observe(self, batch: TelemetryBatch, catalog: SeriesCatalog) -> Findings:
        """Looks at stored readings, in arrival order; ``catalog`` tells device, metric and unit of a series index."""

    def advance(self, now_ms: int) -> Silences:
        """Is told the time, and says from which series nothing came in time; by default from none.

        ``now_ms`` is in whole seconds of the server's clock. Before readings that were received in a second, the
        detector is told that second; while none come, one second after the other, 5 s late. So it has been told no
        more than what the readings tell, at whatever time it is run: what is found depends on the readings alone. It
        never goes back, neither over a restart nor where the clock is set back, and may leave seconds out.

        An anomaly's id follows from detector, series and deadline: what is found again after a crash is the same
        anomaly. Between two readings of a series each deadline is to be reported once.
        """
        del now_ms
        return Silences.none()

    def snapshot(self) -> bytes:
        """The state, in a form that later versions can read; empty for a detector without one."""
        return b""

    def restore(self, state: bytes) -> None:
        """Takes back what :meth:`snapshot` gave; raises ``ValueError`` for what it cannot read."""
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state")
