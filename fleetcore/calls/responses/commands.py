"""Commands to devices, and their results."""

from typing import Any

from fleetcore.calls.types import Json, Ms, Response
from fleetcore.model.command import CommandState


class CommandResponse(Response, frozen=True):
    """A command and its state.

    ``late`` is a result that came after the end; ``supersedes`` lists the queued commands that it replaced.
    """

    id: str
    device: str
    name: str
    args: Json
    sequence: int
    lane: str
    respond: str
    state: CommandState
    issued_at: Ms | None
    deliver_by: Ms | None
    expires_at: Ms | None
    result_by: Ms | None
    sent_at: Ms | None
    finished_at: Ms | None
    attempt: int
    progress: float | None
    output: Any
    code: str | None
    reason: str | None
    cancel_requested: bool
    supersedes: list[str]
    late: Json | None
    issued_by: str
    supersede_key: str | None
    precondition: str | None
    bulk: str | None


class PlanResponse(Response, frozen=True):
    """The devices that a command to many would reach: their number, the first of them, and the cap.

    ``plan`` identifies exactly these devices and this command.
    """

    plan: str
    count: int
    sample: list[str]
    cap: int


class CommandCountsResponse(Response, frozen=True):
    """The number of commands of an operation in each state."""

    operation: str
    counts: dict[str, int]
