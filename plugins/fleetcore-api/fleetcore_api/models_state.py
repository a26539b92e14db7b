"""Models of what is wanted of devices and done to them: groups, twins, commands, operations, queries."""

from typing import Annotated, Any

from msgspec import Meta

from fleetcore.model.command import CommandState
from fleetcore_api.models import DeviceId, In, Json, Out, Time

Query = Annotated[str, Meta(max_length=4096, description="A query of the fleet query grammar.")]


class CommandOut(Out):
    """A command and how far it is."""

    id: str
    device: str
    name: str
    args: Json
    sequence: int
    lane: str
    respond: str
    state: CommandState
    issued_at: Time | None
    deliver_by: Time | None
    expires_at: Time | None
    result_by: Time | None
    sent_at: Time | None
    finished_at: Time | None
    attempt: int
    progress: float | None
    output: Any
    code: str | None
    reason: str | None
    cancel_requested: bool
    supersedes: list[str]
    late: Json | None
    issued_by: str


class QueryIn(In):
    """A query too long for an address, or one to be explained for a device."""

    where: Query
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    cursor: Annotated[str, Meta(max_length=512)] | None = None
    explain: DeviceId | None = None
    count: bool = False


class QueryOut(Out):
    """Ids of devices; with ``explain`` whether one is selected, and line by line why; with ``count`` how many."""

    items: list[str]
    next: str | None
    selected: bool | None = None
    why: list[str] = []
    count: int | None = None
