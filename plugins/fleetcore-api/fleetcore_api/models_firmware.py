"""Model of a device's way through a campaign."""

from fleetcore.model.firmware import ExecutionState
from fleetcore_api.models import Out, Time


class ExecutionOut(Out):
    """One device's way through a campaign."""

    id: str
    campaign: str
    device: str
    state: ExecutionState
    attempt: int
    progress: float | None
    code: str | None
    reason: str | None
    until: Time | None
    reported_version: str | None
    changed: Time | None
