"""Cut-overs: devices leave this fleet's endpoints for a cloud hub's, or a hub's for this fleet's, and can come back."""

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from fleetcore.calls.caller import Caller
from fleetcore.calls.cursors import decode, encode
from fleetcore.calls.operations import OperationId, operation_response
from fleetcore.calls.responses.cutovers import CutoverPlanResponse, CutoverResponse
from fleetcore.calls.responses.operations import OperationResponse
from fleetcore.calls.table import call
from fleetcore.calls.types import Cursor, DeviceId, Limit, MaxFailed, Ms, Page, Reason, Waves, Where
from fleetcore.errors import NotFound, Refused
from fleetcore.fleet.cutover_offers import HERE
from fleetcore.fleet.operations import MAX_ITEMS
from fleetcore.model.cutover import Cutover
from fleetcore.model.operator import Permission
from fleetcore.query.fitting import parse_new

Side = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9_-]{1,64}$(?!\n)",
        description="`fleet` for this fleet, or a mirror, as in `[clouds.NAME]`, for its hub.",
    ),
]
Devices = Annotated[Sequence[DeviceId], Meta(max_length=100_000, description="The devices, by their ids.")]
Endpoint = Annotated[
    str, Meta(min_length=1, max_length=512, description="Where devices go at a hub; here the fleet knows it.")
]
Roots = Annotated[
    str, Meta(max_length=65_536, description="The hub's roots as PEM; without them a device uses those that it has.")
]
Tries = Annotated[int, Meta(ge=1, le=1000, description="How often a device tries the new side before it falls back.")]
Timeout = Annotated[float, Meta(gt=0, le=31_622_400, description="Seconds that a device has from its offer on.")]
OfOperation = Annotated[OperationId, Meta(description="Of this operation only.")]
AtOnce = Annotated[int, Meta(ge=1, le=10_000, description="How many devices have an open offer at a time.")]


def _target(caller: Caller, to: str) -> str | None:
    if to == HERE:
        return None
    if to not in caller.fleet.mirrors:
        there = ", ".join([HERE, *sorted(caller.fleet.mirrors)])
        raise NotFound(f"There is no mirror {to!r}", remedy=f"The sides of this fleet: {there}", mirror=to)
    return to


async def _chosen(caller: Caller, devices: Sequence[str], where: str | None) -> Sequence[str]:
    if (where is None) is not bool(devices):
        raise Refused("Say which devices: either by a query or by their ids")
    found = devices if where is None else await caller.fleet.search.ids(parse_new(where))
    if len(found) > MAX_ITEMS:
        raise Refused(f"A cut-over has at most {MAX_ITEMS} devices", code="limit_exceeded", limit=MAX_ITEMS)
    return found


@call(
    "POST /cutovers/plan", Permission.DEVICES_READ, cli="cutover plan TO DEVICES",
    columns=("device", "wave", "source", "target", "action", "reason"),
)  # fmt: skip
async def plan_cutover(
    caller: Caller, to: Side, devices: Devices = (), *, where: Where | None = None, waves: Waves = ("1", "10%")
) -> list[CutoverPlanResponse]:
    """Shows which devices a cut-over would offer to change sides, in which wave, and why it skips others.

    Raises:
        NotFound: there is no such mirror.
        QuerySyntaxError: the query cannot be read.
        Refused: neither or both of ``where`` and ``devices``, or a wave is neither a number nor a share.
    """
    target = _target(caller, to)
    planned = await caller.fleet.cutovers.plan(await _chosen(caller, devices, where), target, waves=waves)
    there = await caller.fleet.devices.records.get_many([each.device for each in planned])
    return [
        CutoverPlanResponse(
            device=each.device,
            wave=each.wave,
            source=(there[each.device].home or HERE) if each.device in there else "",
            target=to,
            action="offer" if each.hindrance is None else "skip",
            reason="" if each.hindrance is None else str(each.hindrance),
        )
        for each in planned
    ]


@call(
    "POST /cutovers", Permission.SECURITY_WRITE, cli="cutover start TO DEVICES", status=202,
    confirm="Has the devices leave the side that they are connected to for {to}.",
)  # fmt: skip
async def start_cutover(
    caller: Caller,
    to: Side,
    devices: Devices = (),
    *,
    where: Where | None = None,
    endpoint: Endpoint | None = None,
    roots: Roots | None = None,
    tries: Tries = 5,
    timeout_s: Timeout = 86_400.0,
    at_once: AtOnce = 10,
    waves: Waves = ("1", "10%"),
    max_failed: MaxFailed = 0.05,
    reason: Reason = "",
) -> OperationResponse:
    """Has devices go to another side, in waves; each keeps what it has until the new side confirms it.

    ``plan_cutover`` shows before which devices can. A device that does not arrive stays where it is. Where more than
    the share ``max_failed`` of the devices in the waves so far stay, the open offers are taken back, and it stops.
    While the operation is paused it makes no offers; cancelling it takes back those that are open. Another cut-over
    brings devices back.

    Raises:
        NotFound: there is no such mirror.
        QuerySyntaxError: the query cannot be read.
        Refused: an endpoint is missing, and as ``plan_cutover``.
    """
    target = _target(caller, to)
    where_to: Sequence[str] = [endpoint] if endpoint is not None else []
    if target is None and endpoint is None:
        where_to = caller.fleet.security.endpoints
    if not where_to:
        remedy = "Say where devices find it: endpoint" + (", and its roots" if target is not None else "")
        whose = "this fleet" if target is None else "a hub"
        raise Refused(f"No endpoint of {whose} is known", remedy=remedy)
    told: dict[str, object] = {"endpoints": list(where_to)}
    if target is None:
        told["roots"] = caller.fleet.security.authority.ca_pem().decode()
    elif roots is not None:
        told["roots"] = roots
    operation = await caller.fleet.cutovers.start(
        await _chosen(caller, devices, where), target, to=told, tries=tries, timeout_s=timeout_s, at_once=at_once,
        waves=waves, max_failed=max_failed, actor=caller.actor, reason=reason,
    )  # fmt: skip
    return await operation_response(caller, operation)


@call(
    "GET /cutovers", Permission.DEVICES_READ, cli="cutover list",
    columns=("device", "epoch", "source", "target", "state", "reason"),
)  # fmt: skip
async def list_cutovers(
    caller: Caller, *, operation: OfOperation | None = None, limit: Limit = 100, cursor: Cursor | None = None
) -> Page[CutoverResponse]:
    """Lists the last cut-over of each device, or those of an operation."""
    ref = None if operation is None else ("operation", operation)
    page = await caller.fleet.cutovers.offers.records.page(ref=ref, after=decode(cursor), limit=limit)
    return Page([_shown(item) for item in page.items], encode(page.after))


def _shown(cutover: Cutover) -> CutoverResponse:
    return CutoverResponse(
        device=cutover.id,
        epoch=cutover.epoch,
        operation=cutover.operation,
        source=cutover.source or HERE,
        target=cutover.target or HERE,
        state=str(cutover.state),
        offered=Ms(cutover.offered),
        until=Ms(cutover.until),
        ended=None if cutover.ended is None else Ms(cutover.ended),
        reason=cutover.reason,
    )
