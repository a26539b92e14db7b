"""Answers about gateways, their leaves, and the functions that run on them."""

from fleetcore.calls.types import Json, Ms, Response
from fleetcore.model.device import Connectivity, Lifecycle


class CapacityResponse(Response, frozen=True):
    """Amounts of a gateway's resources; null where an amount is not known. 100 percent is one processor."""

    cpu_percent: int | None
    memory_mib: int | None
    disk_mib: int | None


class GatewayResponse(Response, frozen=True):
    """A gateway; ``may_register`` lets it announce leaves that are not registered.

    ``capacity`` is what was declared, and ``replaced_by`` the gateway that has its leaves and functions now.
    """

    device: str
    capabilities: Json
    may_register: bool
    labels: dict[str, str]
    capacity: CapacityResponse
    replaced_by: str | None


class GatewayStateResponse(Response, frozen=True):
    """A gateway with what it has, promises and reports; ``path`` lists the gateways above it, the nearest first.

    ``capacity`` is what was declared or else reported, and ``promised`` what its functions may use together.
    ``in_sync`` says whether it runs exactly the functions that are deployed, ``why`` what differs, and ``since`` since
    when.
    """

    device: str
    lifecycle: Lifecycle
    model: str | None
    labels: dict[str, str]
    path: list[str]
    leaves: int
    capacity: CapacityResponse
    promised: CapacityResponse
    reported: Json
    functions: list[str]
    in_sync: bool
    since: Ms | None
    why: list[str]
    replaced_by: str | None


class GatewayUsageResponse(Response, frozen=True):
    """What a gateway has, promises and uses, by its last report; null where it reports nothing of it.

    ``running`` of its ``functions`` run, and ``in_sync`` says whether they are exactly those that are deployed.
    ``used`` is the processor time of functions between its last two reports, their memory, and the disk that is not
    free. ``load`` is that of the machine over a minute. ``waiting`` counts commits that the core does not have yet,
    ``lost`` and ``dropped`` the readings that had to go for want of room: those that the core has not, and has.
    """

    device: str
    connectivity: Connectivity
    last_seen: Ms | None
    functions: int
    running: int
    in_sync: bool
    capacity: CapacityResponse
    promised: CapacityResponse
    used: CapacityResponse
    load: float | None
    free_memory_mib: int | None
    free_disk_mib: int | None
    waiting: int | None
    lost: int | None
    dropped: int | None


class GatewayFunctionResponse(Response, frozen=True):
    """A function of a gateway: ``wanted`` is the deployed version, and ``reported`` what the gateway says.

    ``why`` says why the two differ, since ``since``. ``execution`` is the part of a campaign that deployed it, and
    ``usage`` has the counters of the gateway's report.
    """

    name: str
    wanted: str | None
    wanted_sha256: str | None
    reported: str | None
    reported_sha256: str | None
    state: str | None
    in_sync: bool
    why: str
    since: Ms | None
    code: str | None
    message: str | None
    execution: str | None
    config: Json
    promised: CapacityResponse
    usage: Json


class FunctionResponse(Response, frozen=True):
    """A released version of a function, with its contract."""

    id: str
    function: str
    release: str
    seq: int
    models: list[str]
    size: int
    sha256: str
    abi: int
    metrics: list[str]
    where: str
    every_ms: int
    every_readings: int
    may: list[str]
    memory_mib: int
    time_ms: int
    fuel: int
    stack_kib: int
    cpu_percent: int
    config: Json
    secrets: list[str]
    replaces_raw: bool
    expires: Ms
    added: Ms
    by: str


class CandidateResponse(Response, frozen=True):
    """A gateway as a place for a function: why it does not fit, and the least share of a resource that is left."""

    gateway: str
    reasons: list[str]
    room: float


class PlacementResponse(Response, frozen=True):
    """Where a function fits: the gateways that a deployment would take, the one with the most room first."""

    release: str
    chosen: list[CandidateResponse]
    others: list[CandidateResponse]


class ReplacementResponse(Response, frozen=True):
    """What a gateway has got from the one that it replaces."""

    old: str
    new: str
    leaves: int
    functions: list[str]


class SummaryResponse(Response, frozen=True):
    """The aggregates of a metric's readings in a bucket of time, from its start on; null where there are none.

    ``start`` is null where the range has none. ``group`` is a device or a model, and empty where the row is of all.
    """

    metric: str
    group: str
    start: Ms | None
    values: dict[str, int | float | None]


class GatewayPartResponse(Response, frozen=True):
    """What came of a gateway.

    ``state`` is ``answered``, ``waiting``, ``offline``, ``timed_out`` (nothing by the deadline), ``failed`` or
    ``cancelled``; ``reason`` says why it has not answered. ``progress`` is that of its present part, in percent.
    """

    gateway: str
    state: str
    code: str
    reason: str
    progress: float | None
    readings: int
    parts: int


class DistributedResponse(Response, frozen=True):
    """The result of distributed processing as it is now; ``operation`` gives it again.

    ``state`` is ``running`` until the deadline, ``partial`` where gateways are missing after it or have failed, and
    ``complete``. ``enough`` says whether those have answered that were to be waited for, or whether there is nothing to
    wait for; ``open`` whether late answers are still added. Percentiles are within ``error`` of the true ones, relative
    to them. ``readings`` counts those in ``rows``.
    """

    operation: str
    state: str
    enough: bool
    open: bool
    deadline: Ms
    metric: str
    start: Ms | None
    end: Ms
    bucket_s: float | None
    by: str
    aggregates: list[str]
    error: float
    series: int
    readings: int
    rows: list[SummaryResponse]
    missing: list[str]
    gateways: list[GatewayPartResponse]
