"""The answer with the whole fleet at a glance."""

from fleetcore.calls.responses.anomalies import AnomalyResponse
from fleetcore.calls.types import Ms, Response
from fleetcore.model.device import Connectivity, Lifecycle


class OverviewDeviceResponse(Response, frozen=True):
    """A device in the overview; ``alerts`` are its anomalies among those that the overview counts."""

    id: str
    type: str
    lifecycle: Lifecycle
    connectivity: Connectivity
    last_seen: Ms | None
    alerts: int


class OverviewWorkResponse(Response, frozen=True):
    """A running campaign or operation: ``done`` of ``total`` items have ended, ``failed`` of these without success."""

    id: str
    what: str
    total: int
    done: int
    failed: int


class OverviewMirrorResponse(Response, frozen=True):
    """A mirror: its state, the entities that wait, and the age of the oldest."""

    name: str
    state: str
    waiting: int
    lag_s: float


class TrafficResponse(Response, frozen=True):
    """Messages and readings since the server started, by outcome, and what waits for its commit now.

    ``sessions`` are open connections of devices; ``behind`` is by how many commits the slowest consumer is behind.
    """

    accepted: int
    rejected: int
    stored: int
    duplicates: int
    conflicts: int
    refused: int
    waiting: int
    sessions: int
    behind: int


class OverviewResponse(Response, frozen=True):
    """The fleet at ``time``, as the caller may see it.

    ``counts`` is the number of devices in each connectivity and of all ``devices``, as of ``as_of``, without retired
    ones. ``first`` are the first devices in the order asked for. ``alerts`` counts the anomalies of the last hour,
    up to 200, of which ``anomalies`` are the newest. ``campaigns`` and ``operations`` under way, ``mirrors`` and
    ``traffic`` are only for callers who may see them for the whole fleet.
    """

    fleet: str
    time: Ms
    as_of: Ms
    counts: dict[str, int]
    first: list[OverviewDeviceResponse]
    alerts: int
    anomalies: list[AnomalyResponse]
    campaigns: list[OverviewWorkResponse]
    operations: list[OverviewWorkResponse]
    mirrors: list[OverviewMirrorResponse]
    traffic: TrafficResponse | None
