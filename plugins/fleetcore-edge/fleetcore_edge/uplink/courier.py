"""The courier: brings readings of the gateway's store to the core, each leaf's in their order, none twice.

A reading is identified by its series and time, so one that is sent again changes nothing at the core.
"""

import asyncio
import logging
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

import msgspec

from fleetcore.interfaces.storage import Storage
from fleetcore.model.message import Reply
from fleetcore.model.store import FeedEntry
from fleetcore.model.telemetry import NO_SEQ, Quality
from fleetcore.wire import messages
from fleetcore_edge.uplink.leaves import Leaves
from fleetcore_edge.uplink.link import Link

_log = logging.getLogger(__name__)

#: Readings in one message: well below the core's limit of 256 KiB, at 60 to 120 bytes each.
PER_MESSAGE = 1000
#: Refused readings that are listed; the newest.
_LISTED = 100


class Courier:
    """Sends readings.

    Args:
        at_once: messages that may be under way together, each of another device.
        name_at_core: a metric's name at the core; None where its readings are not sent.
        ready: returns once that is known.

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
        name_at_core: Callable[[str], str | None],
        ready: Callable[[], Awaitable[object]],
    ) -> None:
        self._link, self._leaves, self._storage = link, leaves, storage
        self._room = asyncio.Semaphore(at_once)
        self._name_at_core, self._ready = name_at_core, ready
        self.counts: Counter[str] = Counter()
        self.refused: deque[tuple[str, str, str]] = deque(maxlen=_LISTED)

    async def deliver(self, entries: Sequence[FeedEntry]) -> None:
        """Sends the readings of some commits; returns once the core has them, or has refused them for good."""
        await self._ready()
        async with asyncio.TaskGroup() as tasks:
            for device, forms in self._by_device(entries).items():
                tasks.create_task(self._device(device, forms))

    def _by_device(self, entries: Sequence[FeedEntry]) -> Mapping[str, list[dict[str, object]]]:
        catalog = self._storage.catalog
        found: dict[str, list[dict[str, object]]] = defaultdict(list)
        names: dict[int, str | None] = {}
        for entry in entries:
            if entry.readings is not None:
                batch = entry.readings
                columns = (batch.series, batch.time, batch.value, batch.seq, batch.quality)
                for index, time, value, seq, quality in zip(*(each.tolist() for each in columns), strict=True):
                    of = catalog.series(index)
                    if index not in names:
                        names[index] = self._name_at_core(of.metric)
                    name = names[index]
                    if name is None:
                        self.counts["replaced"] += 1
                        continue
                    plain = bool(value) if quality & Quality.BOOLEAN else value
                    found[of.device].append(_form(name, plain, of.unit, time, seq))
            for text in entry.texts:
                of = catalog.series(text.series)
                found[of.device].append(_form(of.metric, text.value, of.unit, text.time, text.seq))
        return found

    async def _device(self, device: str, forms: Sequence[dict[str, object]]) -> None:
        refused = await self._leaves.announced(device)
        for part in _parts(forms):
            if refused:
                self._refuse(device, part, range(len(part)), refused)
                continue
            async with self._room:
                subject = None if device == self._leaves.gateway else device
                reply = await self._link.send(messages.TELEMETRY, msgspec.json.encode(part), subject=subject)
            self._note(device, part, reply)

    def _note(self, device: str, part: Sequence[dict[str, object]], reply: Reply) -> None:
        self.counts["messages"] += 1
        if reply.error is not None and not reply.error.get("rejected"):
            self._refuse(device, part, range(len(part)), _why(reply.error))
            return
        told = (reply.error or reply.body or {}).get("rejected") or ()
        for each in told if isinstance(told, Sequence) else ():
            self._refuse(device, part, [int(each["index"])], _why(each))
        self.counts["sent"] += len(part) - len(told if isinstance(told, Sequence) else ())

    def _refuse(self, device: str, part: Sequence[dict[str, object]], places: Sequence[int], why: str) -> None:
        self.counts["refused"] += len(places)
        for at in places:
            self.refused.append((device, str(part[at]["metric"]), why))
        _log.warning("The core refuses %d readings of %s: %s", len(places), device, why)


def _form(metric: str, value: object, unit: str | None, time: int, seq: int) -> dict[str, object]:
    form: dict[str, object] = {"metric": metric, "value": value, "time": time}
    if unit is not None:
        form["unit"] = unit
    if seq != NO_SEQ:
        form["seq"] = seq
    return form


def _parts(forms: Sequence[dict[str, object]]) -> Iterator[Sequence[dict[str, object]]]:
    for at in range(0, len(forms), PER_MESSAGE):
        yield forms[at : at + PER_MESSAGE]


def _why(problem: Mapping[str, object]) -> str:
    return f"{problem.get('code')}: {problem.get('detail') or problem.get('title') or ''}"
