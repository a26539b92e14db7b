"""Long work: how it is answered."""

from collections.abc import Mapping

from fleetcore.calls.caller import Caller, missing
from fleetcore.calls.responses.operations import FailureResponse, OperationResponse
from fleetcore.calls.types import to_response
from fleetcore.fleet import bulk_commands
from fleetcore.model.operation import Operation
from fleetcore.model.operator import Permission

#: How many failures an answer names.
MAX_FAILURES = 100


def show_operation(operation: Operation, counts: Mapping[str, int] | None = None) -> OperationResponse:
    """An operation as it is answered; ``counts`` is what came of it, where the operation itself does not say."""
    return to_response(
        OperationResponse,
        operation,
        failures=[to_response(FailureResponse, failure) for failure in operation.failures[:MAX_FAILURES]],
        reasons=dict(operation.reasons),
        result=dict(operation.result if counts is None else counts),
    )


async def operation_response(caller: Caller, operation: Operation) -> OperationResponse:
    """The same, with the commands of a bulk command counted by state."""
    if operation.kind == bulk_commands.KIND:
        return show_operation(operation, await caller.fleet.bulk_commands.counts(operation.id))
    return show_operation(operation)


async def own_operation(caller: Caller, operation: str) -> Operation:
    """The operation, where it is the caller's own or the caller may read the whole fleet. Raises NotFound."""
    found = await caller.fleet.operations.get(operation)
    if not caller.has_everywhere(Permission.DEVICES_READ) and found.actor != caller.actor:
        raise missing("operation", operation)
    return found
