"""Answers about groups and their members."""

from fleetcore.calls.types import Ms, Response


class GroupResponse(Response, frozen=True):
    """A group and the number of its devices, including those of groups within it."""

    id: str
    query: str | None
    within: list[str]
    description: str
    devices: int
    created: Ms | None
    updated: Ms | None
    version: int


class MemberResponse(Response, frozen=True):
    """A device in a group; since when and why, where it is in the group directly."""

    device: str
    since: Ms | None = None
    why: str = ""


class MembershipResponse(Response, frozen=True):
    """A group that a device is in directly."""

    device: str
    group: str
    since: Ms | None
    why: str


class ChangedResponse(Response, frozen=True):
    """The number of changes that a call made."""

    changed: int
