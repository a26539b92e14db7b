"""The freeze calendar: times in which no device begins to install, and devices excluded until further notice."""

from collections.abc import Sequence

from fleetcore.errors import Conflict, Refused
from fleetcore.fleet.repository import Repository
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.model.eligibility import Freeze, in_force
from fleetcore.model.names import check_label
from fleetcore.model.store import Commit, Event
from fleetcore.query.fitting import parse_new

#: Each is judged at each offer, so there are few.
_MOST = 1000


class Freezes:
    """Stores the freezes; all of them are in memory."""

    def __init__(self, storage: Storage, clock: Clock) -> None:
        self._storage, self._clock = storage, clock
        self.records = Repository(storage, "freeze", Freeze)
        self._known: dict[str, Freeze] | None = None
        self._changes = 0

    async def all(self) -> Sequence[Freeze]:
        """All freezes, by id."""
        known = self._known
        while known is None:
            changes = self._changes
            read = {freeze.id: freeze async for freeze in self.records.iterate()}
            if changes == self._changes:  # otherwise one may be missing
                known = self._known = read
        return sorted(known.values(), key=lambda freeze: freeze.id)

    def _changed(self) -> None:
        self._known = None
        self._changes += 1

    async def in_force(self, now: int) -> Sequence[Freeze]:
        """The freezes of a time in ms."""
        return in_force(await self.all(), now)

    async def add(
        self, id: str, *, begin: int | None = None, end: int | None = None, where: str = "", reason: str = "",
        actor: str = "system",
    ) -> Freeze:  # fmt: skip
        """Adds a freeze, from now on unless ``begin`` says otherwise; times in ms since the epoch.

        Raises:
            Refused: an invalid name or query; the end is not after the beginning; ``limit_exceeded``.
            Conflict: ``already_exists``.
        """
        check_label(id, "freeze")
        now = self._clock.now_ms()
        begin = now if begin is None else begin
        if end is not None and end <= max(begin, now):
            raise Refused("A freeze ends after it begins, and in the future", pointer="/end")
        if where:
            parse_new(where)
        if len(await self.all()) >= _MOST:
            raise Refused(
                f"There are {_MOST} freezes", code="limit_exceeded", remedy="Remove those that are over", limit=_MOST
            )
        freeze = Freeze(id=id, begin=begin, end=end, where=where, reason=reason, by=actor)
        event = Event(
            type="freeze.added", subject=id, time=now, actor=actor, reason=reason,
            data={"begin": begin, "end": end, "where": where},
        )  # fmt: skip
        try:
            made = await self.records.create(freeze, [event])
        except Conflict as error:
            raise Conflict(f"The freeze {id!r} exists already", remedy="Remove it first") from error
        self._changed()
        return made

    async def remove(self, id: str, *, reason: str = "", actor: str = "system") -> None:
        """Removes a freeze; devices that it held get their offers within an hour. Raises NotFound."""
        freeze = await self.records.need(id)
        event = Event(type="freeze.removed", subject=id, time=self._clock.now_ms(), actor=actor, reason=reason)
        await self._storage.commit(self.records.removing(freeze) + Commit(events=(event,)))
        self._changed()
