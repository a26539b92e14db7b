"""Detector: finds abnormal readings in what was stored."""

from abc import ABC, abstractmethod

from fleetcore.model.anomaly import Findings
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

    def snapshot(self) -> bytes:
        """The state, in a form that later versions can read; empty for a detector without one."""
        return b""

    def restore(self, state: bytes) -> None:
        """Takes back what :meth:`snapshot` gave; raises ``ValueError`` for what it cannot read."""
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state")
