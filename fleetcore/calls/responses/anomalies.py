"""Answers about anomalies found by detectors."""

from fleetcore.calls.types import Ms, Response
from fleetcore.model.kinds import Severity


class AnomalyResponse(Response, frozen=True):
    """A reading that a detector found abnormal, or one that was missing at ``time`` and has no ``observed``.

    A ``late`` one came over 15 minutes after its time, as after an outage of a gateway.
    """

    id: str
    detector: str
    device: str
    metric: str
    time: Ms | None
    observed: float | None
    expected: float | None
    score: float
    severity: Severity
    explanation: str
    found: Ms | None
    late: bool = False
