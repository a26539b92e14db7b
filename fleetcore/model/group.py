"""A group of devices: static (who is put in) or dynamic (whom a query selects); groups lie within groups."""

from attrs import frozen


@frozen(kw_only=True)
class Group:
    """One group.

    Attributes:
        query: selects the members of a dynamic group; None for a static one.
        within: the groups that this one lies in: its members are theirs too.
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
    """A device is in a group itself, since when, and why: who put it there, or the clause that turned true."""

    device: str
    group: str
    since: int = 0
    why: str = ""
    version: int = 0

    @property
    def key(self) -> str:
        """Device ids hold no slash, so the first one separates."""
        return f"{self.device}/{self.group}"
