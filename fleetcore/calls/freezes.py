"""The freeze calendar of firmware campaigns."""

from typing import Annotated

from msgspec import Meta

from fleetcore.calls.caller import Caller, answered
from fleetcore.calls.cursors import decode
from fleetcore.calls.responses.campaigns import FreezeResponse
from fleetcore.calls.table import call
from fleetcore.calls.types import Cursor, Label, Limit, Ms, Names, Page, Reason, to_response
from fleetcore.model.operator import Permission

NewFreeze = Annotated[Label, Meta(description="The freeze's name.")]
FreezeName = Annotated[Label, Meta(description="The freeze's name."), Names("list_freezes")]
FreezeBegin = Annotated[Ms, Meta(description="From this time on; by default from now.")]
FreezeEnd = Annotated[Ms, Meta(description="Up to this time; by default until it is removed.")]
FrozenDevices = Annotated[str, Meta(max_length=4096, description="A query for the devices; by default all.")]


@call("POST /freezes", Permission.CAMPAIGNS_WRITE, cli="campaign freeze add ID", status=201)
async def add_freeze(
    caller: Caller,
    id: NewFreeze,
    *,
    begin: FreezeBegin | None = None,
    end: FreezeEnd | None = None,
    where: FrozenDevices = "",
    reason: Reason = "",
) -> FreezeResponse:
    """Keeps devices from installing for some time: over the holidays, or, without an end, until further notice.

    Campaigns go on with the other devices. Updates that are being installed are not stopped, and a campaign with an
    emergency does not heed freezes.

    Raises:
        QuerySyntaxError: the query cannot be read.
        Refused: the end is not after the beginning, or there are too many freezes.
        Conflict: a freeze of that name exists.
    """
    made = await caller.fleet.freezes.add(
        id, begin=None if begin is None else int(begin), end=None if end is None else int(end), where=where,
        reason=reason, actor=caller.actor,
    )  # fmt: skip
    return to_response(FreezeResponse, made)


@call("GET /freezes", Permission.CAMPAIGNS_READ, cli="campaign freeze list")
async def list_freezes(caller: Caller, *, limit: Limit = 100, cursor: Cursor | None = None) -> Page[FreezeResponse]:
    """Lists the freezes by name."""
    found = await caller.fleet.freezes.records.page(after=decode(cursor), limit=limit)
    return answered(found, lambda freeze: to_response(FreezeResponse, freeze))


@call("DELETE /freezes/{freeze}", Permission.CAMPAIGNS_WRITE, cli="campaign freeze remove FREEZE", status=204)
async def remove_freeze(caller: Caller, freeze: FreezeName, *, reason: Reason = "") -> None:
    """Removes a freeze; the devices that it held may install within the hour.

    Raises:
        NotFound: there is no such freeze.
    """
    await caller.fleet.freezes.remove(freeze, reason=reason, actor=caller.actor)
