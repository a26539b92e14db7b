"""The edge: gateways, the leaves that are connected through them, and the functions that run on them."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from attrs import evolve
from msgspec import Meta

from fleetcore.calls.caller import Caller, CallerLeft, answered, missing
from fleetcore.calls.campaigns import (
    CampaignName,
    DeviceSoak,
    GateWindow,
    Hold,
    MaxFailedOf,
    MinExecuted,
    MinSucceeded,
    NeedsApproval,
    PerMinute,
    RetryAfter,
    RetryTimes,
    StartsAt,
    StepTimeout,
    WaveSoak,
    WhatOnFailure,
    campaign_response,
    ms_of,
)
from fleetcore.calls.commands import WaitS, pausing
from fleetcore.calls.cursors import decode
from fleetcore.calls.devices import device_response
from fleetcore.calls.operations import OperationId, own_operation
from fleetcore.calls.responses.campaigns import CampaignResponse
from fleetcore.calls.responses.devices import DeviceResponse
from fleetcore.calls.responses.edge import (
    CandidateResponse,
    CapacityResponse,
    DistributedResponse,
    FunctionResponse,
    GatewayFunctionResponse,
    GatewayPartResponse,
    GatewayResponse,
    GatewayStateResponse,
    GatewayUsageResponse,
    PlacementResponse,
    ReplacementResponse,
    SummaryResponse,
)
from fleetcore.calls.table import ANYWHERE, BY_CALL, call, on
from fleetcore.calls.telemetry import End, Start
from fleetcore.calls.types import (
    Cursor,
    DeviceId,
    Json,
    Label,
    Limit,
    Ms,
    Names,
    NewDeviceId,
    Page,
    Reason,
    Waves,
    Word,
    to_response,
)
from fleetcore.errors import Refused
from fleetcore.fleet.edge import Candidate, Gateway
from fleetcore.fleet.function_states import FunctionState
from fleetcore.fleet.map_reduce import ACCURACY, Distributed
from fleetcore.fleet.registry import GATEWAYS
from fleetcore.fleet.releases import FUNCTION_RELEASES, OF_FUNCTION
from fleetcore.model.device import Device
from fleetcore.model.edge import Capacity, amount, function_of, whole_amount
from fleetcore.model.firmware import Release
from fleetcore.model.operator import Permission
from fleetcore.model.rollout import FailureLimit, HealthGate, OnFailure, Rate, Retries, Rollout, TimeLimits
from fleetcore.wire.manifest import peek_manifest

GatewayId = Annotated[DeviceId, Meta(description="The gateway's id."), Names("list_gateways", "device")]
NewGatewayId = Annotated[NewDeviceId, Meta(description="The gateway's id, also of a registered device.")]
LeafId = Annotated[DeviceId, Meta(description="The leaf's id.")]
GatewayCapabilities = Annotated[Json, Meta(description="Its capabilities, by its own names."), Word("capability")]
MayRegister = Annotated[bool, Meta(description="Whether it may announce leaves that are not registered yet.")]
_LABEL_NAME = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$(?!\n)")]
GatewayLabels = Annotated[
    Mapping[_LABEL_NAME, Label],
    Meta(max_length=32, description="Labels for placement; queries read `attributes.gateway.labels.NAME`."),
    Word("label"),
]
GatewayModel = Annotated[Label, Meta(description="Its hardware model, which signed functions name.")]
CpuPercent = Annotated[int, Meta(ge=0, le=100_000, description="Processor time for functions; 100 is one processor.")]
MemoryMib = Annotated[int, Meta(ge=0, le=2**30, description="Memory for functions, in MiB.")]
DiskMib = Annotated[int, Meta(ge=0, le=2**40, description="Disk for functions, in MiB.")]
FunctionId = Annotated[
    str,
    Meta(min_length=1, max_length=128, description="The function: `NAME:SEQ`, or `NAME` for its newest release."),
    Names("list_functions"),
]
FunctionName = Annotated[str, Meta(min_length=1, max_length=32, description="The function's name.")]
OfFunction = Annotated[str, Meta(max_length=32, description="Only releases of this function.")]
OnGateways = Annotated[
    Sequence[DeviceId], Meta(max_length=10_000, description="A gateway that is to have it, by id."), Word("gateway")
]
PlaceWhere = Annotated[str, Meta(max_length=4096, description="A query that gateways have to satisfy.")]
Copies = Annotated[
    int, Meta(ge=1, le=10_000, description="On how many gateways: those with the most room; by default all that fit.")
]
FunctionConfig = Annotated[
    Json, Meta(description="Members of its configuration; by default each gateway keeps what it has."), Word("set")
]
FunctionRollback = Annotated[
    str,
    Meta(max_length=128, description="What a rollback installs, `NAME:SEQ`; by default what each gateway has now."),
    Names("list_functions"),
]
NewGateway = Annotated[DeviceId, Meta(description="The gateway that takes over.")]
Retire = Annotated[bool, Meta(description="Retire the old gateway, instead of suspending it.")]
MetricPattern = Annotated[
    str, Meta(min_length=1, max_length=128, description="The metric, or a pattern of metrics with `*` and `?`.")
]
OfGateways = Annotated[
    Sequence[DeviceId], Meta(max_length=2000, description="A gateway to ask, by id; all by default."), Word("gateway")
]
LeavesWhere = Annotated[str, Meta(max_length=4096, description="A query that leaves have to satisfy.")]
RangeBucket = Annotated[
    float,
    Meta(gt=0, le=31_622_400, description="A bucket's length, in seconds; by default one for all."),
    Word("every"),
]
Aggregates = Annotated[
    Sequence[Annotated[str, Meta(min_length=1, max_length=16)]],
    Meta(min_length=1, max_length=20, description="`count`, `sum`, `min`, `max`, `mean`, or a percentile: `p99.9`."),
    Word("aggregate"),
]
RowsBy = Annotated[Literal["all", "device", "model"], Meta(description="What a row is of.")]
AnswerWithin = Annotated[
    float, Meta(gt=0, le=2_592_000, description="Seconds after which a result without all gateways is partial.")
]
WaitFor = Annotated[float, Meta(gt=0, le=1, description="The share of the gateways that is enough.")]
OpenFor = Annotated[
    float, Meta(gt=0, le=2_592_000, description="Seconds that gateways have to answer: late answers are added.")
]


def _distributed(found: Distributed) -> DistributedResponse:
    job = found.job
    return DistributedResponse(
        operation=found.operation, state=found.state, enough=found.enough, open=found.open,
        deadline=Ms(found.deadline), metric=job.metric, start=Ms(job.start) if job.start else None, end=Ms(job.end),
        bucket_s=None if job.bucket_ms is None else job.bucket_ms / 1000, by=job.by, aggregates=list(job.aggregates),
        error=ACCURACY, series=found.series, readings=found.readings,
        rows=[
            SummaryResponse(metric, group, Ms(start) if start else None, dict(zip(job.aggregates, values, strict=True)))
            for metric, group, start, values in found.rows
        ],
        missing=[each.gateway for each in found.gateways if each.state != "answered"],
        gateways=[to_response(GatewayPartResponse, each) for each in found.gateways],
    )  # fmt: skip


def _gateway(gateway: Gateway) -> GatewayResponse:
    return to_response(
        GatewayResponse, gateway, device=gateway.device.id, capabilities=dict(gateway.capabilities),
        labels=dict(gateway.labels), capacity=_capacity(gateway.capacity),
    )  # fmt: skip


def _capacity(capacity: Capacity) -> CapacityResponse:
    return CapacityResponse(**capacity.amounts())


def _function_state(state: FunctionState) -> GatewayFunctionResponse:
    return to_response(
        GatewayFunctionResponse, state, config=dict(state.config), promised=_capacity(state.promised),
        usage=dict(state.usage), wanted_sha256=state.wanted_sha256, reported_sha256=state.reported_sha256,
    )  # fmt: skip


def _candidate(candidate: Candidate) -> CandidateResponse:
    return CandidateResponse(candidate.gateway, list(candidate.reasons), round(candidate.room, 4))


def _function(release: Release) -> FunctionResponse:
    contract = peek_manifest(release.manifest).function
    assert contract is not None, "only functions are listed as functions"
    limits = contract.resources
    return to_response(
        FunctionResponse, release, function=function_of(release.component), models=list(release.models),
        abi=contract.abi, metrics=list(contract.metrics), where=contract.where, every_ms=contract.every_ms,
        every_readings=contract.every_readings, may=list(contract.may), memory_mib=limits.memory_mib,
        time_ms=limits.time_ms, fuel=limits.fuel, stack_kib=limits.stack_kib, cpu_percent=limits.cpu_percent,
        config=dict(contract.config), secrets=list(contract.secrets), replaces_raw=contract.replaces_raw,
    )  # fmt: skip


@call("GET /gateways", Permission.DEVICES_READ, scope=BY_CALL, cli="edge list")
async def list_gateways(caller: Caller, *, limit: Limit = 100, cursor: Cursor | None = None) -> Page[GatewayResponse]:
    """Lists the gateways by id."""
    edge = caller.fleet.edge
    return await caller.page(
        caller.fleet.devices.records,
        lambda device: device.id,
        lambda device: _gateway(edge.gateway(device)),
        cursor,
        limit,
        ref=GATEWAYS,
    )


@call("GET /edge/usage", Permission.DEVICES_READ, scope=BY_CALL, cli="edge top")
async def list_gateway_usage(
    caller: Caller, *, limit: Limit = 100, cursor: Cursor | None = None
) -> Page[GatewayUsageResponse]:
    """Lists what gateways have, promise and use, by id; from their last reports."""
    found = await caller.page(
        caller.fleet.devices.records, lambda device: device.id, lambda device: device, cursor, limit, ref=GATEWAYS
    )
    return Page([await _usage(caller, device) for device in found.items], found.next)


async def _usage(caller: Caller, device: Device) -> GatewayUsageResponse:
    presence, usage = caller.fleet.presence.of(device.id), await caller.fleet.edge.usage(device)
    reported, uplink = usage.resources.reported, usage.uplink
    return GatewayUsageResponse(
        device=device.id, connectivity=presence.connectivity,
        last_seen=None if presence.last_seen is None else Ms(presence.last_seen),
        functions=usage.functions, running=usage.running, in_sync=usage.in_sync,
        capacity=_capacity(usage.resources.capacity), promised=_capacity(usage.resources.promised),
        used=_capacity(usage.used), load=amount(reported, "load"),
        **{name: whole_amount(reported, name) for name in ("free_memory_mib", "free_disk_mib")},
        **{name: whole_amount(uplink, name) for name in ("waiting", "lost", "dropped")},
    )  # fmt: skip


@call("POST /gateways", Permission.DEVICES_WRITE, cli="edge register ID", status=201, location="/devices/{device}")
async def register_gateway(
    caller: Caller,
    id: NewGatewayId,
    capabilities: GatewayCapabilities | None = None,
    *,
    may_register: MayRegister = False,
    labels: GatewayLabels | None = None,
    model: GatewayModel | None = None,
    cpu_percent: CpuPercent | None = None,
    memory_mib: MemoryMib | None = None,
    disk_mib: DiskMib | None = None,
    reason: Reason = "",
) -> GatewayResponse:
    """Registers a gateway, or makes a registered device a gateway.

    What of its capacity is not given is what the gateway reports. Repeated, it sets capabilities and ``may_register``
    anew; labels, model and capacity stay where they are not given.

    Raises:
        Refused: it promises more than this capacity to its functions.
    """
    given = Capacity(cpu_percent=cpu_percent, memory_mib=memory_mib, disk_mib=disk_mib)
    made = await caller.fleet.edge.register_gateway(
        id, capabilities, may_register=may_register, labels=labels, model=model,
        capacity=None if given == Capacity() else given, actor=caller.actor, reason=reason,
    )  # fmt: skip
    return _gateway(made)


@call("GET /gateways/{gateway_id}", Permission.DEVICES_READ, scope=on("gateway_id"), cli="edge show GATEWAY_ID")
async def get_gateway(caller: Caller, gateway_id: GatewayId) -> GatewayStateResponse:
    """Shows a gateway: its place, what it has and promises, and whether it runs what is deployed.

    Raises:
        NotFound: there is no such device.
        Refused: it is not a gateway.
    """
    edge = caller.fleet.edge
    device = await caller.fleet.devices.get(gateway_id)
    gateway, resources, functions = (
        edge.gateway(device),
        await edge.resources(gateway_id),
        await edge.functions(gateway_id),
    )
    return to_response(
        GatewayStateResponse, functions, device=device.id, lifecycle=device.lifecycle, model=device.model,
        labels=dict(gateway.labels), path=[above.id for above in await caller.fleet.devices.path(device)],
        leaves=len(await edge.leaves(gateway_id)), capacity=_capacity(resources.capacity),
        promised=_capacity(resources.promised), reported=dict(resources.reported),
        functions=[each.name for each in functions.functions], why=list(functions.why),
        replaced_by=gateway.replaced_by,
    )  # fmt: skip


@call(
    "PUT /gateways/{gateway_id}/capacity", Permission.DEVICES_WRITE, scope=on("gateway_id"),
    cli="edge capacity GATEWAY_ID",
)  # fmt: skip
async def set_gateway_capacity(
    caller: Caller,
    gateway_id: GatewayId,
    *,
    cpu_percent: CpuPercent | None = None,
    memory_mib: MemoryMib | None = None,
    disk_mib: DiskMib | None = None,
    reason: Reason = "",
) -> GatewayResponse:
    """Declares what a gateway has for functions; what is not given is what the gateway reports.

    Raises:
        NotFound: there is no such device.
        Refused: it is not a gateway, or promises more than this to its functions.
    """
    given = Capacity(cpu_percent=cpu_percent, memory_mib=memory_mib, disk_mib=disk_mib)
    return _gateway(await caller.fleet.edge.set_capacity(gateway_id, given, actor=caller.actor, reason=reason))


@call(
    "GET /gateways/{gateway_id}/leaves", Permission.DEVICES_READ, scope=on("gateway_id"), cli="edge leaves GATEWAY_ID",
    columns=("id", "type", "lifecycle", "connectivity", "last_seen", "tags"),
)  # fmt: skip
async def list_leaves(
    caller: Caller, gateway_id: GatewayId, *, limit: Limit = 100, cursor: Cursor | None = None
) -> Page[DeviceResponse]:
    """Lists the leaves of a gateway, by id.

    Raises:
        NotFound: there is no such device.
    """
    return await caller.page(
        caller.fleet.devices.records,
        lambda leaf: leaf.id,
        lambda leaf: device_response(caller, leaf),
        cursor,
        limit,
        ref=("gateway", gateway_id),
    )


@call(
    "POST /gateways/{gateway_id}/leaves", Permission.DEVICES_WRITE, scope=on("gateway_id"),
    cli="edge attach GATEWAY_ID DEVICE",
)  # fmt: skip
async def attach_leaf(caller: Caller, gateway_id: GatewayId, device: LeafId, *, reason: Reason = "") -> DeviceResponse:
    """Attaches a registered device to a gateway as a leaf. Repeating it changes nothing.

    Raises:
        NotFound: there is no such gateway, or no such device.
    """
    await caller.device(device)
    return device_response(
        caller, await caller.fleet.edge.attach(gateway_id, device, actor=caller.actor, reason=reason)
    )


@call(
    "DELETE /gateways/{gateway_id}/leaves/{device_id}", Permission.DEVICES_WRITE, scope=on("gateway_id"),
    cli="edge detach GATEWAY_ID DEVICE_ID", status=204,
)  # fmt: skip
async def detach_leaf(caller: Caller, gateway_id: GatewayId, device_id: LeafId, *, reason: Reason = "") -> None:
    """Detaches a leaf from its gateway.

    Raises:
        NotFound: there is no such gateway, no such device, or it is not a leaf of the gateway.
    """
    await caller.device(device_id)
    if (await caller.fleet.devices.get(device_id)).gateway != gateway_id:
        raise missing("leaf", device_id)
    await caller.fleet.edge.detach(device_id, actor=caller.actor, reason=reason)


@call(
    "POST /gateways/{gateway_id}/replace", Permission.DEVICES_WRITE, cli="edge replace GATEWAY_ID NEW",
)  # fmt: skip
async def replace_gateway(
    caller: Caller, gateway_id: GatewayId, new: NewGateway, *, retire: Retire = False, reason: Reason = ""
) -> ReplacementResponse:
    """Gives a gateway's leaves, functions, labels, capacity and place to another one, in one step.

    The old gateway is suspended, and its updates are cancelled. Repeated, it completes what was interrupted.

    Raises:
        NotFound: there is no such device.
        Conflict: another gateway has replaced it, the new one cannot be used, or has functions of its own.
        Refused: it is not a gateway, a function is for other hardware, or the new one reports too few resources.
    """
    done = await caller.fleet.edge.replace(gateway_id, new, retire=retire, actor=caller.actor, reason=reason)
    return to_response(ReplacementResponse, done, functions=list(done.functions))


@call(
    "GET /gateways/{gateway_id}/functions", Permission.DEVICES_READ, scope=on("gateway_id"),
    cli="edge functions GATEWAY_ID", columns=("name", "wanted", "reported", "state", "in_sync", "since", "why"),
)  # fmt: skip
async def list_gateway_functions(caller: Caller, gateway_id: GatewayId) -> Page[GatewayFunctionResponse]:
    """Lists the functions of a gateway, by name: what is deployed, what it reports, and why these differ.

    Raises:
        NotFound: there is no such device.
        Refused: it is not a gateway.
    """
    found = await caller.fleet.edge.functions(gateway_id)
    return Page([_function_state(each) for each in found.functions])


@call(
    "DELETE /gateways/{gateway_id}/functions/{function}", Permission.CAMPAIGNS_WRITE, scope=on("gateway_id"),
    cli="edge undeploy GATEWAY_ID FUNCTION", status=204,
)  # fmt: skip
async def undeploy_function(
    caller: Caller, gateway_id: GatewayId, function: FunctionName, *, reason: Reason = ""
) -> None:
    """Removes a function from a gateway, and cancels what is to deploy it there. Repeating it changes nothing.

    Raises:
        NotFound: there is no such device.
    """
    await caller.fleet.edge.undeploy(function, gateway_id, actor=caller.actor, reason=reason)


@call(
    "GET /functions", Permission.CAMPAIGNS_READ, scope=ANYWHERE, cli="edge releases",
    columns=("id", "release", "models", "memory_mib", "cpu_percent", "size", "expires"),
)  # fmt: skip
async def list_functions(
    caller: Caller, function: OfFunction | None = None, *, limit: Limit = 100, cursor: Cursor | None = None
) -> Page[FunctionResponse]:
    """Lists the released functions by name and seq."""
    ref = FUNCTION_RELEASES if function is None else (OF_FUNCTION, function)
    found = await caller.fleet.releases.records.page(ref=ref, after=decode(cursor), limit=limit)
    return answered(found, _function)


@call("GET /functions/{function}", Permission.CAMPAIGNS_READ, scope=ANYWHERE, cli="edge release FUNCTION")
async def get_function(caller: Caller, function: FunctionId) -> FunctionResponse:
    """Shows a released function and its contract.

    Raises:
        NotFound: there is no such function.
    """
    return _function(await caller.fleet.edge.release(function))


@call("GET /functions/{function}/placement", Permission.DEVICES_READ, cli="edge place FUNCTION")
async def plan_placement(
    caller: Caller, function: FunctionId, *, where: PlaceWhere = "", copies: Copies | None = None
) -> PlacementResponse:
    """Shows on which gateways a function fits, by model, ABI and capacity, and why it does not fit on others.

    Nothing is deployed; `deploy` with the same query takes the chosen gateways.

    Raises:
        NotFound: there is no such function.
        Refused: it fits on no gateway, or on fewer than wanted.
    """
    found = await caller.fleet.edge.place(function, where=where, copies=copies)
    return PlacementResponse(
        found.release, [_candidate(each) for each in found.chosen], [_candidate(each) for each in found.others]
    )


@call(
    "POST /functions/{function}/deploy", Permission.CAMPAIGNS_WRITE, scope=BY_CALL,
    cli="edge deploy FUNCTION CAMPAIGN", status=201, location="/campaigns/{id}",
)  # fmt: skip
async def deploy_function(
    caller: Caller,
    function: FunctionId,
    campaign: CampaignName,
    *,
    gateways: OnGateways = (),
    where: PlaceWhere = "",
    copies: Copies | None = None,
    config: FunctionConfig | None = None,
    waves: Waves = (),
    min_succeeded: MinSucceeded = 0.95,
    wave_soak_s: WaveSoak = 0.0,
    max_failed: MaxFailedOf | None = None,
    min_executed: MinExecuted = 1,
    on_failure: WhatOnFailure = OnFailure.PAUSE,
    gate_window_s: GateWindow | None = None,
    rate_per_minute: PerMinute | None = None,
    retries: RetryTimes = 0,
    retry_after_s: RetryAfter = 300.0,
    soak_s: DeviceSoak = 0.0,
    step_timeout_s: StepTimeout = 86_400.0,
    rollback_to: FunctionRollback | None = None,
    hold: Hold = False,
    starts_at: StartsAt | None = None,
    approval: NeedsApproval = False,
    reason: Reason = "",
) -> CampaignResponse:
    """Deploys a function to gateways with a campaign, which is watched, paused, aborted and rolled back as any other.

    It goes to the named gateways, which all have to fit, or to those that fit and that the query selects: that needs
    the permission for the whole fleet. `campaign start` with the release has the other ways to roll it out.

    Raises:
        NotFound: there is no such function, or no such gateway.
        Conflict: a campaign of that name exists.
        Refused: it does not fit, or what a rollback would install is not stored or not trusted any more.
    """
    for gateway in gateways:
        await caller.device(gateway)
    if not gateways and not caller.has_everywhere():
        raise caller.denied(campaign, Permission.CAMPAIGNS_WRITE, everywhere=True)
    if gateways and where:
        raise Refused("Give gateways or a query, not both", pointer="/where")
    rollout = Rollout(
        waves=tuple(waves), min_succeeded=min_succeeded, wave_soak_ms=ms_of(wave_soak_s), soak_ms=ms_of(soak_s),
        failures=() if max_failed is None else (
            FailureLimit(share=max_failed, min_executed=min_executed, action=on_failure),
        ),
        gate=None if gate_window_s is None else HealthGate(window_ms=ms_of(gate_window_s), action=on_failure),
        rate=None if rate_per_minute is None else Rate(per_minute=rate_per_minute),
        retries=Retries(times=retries, wait_ms=ms_of(retry_after_s)),
        limits=evolve(TimeLimits(), step_ms=ms_of(step_timeout_s)),
    )  # fmt: skip
    made = await caller.fleet.edge.deploy(
        function, campaign, gateways=gateways, where=where, copies=copies, config=config, rollout=rollout,
        rollback_to=rollback_to, hold=hold, starts_at=None if starts_at is None else int(starts_at),
        approval=approval, actor=caller.actor, reason=reason,
    )  # fmt: skip
    return await campaign_response(caller, made)


@call(
    "POST /edge/map-reduce", Permission.COMMANDS_SEND, cli="edge map-reduce METRIC", status=202,
    needs_too=(Permission.DEVICES_READ,),
)  # fmt: skip
async def run_distributed(
    caller: Caller,
    metric: MetricPattern,
    *,
    where: LeavesWhere = "",
    gateways: OfGateways = (),
    start: Start | None = None,
    end: End | None = None,
    bucket_s: RangeBucket | None = None,
    aggregates: Aggregates = ("count", "sum", "min", "max", "mean"),
    by: RowsBy = "all",
    within_s: AnswerWithin = 60.0,
    wait_for: WaitFor = 1.0,
    open_s: OpenFor = 86_400.0,
    wait_s: WaitS = 0.0,
    reason: Reason = "",
) -> DistributedResponse:
    """Summarises the readings that each gateway has stored itself, there, and adds the summaries here.

    It is an operation. With ``wait_s`` it waits that long for enough answers, at most until the deadline; the answer is
    the result by then, and ``get_distributed`` gives it again, with late answers. A gateway counts once it has answered
    completely. Each device is asked of the gateway that it is a leaf of.

    Raises:
        NotFound: there is no such gateway, none with a selected device, or none has such a metric.
        QuerySyntaxError: the query cannot be read.
        Refused: ``range_invalid``, no time is in the range; ``limit_exceeded``, the result would be too long; there is
            no such aggregate.
    """
    started = await caller.fleet.edge.run_distributed(
        metric, where=where or None, gateways=gateways, start=None if start is None else int(start),
        end=None if end is None else int(end), bucket_s=bucket_s, aggregates=aggregates, by=by, within_s=within_s,
        wait_for=wait_for, open_s=open_s, wait_s=0.0, actor=caller.actor, reason=reason,
    )  # fmt: skip
    return await _waited(caller, started, wait_s)


@call(
    "GET /edge/map-reduce/{operation}", Permission.DEVICES_READ, scope=BY_CALL, cli="edge result OPERATION",
)  # fmt: skip
async def get_distributed(caller: Caller, operation: OperationId, *, wait_s: WaitS = 0.0) -> DistributedResponse:
    """Shows the result of distributed processing as it is now, or waits for enough answers, as ``run_distributed``.

    Raises:
        NotFound: there is no such operation, it is another principal's or of another kind; or no gateway has such a
            metric.
    """
    found = await own_operation(caller, operation)
    return await _waited(caller, await caller.fleet.edge.distributed(found.id), wait_s)


async def _waited(caller: Caller, found: Distributed, wait_s: float) -> DistributedResponse:
    if not found.enough and min(wait_s, caller.max_wait_s) > 0:
        try:
            with caller.waiting() as news:
                found = await caller.fleet.edge.distributed(
                    found.operation, wait_s=min(wait_s, caller.max_wait_s), pause=pausing(caller, None, news)
                )
        except CallerLeft:
            found = await caller.fleet.edge.distributed(found.operation)
    return _distributed(found)
