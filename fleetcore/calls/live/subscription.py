"""The common part of all kinds of subscriptions: a position in the feed, and a bounded amount that waits to be sent."""

from abc import ABC, abstractmethod

from attrs import frozen

from fleetcore.calls.caller import Caller
from fleetcore.calls.live.frames import Frame, Subscribe
from fleetcore.errors import Refused
from fleetcore.fleet.documents import TIMED
from fleetcore.fleet.search import NOTHING, parts_of
from fleetcore.model.events import changed_parts, device_of
from fleetcore.model.operator import Permission
from fleetcore.model.store import FeedEntry
from fleetcore.query.ast import Clause
from fleetcore.query.evaluate import matches
from fleetcore.query.fitting import parse_new
from fleetcore.query.resolve import is_timed


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
        self._where = None if asked.where is None else parse_new(asked.where)
        if self._where is not None and (is_timed(self._where) or parts_of(self._where) & TIMED):
            raise Refused(
                "The passing of time alone changes what this query selects",
                remedy="Select by other fields; subscribe to the part `connectivity`, or list devices with this query",
                pointer="/where",
            )

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


class Selection:
    """The devices that a query and the caller's rights select together; verdicts are cached until they may change.

    Attributes:
        clause: both as one, None where it selects every device.
        parts: the parts of a document that it reads.
    """

    def __init__(self, caller: Caller, where: Clause | None) -> None:
        self._caller, self._where = caller, where
        self._known: dict[str, bool] = {}
        self.narrow()

    def narrow(self) -> None:
        """Takes the current rights."""
        search = self._caller.fleet.search
        clause = self._caller.narrowed(self._where, Permission.DEVICES_READ)
        self.clause = clause if clause is None or clause == NOTHING else search.resolved(clause)
        self.parts = parts_of(self.clause)
        self._known.clear()

    def see(self, entry: FeedEntry) -> None:
        """Drops the cached verdicts that a commit may have changed."""
        for event in entry.events:
            device = device_of(event)
            if device is not None and changed_parts(event) & self.parts:
                self._known.pop(device, None)

    async def holds(self, device: str) -> bool:
        """Whether it selects a device; never one that is not registered."""
        if self.clause is None:
            return True
        if (known := self._known.get(device)) is None:
            document = await self._caller.fleet.search.documents.of(device, self.parts)
            known = self._known[device] = document is not None and matches(self.clause, document)
        return known
