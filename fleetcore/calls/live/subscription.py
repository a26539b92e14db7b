"""The common part of all kinds of subscriptions: a position in the feed, and a bounded amount that waits to be sent."""

from abc import ABC, abstractmethod

from attrs import frozen

from fleetcore.calls.caller import Caller
from fleetcore.calls.live.frames import Frame, Subscribe
from fleetcore.calls.selection import followable
from fleetcore.model.store import FeedEntry


@frozen(kw_only=True)
class LiveLimits:
    """The limits of one conversation: ``waiting`` bounds the events, and the readings, that wait in a subscription."""

    subscriptions: int = 32
    waiting: int = 1000
    selected: int = 20_000


class Subscription(ABC):
    """One subscription of a conversation.

    Attributes:
        position: the feed is processed up to here.
    """

    def __init__(self, caller: Caller, asked: Subscribe, position: int, limits: LiveLimits) -> None:
        """Raises Refused for a query that cannot be followed."""
        self.id, self.position = asked.id, position
        self._caller, self._limits = caller, limits
        self._where = None if asked.where is None else followable(asked.where)

    @property
    @abstractmethod
    def waits(self) -> bool:
        """Whether there is something to send."""

    @abstractmethod
    async def see(self, entry: FeedEntry) -> None:
        """Takes a commit, in order."""

    @abstractmethod
    async def take(self) -> Frame | None:
        """The next frame to send, if any. Raises Refused where the subscription cannot continue."""

    @abstractmethod
    async def judge_again(self) -> None:
        """Applies the caller's changed rights to what waits."""

    def trimmed(self, position: int) -> None:
        """Continues from ``position``, because the feed up to it is trimmed."""
        self.position = position

    def frame(self, op: str, **members: object) -> Frame:
        """A frame of this subscription."""
        return {"op": op, "id": self.id, **members}
