"""Operations: long work, watched and stopped."""

from collections.abc import Mapping

from litestar import Response, get, post
from litestar.openapi import ResponseSpec
from litestar.params import FromPath, FromQuery, JSONBody

from fleetcore.calls.cursors import decode
from fleetcore.model.operation import Operation
from fleetcore.model.operator import Permission
from fleetcore_api.access import Access, missing
from fleetcore_api.models import shown
from fleetcore_api.models_state import CheckOut, FailureOut, ImportIn, OperationOut, ReasonIn
from fleetcore_api.pages import Cursor, Limit, Page, answered
from fleetcore_api.parameters import Caller

#: What stopping somebody else's operation takes.
_NEEDED = {"command": Permission.COMMANDS_SEND, "renewal": Permission.SECURITY_WRITE}

#: Failures that an answer shows.
_MOST_FAILURES = 100


async def show_operation(access: Access, operation: Operation) -> OperationOut:
    """An operation as it is answered, with what came of it."""
    counts: Mapping[str, int] = operation.result
    if operation.kind == "command":
        counts = await access.fleet.bulk_commands.counts(operation.id)
    return _show(operation, counts)


def _show(operation: Operation, counts: Mapping[str, int]) -> OperationOut:
    failures = [shown(FailureOut, one) for one in operation.failures[:_MOST_FAILURES]]
    return shown(OperationOut, operation, failures=failures, reasons=dict(operation.reasons), result=dict(counts))


def _mine(access: Access, operation: Operation) -> bool:
    return operation.actor == access.actor or access.rights.everywhere(Permission.DEVICES_READ)


@get("/operations", permission=Permission.DEVICES_READ)
async def list_operations(access: Caller, limit: Limit = 100, cursor: Cursor = None) -> Page[OperationOut]:
    """Operations, the newest first: all, or the caller's own."""
    everything = access.rights.everywhere(Permission.DEVICES_READ)
    ref = None if everything else ("actor", access.actor)
    found = await access.fleet.operations.records.page(ref=ref, after=decode(cursor), limit=limit, newest=True)
    return answered(found, lambda operation: _show(operation, operation.result))


async def _found(access: Access, operation: str) -> Operation:
    found = await access.fleet.operations.get(operation)
    if not _mine(access, found):
        raise missing("operation", operation)
    return found


@get("/operations/{operation:str}", permission=Permission.DEVICES_READ)
async def get_operation(access: Caller, operation: FromPath[str]) -> OperationOut:
    """One operation: ``reasons`` counts what failed by code, ``result`` the rest of them."""
    return await show_operation(access, await _found(access, operation))


@post("/operations/{operation:str}/cancel", permission=Permission.COMMANDS_SEND, status_code=200)
async def cancel_operation(access: Caller, operation: FromPath[str], data: JSONBody[ReasonIn]) -> OperationOut:
    """Stops an operation before its next item; for the caller's own, or with the right for the whole fleet."""
    found = await _found(access, operation)
    if found.actor != access.actor:
        access.wide(_NEEDED.get(found.kind, Permission.DEVICES_WRITE), operation)
    ended = await access.fleet.operations.cancel(operation, actor=access.actor, reason=data.reason)
    return await show_operation(access, ended)


@post(
    "/imports",
    permission=Permission.DEVICES_WRITE,
    everywhere=True,
    status_code=202,
    responses={
        200: ResponseSpec(CheckOut, description="What is wrong with the rows (dry_run).", generate_examples=False)
    },
)
async def start_import(
    access: Caller, data: JSONBody[ImportIn], dry_run: FromQuery[bool] = False
) -> Response[OperationOut]:
    """Registers many devices; the operation tells each row that failed. Again it registers nothing twice.

    A large file comes in parts: all but the last with `more`, all but the first with the `id` of the first answer as
    `operation`.
    """
    importing = access.fleet.importing
    if dry_run:
        name, found = await importing.check_part(data.rows, of=data.operation, more=data.more)
        failures = [shown(FailureOut, failure) for failure in found.failures[:_MOST_FAILURES]]
        checked = CheckOut(
            id=name,
            count=found.total,
            failed=found.failed,
            failures=failures,
            reasons=dict(found.reasons),
            result=dict(found.result),
        )
        return Response(checked, status_code=200)  # type: ignore[arg-type]  # documented as 200
    if data.operation is not None:
        started = await _found(access, data.operation)
        if started.actor != access.actor:
            raise missing("operation", data.operation)
        operation = await importing.add(started.id, data.rows, more=data.more)
    else:
        operation = await importing.start(data.rows, more=data.more, actor=access.actor, reason=data.reason)
    headers = {"Location": f"/api/v1/operations/{operation.id}"}
    return Response(_show(operation, operation.result), status_code=202, headers=headers)


HANDLERS = [start_import, list_operations, get_operation, cancel_operation]
