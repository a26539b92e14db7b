"""Refused messages that are kept."""

from fleetcore.calls.types import Ms, Response


class DeadLetterResponse(Response, frozen=True):
    """A refused message; its payload in base64, cut where ``whole`` is false.

    ``text`` is the payload as UTF-8; a list leaves it out.
    """

    number: int
    device: str
    identity: str
    operation: str
    code: str
    reason: str
    time: Ms | None
    payload: str
    whole: bool
    text: str | None = None


class ReplayResponse(Response, frozen=True):
    """What came of a refused message when it went through the data path again."""

    number: int
    accepted: bool
    code: str = ""
    reason: str = ""
