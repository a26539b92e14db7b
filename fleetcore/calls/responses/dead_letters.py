"""Answers about refused messages that are stored."""

from fleetcore.calls.types import Ms, Response


class DeadLetterResponse(Response, frozen=True):
    """A refused message; its payload in base64, truncated where ``whole`` is false.

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
    """The outcome of sending a refused message through the data path again."""

    number: int
    accepted: bool
    code: str = ""
    reason: str = ""
