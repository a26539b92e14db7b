"""Anomalies: what a detector found, as columns while it is fresh and as a record once it is kept."""

import numpy as np
from attrs import field, frozen

from fleetcore.model.kinds import Severity as Severity  # noqa: PLC0414  # detectors find it here
from fleetcore.model.telemetry import Float64, Int64


@frozen(kw_only=True, eq=False)
class Findings:
    """What a detector found in one batch: equally long columns.

    Attributes:
        index: int64, positions in the batch that was observed, ascending.
        score: float64 ≥ 0, how far from normal in the detector's own measure; 1.0 is the limit where there is one.
        expected: float64, the value that would have been normal; NaN where the detector has no idea of one.
        severity: of all of them.
        explanation: one sentence for people; ``{value}``, ``{expected}`` and ``{score}`` are filled in per finding.
    """

    index: Int64
    score: Float64
    expected: Float64
    severity: Severity = Severity.WARNING
    explanation: str = "{value} where {expected} was expected"

    def __len__(self) -> int:
        return len(self.index)

    @staticmethod
    def none() -> "Findings":
        """Nothing found."""
        return Findings(index=np.empty(0, np.int64), score=np.empty(0), expected=np.empty(0))


@frozen(kw_only=True, eq=False)
class Silences:
    """Series from which nothing came in time: equally long columns.

    Attributes:
        series: int64, indices of series, each at most once.
        deadline: int64, ms since the epoch: by when a reading had to come; not after the time that was told.
        since: int64, ms since the epoch: when the last one was received.
        score: float64 ≥ 0, as of :class:`Findings`.
        severity: of all of them.
        explanation: one sentence for people; ``{since}``, ``{deadline}`` and ``{score}`` are filled in.
    """

    series: Int64
    deadline: Int64
    since: Int64
    score: Float64
    severity: Severity = Severity.WARNING
    explanation: str = "no reading since {since}; one was due by {deadline}"

    def __len__(self) -> int:
        return len(self.series)

    @staticmethod
    def none() -> "Silences":
        """Nothing is overdue."""
        empty = np.empty(0, np.int64)
        return Silences(series=empty, deadline=empty, since=empty, score=np.empty(0))


@frozen(kw_only=True)
class Anomaly:
    """One reading that a detector found abnormal, or one that did not come.

    Attributes:
        id: derived from detector, series and time (for a reading that did not come: its deadline), so that finding it
            twice keeps it once.
        time: the reading's event time, or the deadline, ms since the epoch.
        observed: its value; None where none came.
        found: when it was found, ms since the epoch.
    """

    id: str
    detector: str
    device: str
    metric: str
    time: int
    observed: float | None
    expected: float | None
    score: float
    severity: Severity
    explanation: str
    found: int = field(default=0)
