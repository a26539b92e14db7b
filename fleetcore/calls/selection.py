"""The devices that a query selects, kept up to date from the feed: for what follows events, readings or state."""

from fleetcore.calls.caller import Caller
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


def followable(where: str) -> Clause:
    """A query whose selection only events change; raises Refused, QuerySyntaxError."""
    clause = parse_new(where)
    if is_timed(clause) or parts_of(clause) & TIMED:
        raise Refused(
            "The passing of time alone changes what this query selects",
            remedy="Select by other fields; subscribe to the part `connectivity`, or list devices with this query",
            pointer="/where",
        )
    return clause


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
