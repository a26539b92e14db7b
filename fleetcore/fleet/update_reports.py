"""Devices' reports about updates: what one says to the engine, and why one is refused before that (wire.md §10)."""

from fleetcore.errors import Refused
from fleetcore.model.firmware import Campaign, Execution, ExecutionState
from fleetcore.model.message import Rejected
from fleetcore.rollout.executions import Reported
from fleetcore.rollout.steps import image_at
from fleetcore.wire import messages
from fleetcore.wire.bodies import check_ahead
from fleetcore.wire.replies import rejection
from fleetcore.wire.times import format_time

#: The answer to a report about an execution that the device does not have.
UNKNOWN = Rejected(code="execution_unknown", reason="This device has no such execution")


def latest_deferral(campaign: Campaign, execution: Execution) -> int | None:
    """Until when a device's user may put the update off; None where nothing limits it."""
    longest = campaign.rollout.eligibility.max_deferral_ms
    return None if longest is None else (execution.first_offered or execution.changed) + longest


def _deferred_until(body: messages.FirmwareStatus) -> int | None:
    return int(body.until) if body.state == "deferred" and body.until is not None else None


def problem(body: messages.FirmwareStatus, now: int) -> Rejected | None:
    """Why a report is refused, whatever it is about."""
    until = _deferred_until(body)
    try:
        check_ahead(until, "until", now)
    except Refused as error:
        return rejection(error)
    if body.state == "deferred" and until is None:
        return Rejected(code="schema_invalid", reason="deferred requires until, a time", pointer="/until")
    return None


def refusal(campaign: Campaign, execution: Execution, body: messages.FirmwareStatus, at: int) -> Rejected | None:
    """Why a report about a step of an execution is refused by its campaign."""
    release = image_at(campaign, at).release
    until, latest = _deferred_until(body), latest_deferral(campaign, execution)
    if until is not None and latest is not None and until > latest:
        return Rejected(code="too_late", reason=f"It may be deferred until {format_time(latest)}", pointer="/until")
    if body.state == "succeeded" and body.version != release:
        return Rejected(code="version_mismatch", reason=f"The offer is {release}", pointer="/version")
    return None


def event_of(body: messages.FirmwareStatus, at: int) -> Reported:
    """What a report about a step means to the engine."""
    return Reported(
        step=at, state=ExecutionState(body.state), progress=body.progress, bytes=body.bytes, code=body.code,
        reason=body.reason, until=_deferred_until(body), version=body.version,
    )  # fmt: skip
