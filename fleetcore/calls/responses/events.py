"""Answers about events of commits."""

from fleetcore.calls.types import Json, Ms, Response


class EventResponse(Response, frozen=True):
    """What happened, to which subject, and by which actor.

    ``position`` is where to continue: it comes with the last event of a commit, and is None with the others, so that a
    reader that continues from there has missed nothing.
    """

    type: str
    subject: str
    time: Ms
    actor: str
    reason: str
    data: Json
    position: int | None
