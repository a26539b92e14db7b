"""The overview: the whole fleet at a glance, for displays that ask again and again."""

from collections import Counter
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from fleetcore.calls.caller import Caller
from fleetcore.calls.responses.anomalies import AnomalyResponse
from fleetcore.calls.responses.overview import (
    OverviewDeviceResponse,
    OverviewMirrorResponse,
    OverviewResponse,
    OverviewWorkResponse,
    TrafficResponse,
)
from fleetcore.calls.table import BY_CALL, call
from fleetcore.calls.types import Ms, Where, to_response
from fleetcore.errors import NotFound
from fleetcore.model.anomaly import Anomaly
from fleetcore.model.days import HOUR_MS
from fleetcore.model.firmware import EXECUTION_ENDS, EXECUTION_FAILURES, CampaignState
from fleetcore.model.operation import OperationState
from fleetcore.model.operator import Permission
from fleetcore.model.overview import MAX_ALERTS, MAX_FIRST, Order
from fleetcore.query.ast import Clause
from fleetcore.query.fitting import parse_new

#: Anomalies that are shown.
_SHOWN = 5
#: Campaigns, and operations, that are shown.
_WORK = 10

DeviceOrder = Annotated[
    Order,
    Meta(
        description="Which devices come first: `silent`, the longest without a message; `recent`, the last heard from; "
        "`alerts`, those with most anomalies; `id`."
    ),
]
First = Annotated[int, Meta(ge=0, le=MAX_FIRST, description="The number of devices.")]


@call("GET /overview", Permission.DEVICES_READ, scope=BY_CALL, no_cli="`fleetcore top` shows it")
async def get_overview(
    caller: Caller, *, where: Where | None = None, order: DeviceOrder = Order.SILENT, limit: First = 20
) -> OverviewResponse:
    """Shows devices by connectivity, the first of them in an order, traffic, anomalies, and the work under way.

    A query limits the devices and the anomalies. Counts are as old as ``as_of``: looking at all devices takes at most
    4 % of the server's time.

    Raises:
        QuerySyntaxError: the query cannot be read.
    """
    fleet = caller.fleet
    now_ms = fleet.clock.now_ms()
    given = None if where is None else parse_new(where)
    selection = caller.narrowed(given)
    recent = await _recent(caller, selection, now_ms - HOUR_MS)
    by_device = Counter(anomaly.device for anomaly in recent)
    sweep = await fleet.overview.sweep(selection, order, by_device)
    return OverviewResponse(
        fleet=fleet.config.fleet.name,
        time=Ms(now_ms),
        as_of=Ms(sweep.as_of),
        counts=dict(sweep.counts),
        first=await _devices(caller, sweep.first[:limit], by_device),
        alerts=len(recent),
        anomalies=[to_response(AnomalyResponse, anomaly) for anomaly in recent[:_SHOWN]],
        campaigns=await _campaigns(caller),
        operations=await _operations(caller),
        mirrors=await _mirrors(caller),
        traffic=await _traffic(caller),
    )


async def _recent(caller: Caller, where: Clause | None, since_ms: int) -> list[Anomaly]:
    """The newest anomalies since then, of the devices that a query selects, which has the caller's rights in it."""
    page = await caller.fleet.anomalies.records.page(limit=MAX_ALERTS, newest=True)
    found = [anomaly for anomaly in page.items if anomaly.time >= since_ms]
    if where is None:
        return found
    seen = {device: await _selects(caller, where, device) for device in {anomaly.device for anomaly in found}}
    return [anomaly for anomaly in found if seen[anomaly.device]]


async def _selects(caller: Caller, where: Clause, device: str) -> bool:
    try:
        return await caller.fleet.search.is_true(where, device)
    except NotFound:  # erased: its anomalies go next
        return False


async def _devices(caller: Caller, ids: Sequence[str], alerts: Counter[str]) -> list[OverviewDeviceResponse]:
    """Devices as rows, without those that were erased meanwhile."""
    found = await caller.fleet.devices.records.get_many(ids)
    presences = ((found[device], caller.fleet.presence.of(device)) for device in ids if device in found)
    return [
        OverviewDeviceResponse(
            id=device.id,
            type=device.type,
            lifecycle=device.lifecycle,
            connectivity=presence.connectivity,
            last_seen=None if presence.last_seen is None else Ms(presence.last_seen),
            alerts=alerts[device.id],
        )
        for device, presence in presences
    ]


async def _campaigns(caller: Caller) -> list[OverviewWorkResponse]:
    if not caller.rights.everywhere(Permission.CAMPAIGNS_READ):
        return []
    campaigns = caller.fleet.campaigns
    running = await campaigns.records.page(ref=("state", CampaignState.RUNNING), limit=_WORK)
    made = []
    for campaign in running.items:
        counts = await campaigns.counts(campaign.id)
        made.append(
            OverviewWorkResponse(
                id=campaign.id,
                what=campaign.release,
                total=campaign.total,
                done=counts.among(EXECUTION_ENDS),
                failed=counts.among(EXECUTION_FAILURES),
            )
        )
    return made


async def _operations(caller: Caller) -> list[OverviewWorkResponse]:
    if not caller.has_everywhere():
        return []
    records = caller.fleet.operations.records
    running = await records.page(ref=("state", OperationState.RUNNING), limit=_WORK, newest=True)
    return [
        OverviewWorkResponse(id=item.id, what=item.kind, total=item.total, done=item.done, failed=item.failed)
        for item in running.items
    ]


async def _mirrors(caller: Caller) -> list[OverviewMirrorResponse]:
    if not caller.rights.everywhere(Permission.SERVER_READ):
        return []
    overviews = {name: await mirror.overview() for name, mirror in caller.fleet.mirrors.items()}
    return [
        OverviewMirrorResponse(name=name, state=item.state, waiting=item.waiting, lag_s=item.lag_s)
        for name, item in sorted(overviews.items())
    ]


async def _traffic(caller: Caller) -> TrafficResponse | None:
    if not caller.rights.everywhere(Permission.SERVER_READ):
        return None
    fleet = caller.fleet
    tally, position = fleet.path.tally, await fleet.storage.position()
    return TrafficResponse(
        accepted=fleet.path.accepted,
        rejected=sum(fleet.path.rejected.values()),
        stored=tally.stored,
        duplicates=tally.duplicates,
        conflicts=tally.conflicts,
        refused=tally.refused,
        waiting=fleet.ingest.waiting,
        sessions=len(fleet.device_sessions),
        behind=max((consumer.status.behind(position) for consumer in fleet.consumers), default=0),
    )
