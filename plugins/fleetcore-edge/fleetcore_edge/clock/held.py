"""Messages that wait until the time is known, and then go through the data path with the time at which they came.

They are acknowledged once they are in the journal. An entry leaves it after its final outcome: a crash meanwhile
repeats some, with the same times and receipts, which changes nothing.
"""

import asyncio
import itertools
import logging
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fleetcore import files
from fleetcore.errors import NotAuthenticated, NotAuthorised, StorageError
from fleetcore.interfaces.ingest import HeldMessage, Holder
from fleetcore.interfaces.protocol import Session
from fleetcore.model.credential import LocalCredential
from fleetcore.model.message import Inbound, MessageType, Outcome, Rejected, is_permanent
from fleetcore.model.store import Commit
from fleetcore.pipeline.session import OWNER
from fleetcore.runtime.replay import resubmit
from fleetcore.wire import messages
from fleetcore.wire.times import format_time
from fleetcore_edge.clock.gateway_clock import Dated, GatewayClock
from fleetcore_edge.clock.journal import ALERTS, LANES, READINGS, Entry, Journal, Segment

if TYPE_CHECKING:
    from fleetcore.runtime.app import Fleet

_log = logging.getLogger(__name__)

#: The folder, in the data folder, and the counters.
FOLDER, COUNTERS = Path("clock") / "held", "uplink/held"
#: Messages that are submitted together: new ones wait behind so many at most.
_PAGE = 256
#: When messages are submitted again that were refused for now.
_AGAIN_S = 1.0
#: The part of the data folder's bound that the journal may take.
SHARE = 0.5
_LANES = {messages.TELEMETRY: READINGS, messages.EVENTS: ALERTS}


