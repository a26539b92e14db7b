"""Readings that wait for the core and that the feed has given up: spans of stored series, which are read from there.

A reading in the feed costs a row of its own, about a hundred bytes; packed by series it costs some bytes. A span may
take in readings that the core has already: they are the same readings to it.
"""

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from fleetcore.interfaces.storage import Storage
from fleetcore.model.store import Commit, FeedEntry
from fleetcore.model.telemetry import TelemetryBatch, TextReading

ARCHIVE = "uplink/archive"
#: Series that are sent together, and readings of each: a full message.
_SERIES, _EACH = 50, 1000


class Span(msgspec.Struct):
    """Readings of one series with ``start <= time < end``, ms, of which about ``waiting`` are still to be sent."""

    start: int
    end: int
    waiting: int


class _Kept(msgspec.Struct):
    until: int = 0
    since: int = 0
    spans: dict[int, Span] = msgspec.field(default_factory=dict)


class Archive:
    """The spans, and the position up to which they stand for the feed.

    Attributes:
        until: commits up to this position are not read from the feed any more.
        since: the position of the oldest commit that the spans are of.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage, self._loaded = storage, False
        self.until = self.since = 0
        self.spans: dict[int, Span] = {}

    async def load(self) -> None:
        """Reads what was saved, the first time."""
        if self._loaded:
            return
        blob = await self._storage.blob(ARCHIVE)
        kept = _Kept() if blob is None else msgspec.json.decode(blob, type=_Kept)
        self.until, self.since, self.spans, self._loaded = kept.until, kept.since, kept.spans, True

    def saved(self) -> Commit:
        """The commit that saves it."""
        return Commit(blobs={ARCHIVE: msgspec.json.encode(_Kept(self.until, self.since, self.spans))})

    def waiting(self) -> int:
        """About how many readings are still to be sent."""
        return sum(each.waiting for each in self.spans.values())

    def oldest(self) -> int | None:
        """The time of the oldest reading that waits."""
        return min((each.start for each in self.spans.values()), default=None)

    def take(self, entries: Sequence[FeedEntry]) -> None:
        """Takes over commits of the feed."""
        if entries and not self.spans:
            self.since = entries[0].position
        batch = TelemetryBatch.concat([entry.readings for entry in entries if entry.readings is not None])
        texts = [text for entry in entries for text in entry.texts]
        index = np.concatenate([batch.series, np.array([text.series for text in texts], np.int64)])
        time = np.concatenate([batch.time, np.array([text.time for text in texts], np.int64)])
        order = np.argsort(index, kind="stable")
        series, first, counts = np.unique(index[order], return_index=True, return_counts=True)
        for each, begin, count in zip(series.tolist(), first.tolist(), counts.tolist(), strict=True):
            times = time[order][begin : begin + count]
            self._widen(each, int(times.min()), int(times.max()) + 1, count)
        if entries:
            self.until = max(self.until, entries[-1].position)

    def _widen(self, series: int, start: int, end: int, count: int) -> None:
        known = self.spans.get(series)
        if known is None:
            self.spans[series] = Span(start, end, count)
        else:
            self.spans[series] = Span(min(known.start, start), max(known.end, end), known.waiting + count)

    async def page(self) -> tuple[FeedEntry, Mapping[int, tuple[int, int]]]:
        """The oldest readings of the oldest spans, and for each series until where, and how many."""
        batches: list[TelemetryBatch] = []
        texts: list[TextReading] = []
        sent: dict[int, tuple[int, int]] = {}
        for series in sorted(self.spans, key=lambda each: self.spans[each].start)[:_SERIES]:
            batch, spoken, until = await self._piece(series, self.spans[series])
            batches.append(batch)
            texts += spoken
            sent[series] = until, len(batch) + len(spoken)
        return FeedEntry(position=self.since, readings=TelemetryBatch.concat(batches), texts=tuple(texts)), sent

    async def _piece(self, series: int, span: Span) -> tuple[TelemetryBatch, list[TextReading], int]:
        spoken: list[TextReading] = []
        async for text in self._storage.read_texts(series, span.start, span.end):
            spoken.append(text)
            if len(spoken) == _EACH:
                break
        end = spoken[-1].time + 1 if len(spoken) == _EACH else span.end
        batches, count = [TelemetryBatch.of((), (), ())], 0
        async for data in self._storage.read(series, span.start, end):
            index = np.full(len(data.time), series, np.int64)
            batches.append(TelemetryBatch.of(index, data.time, data.value, quality=data.quality))
            count += len(index)
            if count >= _EACH:
                break
        batch = TelemetryBatch.concat(batches).take(np.arange(min(count, _EACH)))
        until = int(batch.time[-1]) + 1 if count >= _EACH else end
        return batch, [text for text in spoken if text.time < until], until

    def sent(self, done: Mapping[int, tuple[int, int]]) -> None:
        """Forgets what was sent of a page."""
        for series, (until, count) in done.items():
            span = self.spans.get(series)
            if span is None:
                continue
            if until >= span.end:
                del self.spans[series]
            else:
                self.spans[series] = Span(max(span.start, until), span.end, max(1, span.waiting - count))

    def forget(self, before: int) -> None:
        """Forgets what the store has dropped."""
        for series, span in list(self.spans.items()):
            if span.end <= before:
                del self.spans[series]
            elif span.start < before:
                self.spans[series] = Span(before, span.end, span.waiting)
