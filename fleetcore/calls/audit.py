"""The audit log: read, and verified."""

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from fleetcore.calls.caller import Caller, answered
from fleetcore.calls.cursors import decode
from fleetcore.calls.responses.audit import AuditRowResponse, VerdictResponse
from fleetcore.calls.table import call
from fleetcore.calls.types import Cursor, Limit, Page, to_response
from fleetcore.fleet.audit import row_key
from fleetcore.model.operator import Permission

ObjectName = Annotated[str, Meta(max_length=256, description="Of this device, group, command … only.")]
ActorName = Annotated[str, Meta(max_length=256, description="By this person, token or device only.")]
RowNumber = Annotated[int, Meta(ge=0, le=2**53, description="Begin after this row.")]
#: The chain binds each row to all before it: what the newest checkpoint says is said of the older rows too.
Checkpoints = Annotated[
    Sequence[Annotated[str, Meta(max_length=2048)]],
    Meta(max_length=250, description="Signed checkpoints to believe, lines of the file, the newest of them."),
]


@call(
    "GET /audit", Permission.AUDIT_READ, cli="audit list",
    columns=("seq", "time", "actor", "action", "object", "changed", "reason"),
)  # fmt: skip
async def list_audit(
    caller: Caller,
    *,
    object: ObjectName | None = None,
    actor: ActorName | None = None,
    after: RowNumber = 0,
    limit: Limit = 100,
    cursor: Cursor | None = None,
) -> Page[AuditRowResponse]:
    """Lists rows of the audit log in their order."""
    start = decode(cursor) or row_key(after)
    rows = await caller.fleet.audit.page(object=object, actor=actor, after=start, limit=limit)
    return answered(rows, lambda row: to_response(AuditRowResponse, row))


@call("POST /audit/verify", Permission.AUDIT_READ, cli="audit verify")
async def verify_audit(caller: Caller, checkpoints: Checkpoints | None = None) -> VerdictResponse:
    """Recomputes every hash and compares with signed checkpoints: those given, else those that the server keeps."""
    fleet = caller.fleet
    await fleet.settle()
    lines = None if checkpoints is None else [line.encode() for line in checkpoints]
    return to_response(VerdictResponse, await fleet.audit.verify(fleet.security.signing_keys(), lines))
