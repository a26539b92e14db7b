"""A group of devices: static (operators add members) or dynamic (a query selects them); groups can be nested."""

from attrs import frozen


@frozen(kw_only=True)
class Group:
    """One group.

    Attributes:
        query: selects the members of a dynamic group; None for a static one.
        within: the groups that contain this one: its members are theirs too.
        created, updated: ms since the epoch.
    """

    id: str
    query: str | None = None
    within: tuple[str, ...] = ()
    description: str = ""
    created: int = 0
    updated: int = 0
    version: int = 0


@frozen(kw_only=True)
class Membership:
    """A device's direct membership in a group: since when, and why (the operator, or the clause that turned true)."""

    device: str
    group: str
    since: int = 0
    why: str = ""
    version: int = 0

    @property
    def key(self) -> str:
        """Device ids contain no slash, so the first one separates."""
        return f"{self.device}/{self.group}"
