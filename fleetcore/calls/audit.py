"""The audit log: read, and verified."""

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from fleetcore.calls.caller import Caller, answered
from fleetcore.calls.cursors import decode
from fleetcore.calls.responses.audit import AuditRowResponse, VerdictResponse
from fleetcore.calls.table import call
from fleetcore.calls.types import Cursor, Limit, Ms, Page, to_response
from fleetcore.fleet.audit import row_key
from fleetcore.model.operator import Permission

ObjectName = Annotated[str, Meta(max_length=256, description="Of this device, group, command … only.")]
DeviceName = Annotated[str, Meta(max_length=64, description="Of this device, its commands and updates only.")]
ActionName = Annotated[
    str,
    Meta(max_length=128, description="Of this action only, or, with a dot at its end, of all that begin so."),
]
Since = Annotated[Ms, Meta(description="Of what was done from then on only.")]
ActorName = Annotated[str, Meta(max_length=256, description="By this person, token or device only.")]
RowNumber = Annotated[int, Meta(ge=0, le=2**53, description="The oldest first, after this row.")]
#: The chain binds each row to all before it: what the newest checkpoint says is said of the older rows too.
Checkpoints = Annotated[
    Sequence[Annotated[str, Meta(max_length=2048)]],
    Meta(max_length=250, description="Signed checkpoints to believe, lines of the file, the newest of them."),
]


@call(
    "GET /audit", Permission.AUDIT_READ, cli="audit list",
    columns=("seq", "time", "actor", "action", "object", "device", "name", "changed", "reason"),
)  # fmt: skip
async def list_audit(
    caller: Caller,
    *,
    object: ObjectName | None = None,
    actor: ActorName | None = None,
    action: ActionName | None = None,
    device: DeviceName | None = None,
    since: Since | None = None,
    after: RowNumber | None = None,
    limit: Limit = 100,
    cursor: Cursor | None = None,
) -> Page[AuditRowResponse]:
    """Lists rows of the audit log, the newest first; with ``after`` in their order."""
    start = decode(cursor) or (None if after is None else row_key(after))
    rows = await caller.fleet.audit.page(
        object=object,
        actor=actor,
        action=action,
        device=device,
        since=since,
        after=start,
        limit=limit,
        newest=after is None,
    )
    return answered(rows, lambda row: to_response(AuditRowResponse, row))


@call("POST /audit/verify", Permission.AUDIT_READ, cli="audit verify")
async def verify_audit(caller: Caller, checkpoints: Checkpoints | None = None) -> VerdictResponse:
    """Recomputes every hash and compares with signed checkpoints: those given, else those that the server keeps."""
    fleet = caller.fleet
    await fleet.wait_idle()
    lines = None if checkpoints is None else [line.encode() for line in checkpoints]
    return to_response(VerdictResponse, await fleet.audit.verify(fleet.security.signing_keys(), lines))
