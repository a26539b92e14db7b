"""Operations: watching, pausing and stopping long work."""

from collections.abc import Mapping
from typing import Annotated

from msgspec import Meta

from fleetcore.calls.caller import Caller, answered, missing
from fleetcore.calls.cursors import decode
from fleetcore.calls.responses.operations import OperationResponse
from fleetcore.calls.table import BY_CALL, call
from fleetcore.calls.types import Cursor, Limit, Names, Page, Reason, to_response
from fleetcore.fleet import bulk_commands, cutovers, map_reduce, renewals
from fleetcore.fleet.repository import Repository
from fleetcore.model.operation import Operation
from fleetcore.model.operator import Permission

OperationId = Annotated[
    str, Meta(min_length=1, max_length=64, description="The operation's id."), Names("list_operations", short=True)
]
OperationKind = Annotated[str, Meta(max_length=64, description="Only this kind: import, command, renewal …")]

#: The permission needed to stop or pause another principal's operation.
_NEEDED = {
    bulk_commands.KIND: Permission.COMMANDS_SEND,
    map_reduce.KIND: Permission.COMMANDS_SEND,
    renewals.KIND: Permission.SECURITY_WRITE,
    cutovers.KIND: Permission.SECURITY_WRITE,
}
#: How many failures an answer lists.
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
    """An operation as an answer, with its current results."""
    counts: Mapping[str, int] = operation.result
    if operation.kind == bulk_commands.KIND:
        counts = await caller.fleet.bulk_commands.counts(operation.id)
    return listed_operation(operation, counts)


def listed_operation(operation: Operation, counts: Mapping[str, int] | None = None) -> OperationResponse:
    """An operation as an answer, with the data of its record."""
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
    """Shows an operation: its progress, and its failures.

    Raises:
        NotFound: there is no such operation, or it is another principal's.
    """
    return await operation_response(caller, await own_operation(caller, operation))


async def _steered(caller: Caller, operation: str) -> Operation:
    found = await own_operation(caller, operation)
    if found.actor != caller.actor:
        caller.everywhere(operation, _NEEDED.get(found.kind, Permission.DEVICES_WRITE))
    return found


@call("POST /operations/{operation}/cancel", Permission.COMMANDS_SEND, scope=BY_CALL, cli="operation cancel OPERATION")
async def cancel_operation(caller: Caller, operation: OperationId, *, reason: Reason = "") -> OperationResponse:
    """Stops an operation before its next item; finished items stay done.

    The queued commands of a bulk command are cancelled, and devices that were asked to renew are not asked again.
    Stopping another principal's operation requires the permission for the whole fleet.

    Raises:
        NotFound: there is no such operation, or it is another principal's.
    """
    found = await _steered(caller, operation)
    ended = await caller.fleet.operations.cancel(found.id, actor=caller.actor, reason=reason)
    return await operation_response(caller, ended)


@call("POST /operations/{operation}/pause", Permission.COMMANDS_SEND, scope=BY_CALL, cli="operation pause OPERATION")
async def pause_operation(caller: Caller, operation: OperationId, *, reason: Reason = "") -> OperationResponse:
    """Pauses an operation: it starts no more items until it is resumed; items in progress finish.

    Raises:
        NotFound: there is no such operation, or it is another principal's.
        Conflict: it has ended, or its kind always runs to the end.
    """
    found = await _steered(caller, operation)
    held = await caller.fleet.operations.pause(found.id, actor=caller.actor, reason=reason)
    return await operation_response(caller, held)


@call("POST /operations/{operation}/resume", Permission.COMMANDS_SEND, scope=BY_CALL, cli="operation resume OPERATION")
async def resume_operation(caller: Caller, operation: OperationId, *, reason: Reason = "") -> OperationResponse:
    """Resumes a paused operation.

    Raises:
        NotFound: there is no such operation, or it is another principal's.
        Conflict: it has ended.
    """
    found = await _steered(caller, operation)
    held = await caller.fleet.operations.resume(found.id, actor=caller.actor, reason=reason)
    return await operation_response(caller, held)
