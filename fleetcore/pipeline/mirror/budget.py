"""A daily budget of a mirror: how much it may do from midnight to midnight (UTC), also over restarts.

The commit that records the work also records the spending. The one that spends the last of a day's budget writes an
event ``mirror.budget_spent``.
"""

from typing import cast

from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.model.days import DAY_MS
from fleetcore.model.store import Commit, Event, Put

KIND = "mirror_budget"


class DayBudget:
    """A budget per day; see the module.

    Args:
        per_day: None for no limit.
    """

    def __init__(self, mirror: str, what: str, per_day: int | None, storage: Storage, clock: Clock) -> None:
        self._mirror, self._what, self.per_day, self._storage, self._clock = mirror, what, per_day, storage, clock
        self._key = f"{mirror}/{what}"
        self._day, self.spent, self._more, self._told = -1, 0, 0, False

    async def load(self) -> None:
        """Reads what was spent today; call it before anything else."""
        record = await self._storage.get(KIND, self._key)
        if record is not None:
            self._day, self.spent, self._more = (cast("int", record.body[name]) for name in ("day", "spent", "more"))
            self._told = self.per_day is not None and self.spent >= self.per_day + self._more

    def room(self) -> int:
        """How much is left of today."""
        self._turn_over()
        return 1 << 62 if self.per_day is None else max(0, self.per_day + self._more - self.spent)

    def spend(self, count: int) -> Commit:
        """Spends some of it; returns the change that records it."""
        self._turn_over()
        self.spent += count
        if self.per_day is None or not count:
            return Commit()
        spent = self.spent >= self.per_day + self._more and not self._told
        self._told = self._told or spent
        return self._kept() + Commit(events=(self._alarm(),) if spent else ())

    def allow(self, count: int) -> Commit:
        """Adds this much for today; returns the change that records it."""
        self._turn_over()
        self._more, self._told = self._more + count, False
        return self._kept()

    def until_tomorrow_s(self) -> float:
        """Seconds until the next budget."""
        return (DAY_MS - self._clock.now_ms() % DAY_MS) / 1000

    def _turn_over(self) -> None:
        day = self._clock.now_ms() // DAY_MS
        if day != self._day:
            self._day, self.spent, self._more, self._told = day, 0, 0, False

    def _alarm(self) -> Event:
        return Event(
            type="mirror.budget_spent",
            subject=self._mirror,
            time=self._clock.now_ms(),
            actor="system",
            data={"budget": self._what, "count": self.spent},
        )

    def _kept(self) -> Commit:
        body = {"day": self._day, "spent": self.spent, "more": self._more}
        return Commit(puts=(Put(kind=KIND, key=self._key, body=body),))
