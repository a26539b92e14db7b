"""Devices by connectivity, and the first of them in an order: for displays that ask again and again.

A sweep looks at each selected device. Sweeps of one query take at most 4 % of the time, however many displays ask:
an answer is as old as 25 times what the last sweep took, at most.
"""

import asyncio
import heapq
import time
from collections.abc import Callable, Mapping, Sequence

from attrs import frozen

from fleetcore.fleet.lru_cache import LruCache
from fleetcore.fleet.process_state.locks import KeyedLocks
from fleetcore.fleet.process_state.presence import PresenceBoard
from fleetcore.fleet.search import Search
from fleetcore.interfaces.clock import Clock
from fleetcore.model.device import Connectivity, Lifecycle, Presence
from fleetcore.model.overview import MAX_FIRST, Order
from fleetcore.query.ast import And, Clause, Compare, Not

#: A sweep may take one part in so many of the time between its end and the next.
_SHARE = 25
#: Devices between two turns of the event loop.
_SLICE = 1000
#: Sweeps that are kept, each with its query and order.
_KEPT = 32
_NOT_RETIRED = Not(Compare(("lifecycle",), "=", Lifecycle.RETIRED.value))


@frozen(kw_only=True)
class Sweep:
    """What a sweep found.

    Attributes:
        as_of: its time, ms since the epoch.
        counts: the number of devices in each connectivity, and ``devices``: all of them. Retired devices do not count.
        first: the first ids in its order, up to :data:`~fleetcore.model.overview.MAX_FIRST`.
    """

    as_of: int
    counts: Mapping[str, int]
    first: Sequence[str]


class Overview:
    """Sweeps the present fleet.

    Args:
        monotonic_s: a clock, in seconds.
        busy_s: the processor time of this thread, in seconds: what a sweep takes of it counts, not what it waits.
    """

    def __init__(
        self,
        search: Search,
        presence: PresenceBoard,
        clock: Clock,
        *,
        monotonic_s: Callable[[], float] = time.monotonic,
        busy_s: Callable[[], float] = time.thread_time,
    ) -> None:
        self._search, self._presence, self._clock = search, presence, clock
        self._monotonic_s, self._busy_s = monotonic_s, busy_s
        #: Each sweep with the time from which the next may begin, on the monotonic clock.
        self._sweeps: LruCache[tuple[Sweep, float]] = LruCache(_KEPT)
        self._locks = KeyedLocks()

    async def sweep(self, where: Clause | None, order: Order, alerts: Mapping[str, int]) -> Sweep:
        """The last sweep of a query in an order, or a new one if it is due; raises QuerySyntaxError.

        Args:
            where: the query, with the caller's rights.
            alerts: the number of recent anomalies by device, for the order :attr:`Order.ALERTS`.
        """
        key = f"{order} {where!r}"
        async with self._locks.of(key):
            known = self._sweeps.get(key)
            if known is not None and self._monotonic_s() < known[1]:
                return known[0]
            made, took_s = await self._sweep(where, order, alerts)
            self._sweeps.put(key, (made, self._monotonic_s() + _SHARE * took_s))
            return made

    async def _sweep(self, where: Clause | None, order: Order, alerts: Mapping[str, int]) -> tuple[Sweep, float]:
        """A new one, and the processor time that it took in seconds."""
        as_of, begun_s = self._clock.now_ms(), self._busy_s()
        ids = await self._search.watched_ids(_NOT_RETIRED if where is None else And((where, _NOT_RETIRED)))
        counts = dict.fromkeys((state.value for state in Connectivity), 0)
        keys: list[tuple[tuple[float, ...], str]] = []
        took_s = self._busy_s() - begun_s
        for start in range(0, len(ids), _SLICE):
            begun_s, part = self._busy_s(), ids[start : start + _SLICE]
            found = [self._presence.of(device) for device in part]
            for presence in found:
                counts[presence.connectivity.value] += 1
            ranked = ((_rank(order, alerts, *each), each[0]) for each in zip(part, found, strict=True))
            keys = heapq.nsmallest(MAX_FIRST, (*keys, *ranked))
            took_s += self._busy_s() - begun_s
            await asyncio.sleep(0)
        first = [device for _, device in keys]
        return Sweep(as_of=as_of, counts={"devices": len(ids), **counts}, first=first), took_s


def _rank(order: Order, alerts: Mapping[str, int], device: str, presence: Presence) -> tuple[float, ...]:
    """The place of a device in an order, the smallest first; equal ones follow by id."""
    last = presence.last_seen
    match order:
        case Order.ID:
            return ()
        case Order.RECENT:
            return (float("inf") if last is None else -last,)
        case Order.SILENT:
            return (float("inf") if last is None else last,)
        case Order.ALERTS:
            return (-alerts.get(device, 0), float("inf") if last is None else last)
