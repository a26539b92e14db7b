"""Models of what is seen: readings, anomalies, health, refused messages."""

from fleetcore.model.anomaly import Severity
from fleetcore.model.device import Connectivity, Lifecycle
from fleetcore_api.models import ChangeOut, Json, MembershipOut, Out, Time
from fleetcore_api.models_firmware import ExecutionOut
from fleetcore_api.models_state import CommandOut

Value = float | bool | str


class AnomalyOut(Out):
    """A reading that a detector found abnormal."""

    id: str
    detector: str
    device: str
    metric: str
    time: Time | None
    observed: float
    expected: float | None
    score: float
    severity: Severity
    explanation: str
    found: Time | None


class HealthOut(Out):
    """A score from 0 to 100 (null for a fleet without devices), its parts, and the counts behind them."""

    score: float | None
    parts: dict[str, float]
    counts: dict[str, int]


class PresenceOut(Out):
    """What is seen of a device now."""

    connectivity: Connectivity
    last_seen: Time | None
    asleep_until: Time | None


class WhyOut(Out):
    """Everything that bears on a device, each part with its reason."""

    device: str
    lifecycle: Lifecycle
    presence: PresenceOut
    findings: list[str]
    health: HealthOut
    groups: list[MembershipOut]
    unconverged: dict[str, Time]
    refused: Json
    waiting: list[CommandOut]
    updating: list[ExecutionOut]
    anomalies: list[AnomalyOut]
    changes: list[ChangeOut]
