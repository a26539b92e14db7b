"""Groups and who is in them."""

from fleetcore.calls.types import Ms, Response


class GroupResponse(Response, frozen=True):
    """A group and how many devices are in it, those of groups within it included."""

    id: str
    query: str | None
    within: list[str]
    description: str
    devices: int
    created: Ms | None
    updated: Ms | None
    version: int


class MemberResponse(Response, frozen=True):
    """A device in a group; since when and why where it is in the group itself."""

    device: str
    since: Ms | None = None
    why: str = ""


class MembershipResponse(Response, frozen=True):
    """A group that a device is in itself."""

    device: str
    group: str
    since: Ms | None
    why: str


class ChangedResponse(Response, frozen=True):
    """How many a call changed."""

    changed: int
