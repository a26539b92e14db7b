"""Devices: their registered data, and their observed state."""

from fleetcore.calls.types import Json, Ms, Response
from fleetcore.model.device import Connectivity, Lifecycle


class PositionResponse(Response, frozen=True):
    """A position in WGS 84 degrees, and its source."""

    lat: float
    lon: float
    accuracy_m: float | None
    alt_m: float | None
    speed_mps: float | None
    heading: float | None
    time: Ms | None
    source: str | None


class DeviceResponse(Response, frozen=True):
    """A device, with its observed state."""

    id: str
    type: str
    model: str | None
    name: str | None
    lifecycle: Lifecycle
    connectivity: Connectivity
    last_seen: Ms | None
    asleep_until: Ms | None
    tags: list[str]
    groups: list[str]
    capabilities: list[str]
    attributes: Json
    location: PositionResponse | None
    gateway: str | None
    key_id: str | None
    home: str | None
    created: Ms | None
    updated: Ms | None
    version: int


class ProvisionedResponse(Response, frozen=True):
    """A device that was given its configuration."""

    device: str
    lifecycle: Lifecycle
    desired_version: int


class ChangeResponse(Response, frozen=True):
    """A change: who did what, when and why, without the values."""

    seq: int
    time: Ms | None
    actor: str
    action: str
    object: str
    reason: str
    changed: list[str]


class DeviceCountResponse(Response, frozen=True):
    """The number of devices, or of those that a query selects."""

    count: int


class ExplanationResponse(Response, frozen=True):
    """Whether a query selects a device; ``why`` is the query line by line, with the values that each clause saw."""

    device: str
    selected: bool
    why: list[str]
