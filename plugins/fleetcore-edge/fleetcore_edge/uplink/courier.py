"""The courier: brings readings of the gateway's store to the core, each leaf's in their order, none twice.

A reading is identified by its series and time, so one that is sent again changes nothing at the core.
"""

import asyncio
import logging
from bisect import bisect_left
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Mapping, Sequence
from itertools import groupby
from typing import Protocol

import msgspec
import numpy as np

from fleetcore.interfaces.storage import Storage
from fleetcore.model.message import Reply
from fleetcore.model.store import FeedEntry
from fleetcore.model.telemetry import NO_SEQ, Int64, Quality, Series, TelemetryBatch
from fleetcore.wire import messages
from fleetcore_edge.uplink.fitting import send_all
from fleetcore_edge.uplink.leaves import Leaves
from fleetcore_edge.uplink.link import Link

_log = logging.getLogger(__name__)

#: Readings in one message, at most: about 100 KiB, at 60 to 120 bytes each.
PER_MESSAGE = 1000
_BOOLEAN = int(Quality.BOOLEAN)  # an int: an enum's & takes a microsecond
#: Refused readings that are listed; the newest.
_LISTED = 100


class _Form(msgspec.Struct, omit_defaults=True, gc=False):
    """A reading as it is sent."""

    metric: str
    value: object
    time: int
    unit: str | None = None
    seq: int | None = None


class _Load:
    """The readings of one device: columns, which become forms a message at a time, and texts."""

    def __init__(self) -> None:
        self.batch = TelemetryBatch.of((), (), ())
        self.of: Mapping[int, tuple[str, str | None]] = {}
        self.texts: list[_Form] = []

    def __len__(self) -> int:
        return len(self.batch) + len(self.texts)

    def part(self, at: int) -> list[_Form]:
        """The next forms, a message's worth, from a place on."""
        until, of, batch = at + PER_MESSAGE, self.of, self.batch
        columns = (
            each[at:until].tolist() for each in (batch.series, batch.time, batch.value, batch.seq, batch.quality)
        )
        forms = []
        for index, time, value, seq, quality in zip(*columns, strict=True):
            name, unit = of[index]
            forms.append(_form(name, bool(value) if quality & _BOOLEAN else value, unit, time, seq))
        first = len(batch)
        return forms + self.texts[max(0, at - first) : max(0, until - first)]


def _form(metric: str, value: object, unit: str | None, time: int, seq: int) -> _Form:
    return _Form(metric, value, time, unit, None if seq == NO_SEQ else seq)


class Names(Protocol):
    """The names of metrics at the core, which functions decide about; known once ``settled``."""

    settled: asyncio.Event

    def began(self) -> Sequence[int]:
        """The places in the feed after which names may differ, in order."""
        ...

    async def name_at_core(self, series: Series, position: int) -> str | None:
        """A metric's name for readings that were committed at a place of the feed; None where they are not sent."""
        ...


class Courier:
    """Sends readings.

    Args:
        at_once: messages that may be under way together, each of another device.
        names: the names of metrics at the core.

    Attributes:
        counts: readings ``sent``, ``refused``, and ``replaced`` by a function's, and the ``messages``.
        refused: the newest refused readings: device, metric, and the reason.
    """

    def __init__(
        self,
        link: Link,
        leaves: Leaves,
        storage: Storage,
        *,
        at_once: int,
        names: Names,
    ) -> None:
        self._link, self._leaves, self._storage = link, leaves, storage
        self._room = asyncio.Semaphore(at_once)
        self._names = names
        self.counts: Counter[str] = Counter()
        self.refused: deque[tuple[str, str, str]] = deque(maxlen=_LISTED)

    async def deliver(self, entries: Sequence[FeedEntry]) -> None:
        """Sends the readings of some commits; returns once the core has them, or has refused them for good."""
        await self._names.settled.wait()
        began = self._names.began()
        for _, some in groupby(entries, key=lambda entry: bisect_left(began, entry.position)):
            loads = await self._by_device(list(some))
            async with asyncio.TaskGroup() as tasks:
                for device, load in loads.items():
                    tasks.create_task(self._device(device, load))

    async def _by_device(self, entries: Sequence[FeedEntry]) -> Mapping[str, "_Load"]:
        found: dict[str, _Load] = defaultdict(_Load)
        batch = TelemetryBatch.concat([entry.readings for entry in entries if entry.readings is not None])
        async for device, of, places in self._split(batch, entries[0].position):
            found[device].of, found[device].batch = of, batch.take(places)
        for entry in entries:
            for text in entry.texts:
                series = self._storage.catalog.series(text.series)
                found[series.device].texts.append(_form(series.metric, text.value, series.unit, text.time, text.seq))
        return found

    async def _split(
        self, batch: TelemetryBatch, position: int
    ) -> AsyncIterator[tuple[str, Mapping[int, tuple[str, str | None]], Int64]]:
        """Each device of a batch: its series' names at the core and units, and the places of its readings in order."""
        series, place, counts = np.unique(batch.series, return_inverse=True, return_counts=True)
        devices: dict[str, int] = {}
        names: list[dict[int, tuple[str, str | None]]] = []
        code = np.full(len(series), -1, np.int64)
        for at, index in enumerate(series.tolist()):
            of = self._storage.catalog.series(index)
            name = await self._names.name_at_core(of, position)
            if name is None:
                self.counts["replaced"] += int(counts[at])
                continue
            code[at] = devices.setdefault(of.device, len(devices))
            if code[at] == len(names):
                names.append({})
            names[code[at]][index] = name, of.unit
        order = np.argsort(code[place], kind="stable")
        ends = np.searchsorted(code[place][order], np.arange(len(devices) + 1))
        for number, device in enumerate(devices):
            yield device, names[number], order[ends[number] : ends[number + 1]]

    async def _device(self, device: str, load: "_Load") -> None:
        refused = await self._leaves.announced(device)
        for at in range(0, len(load), PER_MESSAGE):
            if refused:
                part = load.part(at)
                self._refuse(device, part, range(len(part)), refused)
                continue
            async with self._room:
                part = load.part(at)
                subject = None if device == self._leaves.gateway else device
                for some, reply in await send_all(self._link, messages.TELEMETRY, part, subject=subject):
                    self._note(device, some, reply)

    def _note(self, device: str, part: Sequence["_Form"], reply: Reply) -> None:
        self.counts["messages"] += 1
        if reply.error is not None and not reply.error.get("rejected"):
            self._refuse(device, part, range(len(part)), _why(reply.error))
            return
        told = (reply.error or reply.body or {}).get("rejected") or ()
        for each in told if isinstance(told, Sequence) else ():
            self._refuse(device, part, [int(each["index"])], _why(each))
        self.counts["sent"] += len(part) - len(told if isinstance(told, Sequence) else ())

    def _refuse(self, device: str, part: Sequence["_Form"], places: Sequence[int], why: str) -> None:
        self.counts["refused"] += len(places)
        for at in places:
            self.refused.append((device, part[at].metric, why))
        _log.warning("The core refuses %d readings of %s: %s", len(places), device, why)


def _why(problem: Mapping[str, object]) -> str:
    return f"{problem.get('code')}: {problem.get('detail') or problem.get('title') or ''}"
