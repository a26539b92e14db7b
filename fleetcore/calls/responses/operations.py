"""Operations, and rows of imports and exports."""

from msgspec import field

from fleetcore.calls.types import Json, Ms, Response
from fleetcore.model.operation import OperationState


class FailureResponse(Response, frozen=True):
    """An item that failed: its number, counted from 1, what it is about, and why."""

    item: int
    about: str
    code: str
    reason: str


class OperationResponse(Response, frozen=True):
    """An operation and its progress.

    ``failures`` are the first ones; ``reasons`` counts failures by code, ``result`` the other items. ``paused`` says
    why it starts no more items until it is resumed; ``waiting`` what it waits for, such as a hub that does not answer.
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
    """What an import would do: the number of rows, which would fail, and the results of the others."""

    id: str
    count: int
    failed: int
    failures: list[FailureResponse]
    reasons: dict[str, int]
    result: dict[str, int]


class DeviceRowResponse(Response, frozen=True, omit_defaults=True):
    """A device as a row that can be imported; empty members are left out."""

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
