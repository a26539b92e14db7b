"""Events."""

from fleetcore.calls.types import Json, Ms, Response


class EventResponse(Response, frozen=True):
    """What happened, to what, and in whose name.

    ``position`` is where to go on after it: it comes with the last event of a commit, and is None with the others, so
    that a reader that goes on from there has missed nothing.
    """

    type: str
    subject: str
    time: Ms
    actor: str
    reason: str
    data: Json
    position: int | None
