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
from fleetcore.calls.types import Cursor, DeviceId, Limit, Ms, Page, Reason
from fleetcore.errors import NotFound, Refused
from fleetcore.fleet.cutovers import HERE
from fleetcore.model.cutover import Cutover
from fleetcore.model.operator import Permission

Side = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9_-]{1,64}$(?!\n)",
        description="`fleet` for this fleet, or a mirror, as in `[clouds.NAME]`, for its hub.",
    ),
]
Devices = Annotated[list[DeviceId], Meta(min_length=1, max_length=100_000, description="The devices, by their ids.")]
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


@call(
    "POST /cutovers/plan", Permission.DEVICES_READ, cli="cutover plan TO DEVICES",
    columns=("device", "source", "target", "action", "reason"),
)  # fmt: skip
async def plan_cutover(caller: Caller, to: Side, devices: Devices) -> list[CutoverPlanResponse]:
    """Shows which devices a cut-over would be offered to, and why others are skipped; changes nothing."""
    target = _target(caller, to)
    hindered = await caller.fleet.cutovers.hindrances(devices, target)
    there = await caller.fleet.devices.records.get_many(devices)
    return [
        CutoverPlanResponse(
            device=device,
            source=(there[device].home or HERE) if device in there else "",
            target=to,
            action="skip" if device in hindered else "offer",
            reason=str(hindered.get(device, "")),
        )
        for device in dict.fromkeys(devices)
    ]


@call(
    "POST /cutovers", Permission.SECURITY_WRITE, cli="cutover start TO DEVICES", status=202,
    confirm="Has the devices leave the side that they are connected to for {to}.",
)  # fmt: skip
async def start_cutover(
    caller: Caller,
    to: Side,
    devices: Devices,
    *,
    endpoint: Endpoint | None = None,
    roots: Roots | None = None,
    tries: Tries = 5,
    timeout_s: Timeout = 86_400.0,
    at_once: AtOnce = 10,
    reason: Reason = "",
) -> OperationResponse:
    """Has devices go to another side, one after the other; each keeps what it has until the new side confirms it.

    ``plan_cutover`` shows before which ones can. A device that does not arrive stays where it is. Cancelling the
    operation takes back what is open; another cut-over brings devices back.

    Raises:
        NotFound: there is no such mirror.
        Refused: a hub's ``endpoint`` is missing.
    """
    target = _target(caller, to)
    if target is not None and endpoint is None:
        raise Refused("A hub's endpoint is missing", remedy="Say where devices find it: endpoint, and its roots")
    where: Sequence[str] = caller.fleet.security.endpoints if endpoint is None else [endpoint]
    told: dict[str, object] = {"endpoints": list(where)}
    if target is None:
        told["roots"] = caller.fleet.security.ca_pem().decode()
    elif roots is not None:
        told["roots"] = roots
    operation = await caller.fleet.cutovers.start(
        list(dict.fromkeys(devices)), target, to=told, tries=tries, timeout_s=timeout_s, at_once=at_once,
        actor=caller.actor, reason=reason,
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
    page = await caller.fleet.cutovers.records.page(ref=ref, after=decode(cursor), limit=limit)
    return Page([_shown(one) for one in page.items], encode(page.after))


def _shown(one: Cutover) -> CutoverResponse:
    return CutoverResponse(
        device=one.id,
        epoch=one.epoch,
        operation=one.operation,
        source=one.source or HERE,
        target=one.target or HERE,
        state=str(one.state),
        offered=Ms(one.offered),
        until=Ms(one.until),
        reason=one.reason,
    )
