"""Anomalies: what a detector found, as columns before they are stored and as records after."""

import numpy as np
from attrs import field, frozen

from fleetcore.model.kinds import Severity as Severity  # noqa: PLC0414  # detectors find it here
from fleetcore.model.telemetry import Float64, Int64


@frozen(kw_only=True, eq=False)
class Findings:
    """What a detector found in one batch: equally long columns.

    Attributes:
        index: int64, positions in the observed batch, ascending.
        score: float64 ≥ 0, how far from normal in the detector's measure; 1.0 is the limit where there is one.
        expected: float64, the normal value; NaN where the detector does not know one.
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
    """Series whose next reading is overdue: equally long columns.

    Attributes:
        series: int64, indices of series, each at most once.
        deadline: int64, ms since the epoch: when a reading was due; not after the detector's time.
        since: int64, ms since the epoch: when the last reading was received.
        score: float64 ≥ 0, as in :class:`Findings`.
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


#: A reading or an alert that arrives more than this after its time belongs to a backlog, ms.
LATE_MS = 900_000


@frozen(kw_only=True)
class Anomaly:
    """One reading that a detector found abnormal, or one that is missing.

    Attributes:
        id: derived from detector, series and time (of a missing reading: its deadline), so that a repeated finding is
            stored once.
        time: the reading's event time, or the deadline, ms since the epoch.
        observed: its value; None where it is missing.
        found: when the detector found it, ms since the epoch.
        late: it came to the fleet over :data:`LATE_MS` after its time, as a backlog does, and is not notified.
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
    late: bool = False
