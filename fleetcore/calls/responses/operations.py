"""Long work, and how far it is."""

from fleetcore.calls.types import Json, Ms, Response
from fleetcore.model.operation import OperationState


class FailureResponse(Response, frozen=True):
    """What an operation could not do: the item by its number, what it is about, and why."""

    item: int
    about: str
    code: str
    reason: str


class OperationResponse(Response, frozen=True):
    """Long work and how far it is.

    ``failures`` are the first ones; ``reasons`` counts what failed by code, ``result`` the rest.
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
    created: Ms | None
    updated: Ms | None
    actor: str
    reason: str
