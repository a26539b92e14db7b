"""The audit log: reading it, and verifying it."""

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

ObjectName = Annotated[str, Meta(max_length=256, description="Only rows about this device, group, command …")]
DeviceName = Annotated[str, Meta(max_length=64, description="Only rows about this device, its commands, its updates.")]
ActionName = Annotated[
    str,
    Meta(max_length=128, description="Only this action, or, with a dot at its end, all actions that begin with it."),
]
Since = Annotated[Ms, Meta(description="Only actions from this time on.")]
ActorName = Annotated[str, Meta(max_length=256, description="Only actions of this person, token or device.")]
RowNumber = Annotated[
    int, Meta(ge=0, le=2**53, description="Only rows after this number; they are then listed oldest first.")
]
#: The chain links each row to all before it, so the newest checkpoints cover the older rows too.
Checkpoints = Annotated[
    Sequence[Annotated[str, Meta(max_length=2048)]],
    Meta(max_length=250, description="Signed checkpoints to verify against, the newest lines of the file."),
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
    """Lists rows of the audit log, the newest first; with ``after`` the oldest first."""
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
    """Recomputes every hash and compares with signed checkpoints: the given ones, or else the server's."""
    fleet = caller.fleet
    await fleet.wait_idle()
    lines = None if checkpoints is None else [line.encode() for line in checkpoints]
    return to_response(VerdictResponse, await fleet.audit.verify(fleet.security.signing_keys(), lines))
