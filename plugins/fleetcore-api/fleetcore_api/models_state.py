"""Models of what is wanted of devices and done to them: groups, twins, commands, operations, queries."""

from typing import Annotated, Any, Literal

from msgspec import Meta

from fleetcore.model.command import CommandState
from fleetcore.model.layer import LayerKind
from fleetcore.model.operation import OperationState
from fleetcore_api.models import DeviceId, In, Json, Label, Out, Reason, Time

Query = Annotated[str, Meta(max_length=4096, description="A query of the fleet query grammar.")]
Seconds = Annotated[float, Meta(gt=0, le=315_360_000)]


class OriginOut(Out):
    """Which layer set a leaf, who and when."""

    layer: str
    by: str
    time: Time | None


class TwinOut(Out):
    """A twin; its ETag names all sections' versions."""

    desired: Json
    desired_version: int
    reported: Json
    reported_version: int
    attributes: Json
    delta: Json
    acknowledged: int
    refused: Json
    origins: dict[str, OriginOut]
    unconverged: dict[str, Time]
    time: Time


class PastOut(Out):
    """A change of a section; ``undo`` is the patch that takes it back."""

    version: int
    time: Time
    by: str
    reason: str
    undo: Json


class LayerIn(In):
    """A patch (RFC 7396) of a layer of desired state; the layer is made where there is none."""

    patch: Json
    kind: LayerKind = LayerKind.FLEET
    group: Label | None = None
    priority: Annotated[int, Meta(ge=-1_000_000, le=1_000_000)] = 0
    reason: Reason = ""


class SectionOut(Out):
    """A document with the version of each change."""

    document: Json
    version: int


class LayerOut(Out):
    """What is desired of many devices; ``by`` says who set each leaf."""

    id: str
    kind: LayerKind
    group: str | None
    priority: int
    section: SectionOut
    by: dict[str, str]
    version: int


class CommandIn(In):
    """A command to one device."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]
    args: Json = {}
    lane: Annotated[str, Meta(min_length=1, max_length=128)] = "default"
    respond: Literal["result", "ack", "none"] = "result"
    deliver_within_s: Seconds = 86_400
    execute_within_s: Seconds = 86_400
    result_within_s: Seconds = 90_000
    supersede: Annotated[str, Meta(min_length=1, max_length=128)] | None = None
    precondition: Query | None = None
    reason: Reason = ""


class BulkIn(CommandIn):
    """A command to the devices that a query selects, or to those named."""

    where: Query | None = None
    devices: Annotated[list[DeviceId], Meta(max_length=10_000)] = []
    plan: Annotated[str, Meta(pattern="^sha256:[0-9a-f]{64}$")] | None = None
    cap: Annotated[int, Meta(ge=1, le=1_000_000)] = 1000
    rate_per_s: Annotated[float, Meta(gt=0, le=1_000_000)] | None = None


class PlanOut(Out):
    """What a bulk request would do; send the same body with ``plan`` to have it done."""

    plan: str
    count: int
    sample: list[str]
    cap: int


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


class FailureOut(Out):
    """What an operation could not do."""

    item: int
    about: str
    code: str
    reason: str


class OperationOut(Out):
    """Long work and how far it is."""

    id: str
    kind: str
    state: OperationState
    total: int
    done: int
    failed: int
    failures: list[FailureOut]
    reasons: dict[str, int]
    result: Json
    created: Time | None
    updated: Time | None
    actor: str
    reason: str


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


class ReasonIn(In):
    """Why: written into the audit log."""

    reason: Reason = ""