class HeldMessages(Holder):
    """Keeps readings and alerts while the time is not known.

    Args:
        fleet: the gateway's own fleet, which does not listen yet.
        limit_bytes: of the journal; past it the oldest readings go. Alerts stay.

    Attributes:
        counts: messages that were ``submitted`` and, of these, ``estimated``, whose time is between bounds; and those
            that were ``lost`` for want of room.

    Raises:
        OSError: the journal cannot be read.
    """

    def __init__(self, fleet: "Fleet", clock: GatewayClock, folder: Path, *, limit_bytes: int) -> None:
        self._fleet, self._clock, self._limit = fleet, clock, limit_bytes
        self.journal = Journal(folder / FOLDER)
        self.journal.open()
        clock.begin(self.journal.boots())
        self._at_work = asyncio.Lock()
        self._news = asyncio.Event()
        self._told: set[str] = set()
        self._token, self._number = secrets.token_hex(6), itertools.count()
        self._done: dict[Path, int] = {}
        self.counts = {"submitted": 0, "estimated": 0, "lost": 0}

    @property
    def types(self) -> frozenset[MessageType]:
        return frozenset(_LANES)

    @property
    def holds(self) -> bool:
        return not self._clock.is_known

    @property
    def waits(self) -> bool:
        return self.waiting() > 0

    @property
    def clock(self) -> GatewayClock:
        """The clock for which they wait."""
        return self._clock

    async def hold(self, messages: Sequence[HeldMessage]) -> None:
        boot = self._clock.boot
        lanes: dict[str, list[Entry]] = {lane: [] for lane in LANES}
        for held in messages:
            message = held.message
            at = self._clock.boottime_of(held.received_ms)
            lanes[_LANES[message.type]].append(_entry(boot, at, held.identity, message, self._receipt()))
        async with self._at_work:
            try:
                # Alerts first: where the other lane fails, all come again, and an alert is known by its content.
                for lane in (ALERTS, READINGS):
                    if lanes[lane]:
                        await asyncio.to_thread(self.journal.append, lane, lanes[lane])
            except OSError as error:
                raise StorageError(
                    f"The journal {self.journal.folder} cannot be written: {error.strerror}",
                    remedy=files.remedy_of(error),
                ) from error
            lost = 0
            while self.journal.size > self._limit and (gone := await self._drop()):
                lost += gone
        self._news.set()
        await self._lose(lost)

    def _receipt(self) -> str:
        return f"held-{self._token}-{next(self._number):x}"

    async def make_room(self) -> bool:
        """Drops some of the oldest readings; False if there are none."""
        async with self._at_work:
            lost = await self._drop()
        await self._lose(lost)
        return bool(lost)

    async def _drop(self) -> int:
        segment = self.journal.first(READINGS)
        if segment is None:
            return 0
        await asyncio.to_thread(self.journal.remove, READINGS, segment)
        return segment.count - self._done.pop(segment.path, 0)

    async def _lose(self, count: int) -> None:
        if count:
            _log.error("%d messages with readings that waited for the time were dropped for want of room", count)
        await self._count("lost", count)

    async def _count(self, name: str, count: int) -> None:
        if count:
            self.counts[name] += count
            await self._fleet.storage.commit(Commit(add={(COUNTERS, name): count}))

    async def run(self) -> None:
        """Submits what was held once the time is known, until cancelled."""
        self.counts |= await self._fleet.storage.counters(COUNTERS)
        await self._clock.became_known.wait()
        while True:
            self._news.clear()
            waiting = self.waiting()
            if waiting:
                _log.info("%d messages that waited for the time are submitted", waiting)
                async with asyncio.TaskGroup() as lanes:
                    for lane in LANES:
                        lanes.create_task(self._drain(lane), name=f"held {lane}")
                _log.info("The messages that waited for the time are submitted")
            await self._news.wait()

    def waiting(self) -> int:
        """How many messages wait."""
        return sum(self.journal.waiting().values()) - sum(self._done.values())

    async def _drain(self, lane: str) -> None:
        while (segment := self.journal.first(lane)) is not None:
            while entries := await self._rest(lane, segment):
                for at in range(0, len(entries), _PAGE):
                    page = entries[at : at + _PAGE]
                    await self._submit(page)
                    if segment.path not in self._done:
                        break  # it was dropped meanwhile
                    self._done[segment.path] += len(page)

    async def _rest(self, lane: str, segment: Segment) -> Sequence[Entry]:
        """The entries of a segment that are not done; none once it is removed because all are."""
        async with self._at_work:
            if self.journal.first(lane) is not segment:
                return ()
            done = self._done.setdefault(segment.path, 0)
            if done < segment.count:
                read = await asyncio.to_thread(self.journal.read, segment)
                if done < len(read):
                    return read[done:]
                _log.error("%d entries of %s cannot be read any more", segment.count - len(read), segment.path)
            # A refused message is a dead letter before it leaves the journal.
            await self._fleet.dead_letters.flush()
            await asyncio.to_thread(self.journal.remove, lane, segment)
            self._done.pop(segment.path, None)
            return ()

    async def _submit(self, entries: Sequence[Entry]) -> None:
        sessions: dict[str, Session | Rejected] = {}
        for identity in {entry.identity for entry in entries}:
            sessions[identity] = await self._session(identity)
        try:
            while entries:
                outcomes = await asyncio.gather(*(self._one(sessions[entry.identity], entry) for entry in entries))
                pairs = list(zip(entries, outcomes, strict=True))
                final = [entry for entry, outcome in pairs if is_permanent(outcome)]
                self.counts["submitted"] += len(final)
                await self._count("estimated", sum(self._dated(entry).estimated for entry in final))
                entries = [entry for entry, outcome in pairs if not is_permanent(outcome)]
                if entries:
                    await self._clock.sleep(_AGAIN_S)
        finally:
            for session in sessions.values():
                if isinstance(session, Session):
                    session.close()

    async def _session(self, identity: str) -> Session | Rejected:
        try:
            return await self._fleet.plane.authenticate(LocalCredential(identity), protocol=OWNER)
        except (NotAuthenticated, NotAuthorised) as error:
            return Rejected(code=error.code, reason=error.message)

    async def _one(self, session: Session | Rejected, entry: Entry) -> Outcome:
        row = messages.NAMED.get(entry.type)
        if row is None:
            _log.error("A message of type %r from %s is left out: it is unknown", entry.type, entry.identity)
            return Rejected(code="operation_unknown", reason="unknown")
        message = Inbound(
            type=row, subject=entry.subject, payload=entry.payload, content_type=entry.content_type, id=entry.id,
            target=entry.target, if_version=entry.if_version, receipt=entry.receipt,
        )  # fmt: skip
        if isinstance(session, Rejected):
            self._fleet.dead_letters.add(entry.identity, message, session)
            return session
        return await resubmit(self._fleet, session, message, received_ms=self._received(entry))

    def _received(self, entry: Entry) -> int:
        dated = self._dated(entry)
        if dated.estimated and entry.boot not in self._told:
            self._told.add(entry.boot)
            low, high = (format_time(entry.at_ms + at) for at in (dated.earliest_ms, dated.offset_ms))
            _log.warning(
                "The machine was off before the time was known: messages of that time count from %s, and are not older "
                "than %s",
                high, low,
            )  # fmt: skip
        return entry.at_ms + dated.offset_ms

    def _dated(self, entry: Entry) -> Dated:
        dated = self._clock.dated(entry.boot)
        assert dated is not None, "every boot has a decision once the time is known"
        return dated


def _entry(boot: str, at_ms: int, identity: str, message: Inbound, receipt: str) -> Entry:
    return Entry(
        boot, at_ms, identity, message.type.name, message.subject, message.payload, message.content_type, message.id,
        message.target, message.if_version, receipt,
    )  # fmt: skip
