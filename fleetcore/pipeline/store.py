"""Store: the readings of a batch committed in one transaction, with the ids of their messages.

Before the commit, every new metric gets its series, and messages with a used id get their first answer.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.codec import Decoded
from fleetcore.interfaces.provider import Limits
from fleetcore.interfaces.storage import Storage
from fleetcore.model.message import Accepted
from fleetcore.model.store import Commit, MessageMark, SeriesRequest
from fleetcore.model.telemetry import Tally
from fleetcore.pipeline.acknowledge import marks_of, outcome_of
from fleetcore.pipeline.columns import Columns
from fleetcore.pipeline.message import Message, answer_of
from fleetcore.pipeline.session import DeviceState
from fleetcore.pipeline.validate import check_new_metric, not_finite


class Store:
    """The store step of the data path.

    Attributes:
        tally: the outcome of all readings since the start.
        reasons: the refused readings of the tally by code.
    """

    def __init__(self, storage: Storage, clock: Clock, limits: Limits) -> None:
        self._storage, self._clock, self._limits = storage, clock, limits
        self.tally = Tally()
        self.reasons: Counter[str] = Counter()

    def later(self, messages: Sequence[Message]) -> list[Message]:
        """The messages that share an id with an earlier one: they wait for its outcome."""
        seen: set[tuple[str, str]] = set()
        later = []
        for message in messages:
            if message.answer is not None or not (message.id or message.envelopes):
                continue
            ids = {(message.owner, name) for name in message.ids}
            if ids & seen:
                later.append(message)
            seen |= ids
        return later

    async def repeats(self, messages: Sequence[Message]) -> None:
        """Answers messages whose id was used before, and sets ``mark`` on such envelopes."""
        wanted: dict[str, set[str]] = defaultdict(set)
        for message in messages:
            if message.answer is None and (message.id or message.envelopes):
                wanted[message.owner] |= message.ids
        if not wanted:
            return
        marks = await asyncio.gather(*(self._storage.marks(device, sorted(ids)) for device, ids in wanted.items()))
        known = dict(zip(wanted, marks, strict=True))
        for message in messages:
            if message.answer is not None or message.owner not in known:
                continue
            mark = known[message.owner].get(message.id) if message.id is not None else None
            if mark is not None:
                message.answer, message.repeated = answer_of(mark), True
                continue
            for envelope in message.envelopes.values():
                envelope.mark = known[message.owner].get(envelope.id)

    async def intern(self, messages: Sequence[tuple[Message, Decoded]]) -> None:
        """Gives every new, allowed metric of the batch its series, and each series its first unit, in one call."""
        wanted: dict[tuple[str, str], tuple[DeviceState, SeriesRequest]] = {}
        fresh: dict[str, int] = defaultdict(int)
        for message, decoded in messages:
            for reading in decoded.readings:
                state = message.about(reading.subject)
                if state is None or state.blocked is not None:
                    continue
                key = state.id, reading.metric
                if key in wanted:
                    if reading.unit is not None and wanted[key][1].unit is None:
                        wanted[key] = state, SeriesRequest(*key, reading.unit)
                    continue
                known = state.metrics.get(reading.metric)
                if known is not None:
                    if reading.unit is not None and self._storage.catalog.series(known).unit is None:
                        wanted[key] = state, SeriesRequest(*key, reading.unit)
                    continue
                if check_new_metric(reading.metric, len(state.metrics) + fresh[state.id], self._limits):
                    continue
                fresh[state.id] += 1
                wanted[key] = state, SeriesRequest(*key, reading.unit)
        if not wanted:
            return
        made = await self._storage.intern([request for _, request in wanted.values()])
        for (state, _), series in zip(wanted.values(), made, strict=True):
            state.metrics[series.metric] = series.index

    async def commit(self, columns: Columns, messages: Sequence[Message]) -> None:
        """Commits the columns; every message has its answer afterwards."""
        batch, texts, owner = columns.finish()
        bad = not_finite(batch) if messages else np.empty(0, np.int64)
        if len(bad):
            for at in bad.tolist():
                message = messages[int(owner[at])]
                message.refuse(0, self._storage.catalog.series(int(batch.series[at])).metric, "number_not_finite")
                message.count -= 1
            batch = batch.take(np.setdiff1d(np.arange(len(batch)), bad))
        now = self._clock.now_ms()
        marks: list[MessageMark] = []
        reasons: Counter[str] = Counter()
        duplicates = 0
        for message in messages:
            if message.repeated:
                assert isinstance(message.answer, Accepted)
                duplicates += message.answer.stored
                reasons.update(point.code for point in message.answer.refused)
            elif message.answer is None:
                outcome = message.answer = outcome_of(message, self._limits)
                duplicates += message.duplicates
                reasons.update(point.code for point in message.refused or ())
                if isinstance(outcome, Accepted) and (message.id or message.envelopes):
                    marks += marks_of(message, outcome, now)
        if len(batch) or texts or marks:
            done = await self._storage.commit(
                Commit(readings=batch if len(batch) else None, texts=texts, marks=tuple(marks))
            )
            self.tally += done.tally
        self.tally += Tally(refused=reasons.total(), duplicates=duplicates)
        self.reasons += reasons
