"""Operations: long work, watched and stopped."""

from collections.abc import Mapping
from typing import Annotated

from msgspec import Meta

from fleetcore.calls.caller import Caller, answered, missing
from fleetcore.calls.cursors import decode
from fleetcore.calls.responses.operations import OperationResponse
from fleetcore.calls.table import BY_CALL, call
from fleetcore.calls.types import Cursor, Limit, Names, Page, Reason, to_response
from fleetcore.fleet import bulk_commands, cutovers, renewals
from fleetcore.fleet.repository import Repository
from fleetcore.model.operation import Operation
from fleetcore.model.operator import Permission

OperationId = Annotated[str, Meta(min_length=1, max_length=64), Names("list_operations", short=True)]
OperationKind = Annotated[str, Meta(max_length=64, description="Of this kind only: import, command, renewal …")]

#: What stopping or pausing another principal's operation takes.
_NEEDED = {
    bulk_commands.KIND: Permission.COMMANDS_SEND,
    renewals.KIND: Permission.SECURITY_WRITE,
    cutovers.KIND: Permission.SECURITY_WRITE,
}
#: Failures that an answer shows.
MAX_FAILURES = 100


async def own_operation(caller: Caller, operation: str) -> Operation:
    """An operation that the caller may see: its own, or any with the right for the whole fleet. Raises NotFound."""
    caller.asked = True
    records: Repository[Operation] = caller.fleet.operations.records
    found = await records.get(operation)
    if found is None or not (found.actor == caller.actor or caller.rights.everywhere(Permission.DEVICES_READ)):
        raise missing("operation", operation)
    return found


async def operation_response(caller: Caller, operation: Operation) -> OperationResponse:
    """An operation as it is answered, with what came of it so far."""
    counts: Mapping[str, int] = operation.result
    if operation.kind == bulk_commands.KIND:
        counts = await caller.fleet.bulk_commands.counts(operation.id)
    return listed_operation(operation, counts)


def listed_operation(operation: Operation, counts: Mapping[str, int] | None = None) -> OperationResponse:
    """An operation as it is answered, with what its record says."""
    return to_response(
        OperationResponse,
        operation,
        failures=operation.failures[:MAX_FAILURES],
        result=operation.result if counts is None else counts,
    )


@call(
    "GET /operations", Permission.DEVICES_READ, scope=BY_CALL, cli="operation list",
    columns=("id", "kind", "state", "done", "total", "failed", "created", "reason"),
)  # fmt: skip
async def list_operations(
    caller: Caller, *, kind: OperationKind | None = None, limit: Limit = 100, cursor: Cursor | None = None
) -> Page[OperationResponse]:
    """Lists operations, the newest first: all, or the caller's own."""
    if not caller.has_everywhere():
        ref: tuple[str, str] | None = ("actor", caller.actor)
    else:
        ref = None if kind is None else ("kind", kind)
    found = await caller.fleet.operations.records.page(ref=ref, after=decode(cursor), limit=limit, newest=True)
    page = answered(found, listed_operation)
    return page if kind is None else Page([item for item in page if item.kind == kind], page.next)


@call("GET /operations/{operation}", Permission.DEVICES_READ, scope=BY_CALL, cli="operation show OPERATION")
async def get_operation(caller: Caller, operation: OperationId) -> OperationResponse:
    """Shows an operation: how far it is, and what failed.

    Raises:
        NotFound: there is no such operation, or it is another's.
    """
    return await operation_response(caller, await own_operation(caller, operation))


async def _steered(caller: Caller, operation: str) -> Operation:
    found = await own_operation(caller, operation)
    if found.actor != caller.actor:
        caller.everywhere(operation, _NEEDED.get(found.kind, Permission.DEVICES_WRITE))
    return found


@call("POST /operations/{operation}/cancel", Permission.COMMANDS_SEND, scope=BY_CALL, cli="operation cancel OPERATION")
async def cancel_operation(caller: Caller, operation: OperationId, *, reason: Reason = "") -> OperationResponse:
    """Stops an operation before its next item; what was done stays done.

    The queued commands of a bulk command are cancelled, and devices that were asked to renew are asked no more. To
    stop another principal's operation takes the right for the whole fleet.

    Raises:
        NotFound: there is no such operation, or it is another's.
    """
    found = await _steered(caller, operation)
    ended = await caller.fleet.operations.cancel(found.id, actor=caller.actor, reason=reason)
    return await operation_response(caller, ended)


@call("POST /operations/{operation}/pause", Permission.COMMANDS_SEND, scope=BY_CALL, cli="operation pause OPERATION")
async def pause_operation(caller: Caller, operation: OperationId, *, reason: Reason = "") -> OperationResponse:
    """Has an operation begin nothing more until it is resumed; what is under way comes to its end.

    Raises:
        NotFound: there is no such operation, or it is another's.
        Conflict: it has ended, or is of a kind that is always done to its end.
    """
    found = await _steered(caller, operation)
    held = await caller.fleet.operations.pause(found.id, actor=caller.actor, reason=reason)
    return await operation_response(caller, held)


@call("POST /operations/{operation}/resume", Permission.COMMANDS_SEND, scope=BY_CALL, cli="operation resume OPERATION")
async def resume_operation(caller: Caller, operation: OperationId, *, reason: Reason = "") -> OperationResponse:
    """Has a paused operation go on.

    Raises:
        NotFound: there is no such operation, or it is another's.
        Conflict: it has ended.
    """
    found = await _steered(caller, operation)
    held = await caller.fleet.operations.resume(found.id, actor=caller.actor, reason=reason)
    return await operation_response(caller, held)
