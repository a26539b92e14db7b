"""Retention: readings older than their metric's period are deleted, in the background and in small steps.

A step is one short transaction of the store, and the next waits as long as it took: commits go on in between. The store
counts what was deleted, and an event reports it at most once a day.
"""

import asyncio
import logging
from collections.abc import Iterator, Sequence

from msgspec import json

from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.model.days import DAY_MS
from fleetcore.model.events import RETENTION_DROPPED
from fleetcore.model.retention import MetricDue, Periods, late_ms
from fleetcore.model.store import Commit, Event, Expired

_log = logging.getLogger(__name__)

#: The counters of all deleted readings, and the blob with the counts that events have reported.
_SPACE, _TOLD = "retention", "retention/told"
#: Series handled at once; fewer when only counting, because that is one transaction.
_SERIES, _COUNTED = 1000, 200
#: How often it runs: readings stay at most a tenth of the shortest period longer, within limits.
_OFTEN_S, _SELDOM_S = 10.0, 600.0
_MAX_PAUSE_S = 0.25


class Retention:
    """Deletes readings by the periods.

    Attributes:
        dropped: all readings ever deleted.
        last_ms: when a pass ended last, 0 before the first.
    """

    def __init__(self, storage: Storage, clock: Clock, periods: Periods) -> None:
        self._storage, self._clock, self.periods = storage, clock, periods
        self.dropped = Expired()
        self.last_ms = 0
        self._running = asyncio.Lock()

    @property
    def every_s(self) -> float:
        """How often :meth:`run` should be called."""
        shortest = self.periods.shortest_ms or 0
        return min(_SELDOM_S, max(_OFTEN_S, shortest / 10_000))

    async def load(self) -> None:
        """Reads the counts so far."""
        kept = await self._storage.counters(_SPACE)
        self.dropped = Expired(
            readings=kept.get("readings", 0), texts=kept.get("texts", 0), size_bytes=kept.get("bytes", 0)
        )

    async def run(self) -> None:
        """One pass over all series; a second one waits. The next pass continues an interrupted one."""
        async with self._running:
            await self._pass()

    async def _pass(self) -> None:
        gone = Expired()
        for metric, indices in self._storage.catalog.by_metric().items():
            period = self.periods.of(metric)
            if period is None:
                continue
            before = self._clock.now_ms() - period
            for some in _parts(indices, _SERIES):
                gone += await self._drop(some, before, late_ms(period))
        self.last_ms = self._clock.now_ms()
        if gone.readings or gone.texts:
            _log.info(
                "Retention: %d readings and %d texts were older than their period and were deleted, %d bytes",
                gone.readings, gone.texts, gone.size_bytes,
            )  # fmt: skip
        await self._tell()

    async def due(self, periods: Periods, metrics: Sequence[str]) -> list[MetricDue]:
        """What a pass with these periods would delete now of some metrics; nothing is deleted."""
        now, found, every = self._clock.now_ms(), [], self._storage.catalog.by_metric()
        for metric in metrics:
            indices, period, total = every.get(metric, []), periods.of(metric), Expired()
            for some in _parts(indices, _COUNTED) if period is not None else ():
                assert period is not None
                total += await self._storage.expire(some, now - period, late_ms=late_ms(period), count=True)
            found.append(
                MetricDue(
                    metric=metric,
                    period_ms=period,
                    series=len(indices),
                    readings=total.readings,
                    texts=total.texts,
                    size_bytes=total.size_bytes,
                )
            )
        return found

    async def _drop(self, series: Sequence[int], before: int, late: int) -> Expired:
        gone = Expired(more=True)
        try:
            while gone.more:
                begun_s = self._clock.monotonic_s()
                part = await self._storage.expire(series, before, late_ms=late)
                gone += part
                pause_s = min(_MAX_PAUSE_S, self._clock.monotonic_s() - begun_s)
                if pause_s > 0 and (part.readings or part.texts):
                    await self._clock.sleep(pause_s)
        finally:
            if gone.readings or gone.texts:
                self.dropped += gone
                added = {"readings": gone.readings, "texts": gone.texts, "bytes": gone.size_bytes}
                await self._storage.commit(Commit(add={(_SPACE, name): count for name, count in added.items()}))
        return gone

    async def _tell(self) -> None:
        """Writes an event of what was deleted since the last one, at least a day after it."""
        now, total = self._clock.now_ms(), self.dropped
        kept = await self._storage.blob(_TOLD)
        told = {"time": 0, "readings": 0, "texts": 0, "bytes": 0} if kept is None else json.decode(kept)
        fresh = {
            "readings": total.readings - told["readings"],
            "texts": total.texts - told["texts"],
            "size_bytes": total.size_bytes - told["bytes"],
        }
        if now - told["time"] < DAY_MS or not (fresh["readings"] or fresh["texts"]):
            return
        event = Event(
            type=RETENTION_DROPPED, subject="readings", time=now, reason="older than [retention] allows", data=fresh
        )
        mark = {"time": now, "readings": total.readings, "texts": total.texts, "bytes": total.size_bytes}
        await self._storage.commit(Commit(events=(event,), blobs={_TOLD: json.encode(mark)}))


def _parts(indices: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for at in range(0, len(indices), size):
        yield indices[at : at + size]
