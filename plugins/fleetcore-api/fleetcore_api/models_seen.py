"""Models of what is seen: readings, anomalies, health, refused messages."""

from typing import Annotated

from msgspec import Meta

from fleetcore.model.anomaly import Severity
from fleetcore.model.device import Connectivity, Lifecycle
from fleetcore.model.message import Operation
from fleetcore.model.telemetry import SeriesKind
from fleetcore_api.models import ChangeOut, In, Json, MembershipOut, Out, Time
from fleetcore_api.models_firmware import ExecutionOut
from fleetcore_api.models_state import CommandOut

Value = float | bool | str


class SeriesOut(Out):
    """Points of one series, ``[time, value]`` each; ``more`` is from when to ask for the rest."""

    device: str
    metric: str
    unit: str | None
    points: list[tuple[Time, Value]]
    more: Time | None


class ReadingIn(In):
    """One reading; without a time it is now, and with an id the same again is stored once."""

    metric: Annotated[str, Meta(min_length=1, max_length=64)]
    value: Value
    unit: Annotated[str, Meta(max_length=64)] | None = None
    time: Annotated[str, Meta(max_length=64)] | int | None = None
    id: Annotated[str, Meta(min_length=1, max_length=64)] | None = None


class StoredOut(Out):
    """How many readings were new."""

    device: str
    metric: str
    stored: int


class SeriesInfoOut(Out):
    """A series: what of a device is measured, in which unit, and of which kind."""

    device: str
    metric: str
    unit: str | None
    kind: SeriesKind


class BucketOut(Out):
    """The points of a bucket together; buckets without points are left out."""

    start: Time
    count: int
    min: float
    max: float
    mean: float
    sum: float
    first: float
    last: float


class BucketsOut(Out):
    """One series in buckets."""

    device: str
    metric: str
    unit: str | None
    buckets: list[BucketOut]


class LatestOut(Out):
    """The reading with the newest event time of a series."""

    device: str
    metric: str
    value: Value
    unit: str | None
    time: Time


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


class ReplayOut(Out):
    """What came of a refused message when it went through the data path again."""

    number: int
    accepted: bool
    code: str = ""
    reason: str = ""


class DeadLetterOut(Out):
    """A refused message; its payload in base64, cut where ``whole`` is false."""

    number: int
    device: str
    identity: str
    operation: Operation
    code: str
    reason: str
    time: Time | None
    payload: str
    whole: bool
