"""Many devices at once: imported from rows, and exported as rows that can be imported."""

from collections.abc import Sequence
from typing import Annotated, Any

from msgspec import Meta

from fleetcore.calls.caller import Caller, missing
from fleetcore.calls.operations import MAX_FAILURES, OperationId, listed_operation, own_operation
from fleetcore.calls.responses.operations import (
    DeviceRowResponse,
    FailureResponse,
    ImportCheckResponse,
    OperationResponse,
)
from fleetcore.calls.table import BY_CALL, call
from fleetcore.calls.types import Cursor, Limit, Page, Reason, from_builtins, to_response
from fleetcore.fleet.import_rows import row_of
from fleetcore.model.operator import Permission

Rows = Annotated[
    Sequence[Any], Meta(min_length=1, max_length=10_000, description="Devices; each row is validated separately.")
]
Started = Annotated[OperationId, Meta(description="The `id` of the answer to the first part.")]
More = Annotated[bool, Meta(description="Whether another part follows.")]
_BY_FILE = "`fleetcore device import` sends a file"


@call("POST /imports", Permission.DEVICES_WRITE, no_cli=_BY_FILE, selected_by="dry_run")
async def check_import(
    caller: Caller, rows: Rows, *, operation: Started | None = None, more: More = False
) -> ImportCheckResponse:
    """Shows what an import of rows would do. Nothing is stored.

    A large file comes in parts, as for ``import_devices``.

    Raises:
        NotFound: ``operation`` is not a check that waits for another part.
    """
    name, found = await caller.fleet.importing.check_part(rows, of=operation, more=more)
    return ImportCheckResponse(
        id=name,
        count=found.total,
        failed=found.failed,
        failures=[to_response(FailureResponse, failure) for failure in found.failures[:MAX_FAILURES]],
        reasons=dict(found.reasons),
        result=dict(found.result),
    )


@call("POST /imports", Permission.DEVICES_WRITE, no_cli=_BY_FILE, status=202)
async def import_devices(
    caller: Caller, rows: Rows, *, operation: Started | None = None, more: More = False, reason: Reason = ""
) -> OperationResponse:
    """Registers many devices in the background; the operation lists each row that failed.

    A row has id, type, model, name, tags, capabilities, attributes, location, gateway, key_id. The same rows again
    change nothing, so an interrupted import can be repeated. A large file comes in parts: all but the last with
    ``more``, all but the first with the ``id`` of the first answer as ``operation``.

    Raises:
        NotFound: there is no such import, or it is another principal's.
        Conflict: it takes no more rows.
    """
    importing = caller.fleet.importing
    if operation is None:
        started = await importing.start(rows, more=more, actor=caller.actor, reason=reason)
        return listed_operation(started)
    found = await own_operation(caller, operation)
    if found.actor != caller.actor:
        raise missing("operation", operation)
    return listed_operation(await importing.add(found.id, rows, more=more))


@call("GET /exports", Permission.DEVICES_READ, scope=BY_CALL, no_cli="`fleetcore device export` writes a file")
async def list_device_rows(
    caller: Caller, *, limit: Limit = 100, cursor: Cursor | None = None
) -> Page[DeviceRowResponse]:
    """Lists devices as rows that ``import_devices`` takes, by id."""
    return await caller.page(
        caller.fleet.devices.records,
        lambda device: device.id,
        lambda device: from_builtins(row_of(device), DeviceRowResponse),
        cursor,
        limit,
    )
