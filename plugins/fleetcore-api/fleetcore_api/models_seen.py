"""Models of what is seen: readings, anomalies, health, refused messages; and of firmware campaigns."""

from typing import Annotated

from msgspec import Meta

from fleetcore.model.anomaly import Severity
from fleetcore.model.device import Connectivity, Lifecycle
from fleetcore.model.firmware import CampaignState, ExecutionState
from fleetcore.model.message import Operation
from fleetcore.model.telemetry import SeriesKind
from fleetcore_api.models import ChangeOut, DeviceId, In, Json, Label, MembershipOut, Out, Reason, Time
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
    updating: list["ExecutionOut"]
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


class ArtifactOut(Out):
    """Stored firmware."""

    sha256: str
    size_bytes: int


class CampaignIn(In):
    """One firmware version for devices. Without a digest the server fetches the address once and pins it."""

    id: Label
    release: Label
    devices: Annotated[list[DeviceId], Meta(min_length=1, max_length=10_000)]
    url: Annotated[str, Meta(min_length=1, max_length=2048)]
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")] | None = None
    size: Annotated[int, Meta(ge=0, le=2**53)] | None = None
    manifest: Json | None = None
    reason: Reason = ""


class CampaignOut(Out):
    """A campaign; ``code`` says why it waits in draft."""

    id: str
    release: str
    url: str
    targets: list[str]
    state: CampaignState
    sha256: str | None
    size: int | None
    component: str
    code: str | None
    reason: str | None
    created: Time | None
    finished_at: Time | None
    version: int


class ExecutionOut(Out):
    """One device's way through a campaign."""

    id: str
    campaign: str
    device: str
    state: ExecutionState
    attempt: int
    progress: float | None
    code: str | None
    reason: str | None
    until: Time | None
    reported_version: str | None
    changed: Time | None
