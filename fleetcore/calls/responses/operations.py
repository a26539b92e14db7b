"""Long work, and rows of imports and exports."""

from msgspec import field

from fleetcore.calls.types import Json, Ms, Response
from fleetcore.model.operation import OperationState


class FailureResponse(Response, frozen=True):
    """What could not be done: the item, counted from 1, what it is about, and why."""

    item: int
    about: str
    code: str
    reason: str


class OperationResponse(Response, frozen=True):
    """Long work and how far it is.

    ``failures`` are the first ones; ``reasons`` counts what failed by code, ``result`` the rest. ``paused`` says why
    nothing more is begun until it is resumed; ``waiting`` what it waits for, as a hub that does not answer.
    """

    id: str
    kind: str
    state: OperationState
    total: int
    done: int
    failed: int
    failures: list[FailureResponse]
    reasons: dict[str, int]
    result: Json
    paused: str | None
    waiting: str
    created: Ms | None
    updated: Ms | None
    actor: str
    reason: str


class ImportCheckResponse(Response, frozen=True):
    """What an import would do: how many rows there are, which would fail, and what would become of the others."""

    id: str
    count: int
    failed: int
    failures: list[FailureResponse]
    reasons: dict[str, int]
    result: dict[str, int]


class DeviceRowResponse(Response, frozen=True, omit_defaults=True):
    """A device as a row that can be imported; what it has not is left out."""

    id: str
    type: str
    model: str | None = None
    name: str | None = None
    tags: list[str] = field(default_factory=list)
    capabilities: list[str] = field(default_factory=list)
    attributes: Json = field(default_factory=dict)
    location: Json | None = None
    gateway: str | None = None
    key_id: str | None = None
