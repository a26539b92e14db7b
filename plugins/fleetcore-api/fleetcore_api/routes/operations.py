"""An operation as other routes answer it."""

from collections.abc import Mapping

from fleetcore.model.operation import Operation
from fleetcore_api.access import Access
from fleetcore_api.models import shown
from fleetcore_api.models_state import FailureOut, OperationOut

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
