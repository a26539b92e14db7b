"""The storage contract is not a rubber stamp: stores that break one promise each fail the test that states it."""

import asyncio
import hashlib
import os
import shutil
import sqlite3
import tempfile
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from attrs import evolve
from msgspec.structs import replace

from fleetcore.errors import FleetError, NotFound, StorageError
from fleetcore.model.store import ArtifactInfo, Commit, Committed, Event, Expired
from fleetcore.model.telemetry import Latest, SeriesData, Tally, TelemetryBatch
from fleetcore.testing.storage_contract import StorageContract


class Whole:
    """The real store; each stand-in breaks one thing."""

    def __init__(self, real):
        self._real = real

    def __getattr__(self, name):
        return getattr(self._real, name)


class LosesTheTally(Whole):
    async def commit(self, change):
        return evolve(await self._real.commit(change), tally=Tally())


class CountsConflictsAsDuplicates(Whole):
    async def commit(self, change):
        done = await self._real.commit(change)
        tally = done.tally
        return evolve(done, tally=Tally(stored=tally.stored, duplicates=tally.duplicates + tally.conflicts))


class SkipsAFeedEntry(Whole):
    async def feed(self, after, limit=1000):
        return [entry for entry in await self._real.feed(after, limit) if entry.position % 7]


class ShowsDuplicates(Whole):
    async def feed(self, after, limit=1000):
        return [
            evolve(entry, readings=TelemetryBatch.concat([entry.readings, entry.readings])) if entry.readings else entry
            for entry in await self._real.feed(after, limit)
        ]


class IgnoresExpect(Whole):
    async def commit(self, change):
        return await self._real.commit(
            evolve(
                change,
                puts=tuple(replace(put, expect=None) for put in change.puts),
                deletes=tuple(evolve(delete, expect=None) for delete in change.deletes),
            )
        )


class IgnoresUniqueValues(Whole):
    async def commit(self, change):
        return await self._real.commit(
            evolve(change, puts=tuple(replace(put, unique=frozenset()) for put in change.puts))
        )


class CommitsPieceByPiece(Whole):
    async def commit(self, change):
        for put in change.puts[:-1]:
            await self._real.commit(Commit(puts=(put,)))
        return await self._real.commit(evolve(change, puts=change.puts[-1:]))


class ForgetsEventsOfRefusedCommits(Whole):
    async def commit(self, change):
        if change.events and change.puts:
            await self._real.commit(Commit(events=change.events))
            change = evolve(change, events=())
        return await self._real.commit(change)


class LatestIsTheLastReceived(Whole):
    def __init__(self, real):
        super().__init__(real)
        self._last = {}

    async def commit(self, change):
        done = await self._real.commit(change)
        if change.readings is not None:
            batch = change.readings
            for index, time, value in zip(
                batch.series.tolist(), batch.time.tolist(), batch.value.tolist(), strict=True
            ):
                self._last[index] = Latest(self._real.catalog.series(index), time, value)
        return done

    async def latest(self, series):
        return [self._last.get(index) for index in series]


class FirstValueWins(Whole):
    async def commit(self, change):
        if change.readings is not None and len(change.readings):
            batch = change.readings
            known = set()
            for index in set(batch.series.tolist()):
                async for piece in self._real.read(index, -(2**50), 2**50):
                    known |= {(index, time) for time in piece.time.tolist()}
            places = zip(batch.series.tolist(), batch.time.tolist(), strict=True)
            change = evolve(change, readings=batch.take(np.array([place not in known for place in places], np.bool_)))
        return await self._real.commit(change)


class TakesServerTimesAsTheyAre(Whole):
    async def commit(self, change):
        if change.readings is not None:
            plain = evolve(change.readings, quality=change.readings.quality & np.uint8(0xFE))
            change = evolve(change, readings=plain)
        return await self._real.commit(change)


class ReadsTheEndToo(Whole):
    def read(self, series, start, end):
        return self._real.read(series, start, end + 1)


class ReadsInReverse(Whole):
    async def read(self, series, start, end):
        pieces = deque()
        async for piece in self._real.read(series, start, end):
            pieces.appendleft(piece)
        for piece in pieces:
            yield SeriesData(
                series=piece.series, time=piece.time[::-1], value=piece.value[::-1], quality=piece.quality[::-1]
            )


class AggregatesTheEndToo(Whole):
    async def aggregate(self, series, start, end, bucket_ms):
        return await self._real.aggregate(series, start, end + 1, bucket_ms)


class GivesCursorsAPlaceInTheFeed(Whole):
    async def commit(self, change):
        if change.cursors:
            change = evolve(change, events=(*change.events, Event(type="cursor", subject="", time=0)))
        return await self._real.commit(change)


class TrimsWhatNobodyHasSeen(Whole):
    _gone = 0

    async def maintain(self, now_ms):
        await self._real.maintain(now_ms)
        self._gone = await self._real.position()

    async def feed(self, after, limit=1000):
        if after < self._gone:
            raise NotFound("trimmed", oldest=self._gone + 1)
        return await self._real.feed(after, limit)


class NeverWakes(Whole):
    async def wait_feed(self, after, timeout_s):
        return False


class RepeatsTheFirstOfAPage(Whole):
    async def find(self, kind, *, ref=None, where=None, after=None, limit=1000):
        page = await self._real.find(kind, ref=ref, where=where, after=after, limit=limit)
        return evolve(page, after=page.items[-2].key if page.after is not None and len(page.items) > 1 else page.after)


class FindsMoreThanTheQuery(Whole):
    async def find(self, kind, *, ref=None, where=None, after=None, limit=1000):
        return await self._real.find(kind, ref=ref, after=after, limit=limit)


class KeepsTheLastAnswer(Whole):
    def __init__(self, real):
        super().__init__(real)
        self._said = {}

    async def commit(self, change):
        self._said |= {(mark.device, mark.id): mark for mark in change.marks}
        return await self._real.commit(change)

    async def marks(self, device, ids):
        return {index: self._said[device, index] for index in ids if (device, index) in self._said}


class ForgetsNothing(Whole):
    async def forget(self, device):
        pass


class TrustsDigests(Whole):
    async def put_artifact(self, content, *, sha256, limit_bytes):
        info = await self._real.put_artifact(content, sha256=None, limit_bytes=limit_bytes)
        return evolve(info, sha256=sha256) if sha256 else info


class ShowsUnfinishedUploads(Whole):
    async def artifact(self, sha256):
        part = next((part for part in await self._real.parts() if part.sha256 == sha256), None)
        return await self._real.artifact(sha256) or (part and ArtifactInfo(sha256, part.received))


class ForgetsBrokenUploads(Whole):
    async def append_part(self, content, *, sha256, size_bytes, **more):
        try:
            return await self._real.append_part(content, sha256=sha256, size_bytes=size_bytes, **more)
        except ConnectionResetError:
            await self._real.drop_part(sha256, size_bytes)
            raise


class ContinuesAnywhere(Whole):
    async def append_part(self, content, *, sha256, size_bytes, offset, now_ms):
        there = [part.received for part in await self._real.parts() if part.sha256 == sha256]
        offset = there[0] if there else 0
        return await self._real.append_part(content, sha256=sha256, size_bytes=size_bytes, offset=offset, now_ms=now_ms)


class KeepsWrongUploads(Whole):
    async def drop_part(self, sha256, size_bytes):
        pass


class KeepsDroppedArtifacts(Whole):
    async def drop_artifact(self, sha256):
        pass


class HasNoLimits(Whole):
    async def put_artifact(self, content, *, sha256, limit_bytes):
        async def bounded() -> AsyncIterator[bytes]:
            taken = 0
            async for some in content:
                yield some
                taken += len(some)
                if taken > 10 * limit_bytes:
                    return

        return await self._real.put_artifact(bounded(), sha256=sha256, limit_bytes=10**9)


class IgnoresSort(Whole):
    async def commit(self, change):
        return await self._real.commit(evolve(change, puts=tuple(replace(put, sort="") for put in change.puts)))


class IgnoresNewest(Whole):
    async def find(self, kind, *, newest=False, **options):
        return await self._real.find(kind, **options)


class LooksAtEverything(Whole):
    async def find(self, kind, *, scan=None, **options):
        return await self._real.find(kind, **options)


class EndsABoundedPage(Whole):
    async def find(self, kind, *, scan=None, **options):
        found = await self._real.find(kind, scan=scan, **options)
        return found if scan is None else evolve(found, after=None)


class SetsCounters(Whole):
    def __init__(self, real):
        super().__init__(real)
        self._counted = {}

    async def commit(self, change):
        self._counted.update(change.add)
        return await self._real.commit(change)

    async def counters(self, space):
        return {name: value for (its, name), value in self._counted.items() if its == space}


class CountsRefusedCommits(Whole):
    async def commit(self, change):
        await self._real.commit(Commit(add=change.add, floors=change.floors))
        return await self._real.commit(evolve(change, add={}, floors={}))


class LowersFloors(Whole):
    def __init__(self, real):
        super().__init__(real)
        self._floors = {}

    async def commit(self, change):
        self._floors.update(change.floors)
        return await self._real.commit(change)

    async def floor(self, space, name):
        return self._floors.get((space, name), 0)


class PutsWhatIsReindexed(Whole):
    async def commit(self, change):
        return await self._real.commit(evolve(change, puts=(*change.puts, *change.reindexed), reindexed=()))


class PagesStartWithTheirPlace(Whole):
    async def page(self, kind, index, *, after, **options):
        return await self._real.page(kind, index, after=after and after[:-1], **options)


class PagesByKeyAlone(Whole):
    async def page(self, kind, index, **options):
        found = await self._real.page(kind, index, **options)
        return sorted(found, key=lambda one: one[1].key)


class CountsInAnotherSpelling(Whole):
    async def values(self, space, names=None):
        return {name: value.zfill(3) for name, value in (await self._real.values(space, names)).items()}


class KeepsWhatIsRemoved(Whole):
    def __init__(self, real):
        super().__init__(real)
        self._seen = {}

    async def values(self, space, names=None):
        self._seen |= {(space, name): value for name, value in (await self._real.values(space, names)).items()}
        return {name: value for (its, name), value in self._seen.items() if its == space}

    async def commit(self, change):
        done = await self._real.commit(change)
        for space in ("cursor", "blob", "counter/work", "unique/serial"):
            await self.values(space)
        return done


class GivesItsOwnValues(Whole):
    """What it answered changes with what it answers next."""

    def __init__(self, real):
        super().__init__(real)
        self._spaces = {}

    async def values(self, space, names=None):
        held = self._spaces.setdefault(space, {})
        found = await self._real.values(space, names)
        held.clear()
        held.update(found)
        return held


class KeepsRecordsOfAnUnknownSeries(Whole):
    async def commit(self, change):
        if change.readings is None or not change.puts:
            return await self._real.commit(change)
        await self._real.commit(Commit(puts=change.puts))
        return await self._real.commit(evolve(change, puts=()))


class CountsTextsFirst(Whole):
    async def commit(self, change):
        if change.texts:
            await self._real.commit(evolve(change, texts=()))
            change = Commit(texts=change.texts)
        return await self._real.commit(change)


class KeepsTheCallersBody(Whole):
    def __init__(self, real):
        super().__init__(real)
        self._bodies = {}

    async def commit(self, change):
        self._bodies |= {put.key: put.body for put in change.puts}
        return await self._real.commit(change)

    async def get(self, kind, key):
        found = await self._real.get(kind, key)
        return found and evolve(found, body=self._bodies[key])


class HandsOutItsOwnRecord(Whole):
    def __init__(self, real):
        super().__init__(real)
        self._cache = {}

    async def get(self, kind, key):
        return self._cache.setdefault(key, await self._real.get(kind, key))


class KeepsTheCallersAnswer(KeepsTheLastAnswer):
    pass


class ForgetsReceived(Whole):
    """Allowed: it need not be kept."""

    async def read_texts(self, series, start, end):
        async for text in self._real.read_texts(series, start, end):
            yield evolve(text, received=text.time)


class ExpiresASecondTooMuch(Whole):
    async def expire(self, series, before, **more):
        return await self._real.expire(series, before + 1000, **more)


class ExpiresNothing(Whole):
    async def expire(self, series, before, **more):
        return Expired()


class ExpiresEverySeries(Whole):
    async def expire(self, series, before, **more):
        return await self._real.expire([each.index for each in self._real.catalog.of(None)], before, **more)


class DropsWhatItCounts(Whole):
    async def expire(self, series, before, *, late_ms=0, count=False):
        return await self._real.expire(series, before, late_ms=late_ms)


class ShowsNoExpiredReadingInTheFeed(Whole):
    _before = 0

    async def expire(self, series, before, **more):
        self._before = before
        return await self._real.expire(series, before, **more)

    async def feed(self, after, limit=1000):
        return [
            evolve(entry, readings=entry.readings.take(entry.readings.time >= self._before))
            if entry.readings is not None
            else entry
            for entry in await self._real.feed(after, limit)
        ]


class RemembersWhatWent(Whole):
    _gone = False

    async def expire(self, series, before, **more):
        self._gone = True
        return await self._real.expire(series, before, **more)

    async def commit(self, change):
        done = await self._real.commit(change)
        return evolve(done, tally=Tally(duplicates=done.tally.sent)) if self._gone else done


BROKEN = [
    (ExpiresASecondTooMuch, "test_readings_before_a_time_go_and_those_from_it_on_stay"),
    (ExpiresNothing, "test_readings_before_a_time_go_and_those_from_it_on_stay"),
    (ExpiresNothing, "test_readings_may_stay_a_while_longer_and_no_longer"),
    (ExpiresASecondTooMuch, "test_of_any_readings_those_go_that_have_to"),
    (ExpiresEverySeries, "test_readings_before_a_time_go_and_those_from_it_on_stay"),
    (DropsWhatItCounts, "test_counting_says_what_would_go_and_drops_nothing"),
    (ShowsNoExpiredReadingInTheFeed, "test_the_feed_shows_expired_readings_as_before"),
    (RemembersWhatWent, "test_what_went_counts_as_new_where_it_is_sent_again"),
    (PagesStartWithTheirPlace, "test_pages_of_an_index_go_by_sort_and_then_by_key"),
    (PagesByKeyAlone, "test_pages_of_an_index_go_by_sort_and_then_by_key"),
    (CountsInAnotherSpelling, "test_named_values_are_what_commits_put_there"),
    (KeepsWhatIsRemoved, "test_named_values_that_a_commit_removes_are_gone"),
    (GivesItsOwnValues, "test_named_values_that_a_commit_removes_are_gone"),
    (KeepsRecordsOfAnUnknownSeries, "test_a_commit_with_an_unknown_series_leaves_nothing_of_itself"),
    (CountsTextsFirst, "test_a_commit_with_a_text_of_an_unknown_series_leaves_nothing_of_itself"),
    (KeepsTheCallersBody, "test_what_a_caller_does_with_a_body_later_changes_no_record"),
    (KeepsTheCallersAnswer, "test_what_a_caller_does_with_a_body_later_changes_no_record"),
    (HandsOutItsOwnRecord, "test_what_a_reader_does_with_a_body_changes_no_record"),
    (IgnoresSort, "test_records_of_a_reference_come_in_the_order_of_their_sort"),
    (IgnoresNewest, "test_the_newest_come_first_where_they_are_asked_for"),
    (LooksAtEverything, "test_a_bounded_page_is_cut_short_and_goes_on_where_it_stopped"),
    (EndsABoundedPage, "test_a_bounded_page_is_cut_short_and_goes_on_where_it_stopped"),
    (SetsCounters, "test_counters_add_up_whatever_is_committed_beside_them"),
    (CountsRefusedCommits, "test_a_refused_commit_counts_nothing"),
    (LowersFloors, "test_a_floor_only_rises_and_outlives_its_record"),
    (PutsWhatIsReindexed, "test_index_entries_are_written_again_without_touching_the_record"),
    (LosesTheTally, "test_an_equal_reading_is_a_duplicate_and_changes_nothing"),
    (CountsConflictsAsDuplicates, "test_of_two_values_the_higher_sequence_wins_in_either_order"),
    (SkipsAFeedEntry, "test_the_feed_pages_without_gap_or_repetition"),
    (SkipsAFeedEntry, "test_the_feed_never_skips_one_of_many_concurrent_commits"),
    (ShowsDuplicates, "test_exact_duplicates_and_losers_are_not_shown"),
    (IgnoresExpect, "test_a_put_with_another_version_than_expected_is_refused_and_names_the_current_one"),
    (IgnoresExpect, "test_of_many_who_expect_the_same_version_one_wins"),
    (IgnoresUniqueValues, "test_a_unique_value_belongs_to_one_record"),
    (CommitsPieceByPiece, "test_a_refused_commit_leaves_nothing_of_itself"),
    (ForgetsEventsOfRefusedCommits, "test_a_refused_commit_leaves_nothing_of_itself"),
    (LatestIsTheLastReceived, "test_the_latest_is_the_newest_by_event_time_not_by_arrival"),
    (FirstValueWins, "test_of_two_values_with_one_sequence_the_larger_wins_in_either_order"),
    (TakesServerTimesAsTheyAre, "test_times_of_the_server_are_made_unique_and_never_duplicates"),
    (TakesServerTimesAsTheyAre, "test_a_clock_that_stands_still_loses_no_reading"),
    (ReadsTheEndToo, "test_readings_come_back_in_time_order_from_the_start_to_before_the_end"),
    (ReadsInReverse, "test_readings_come_back_in_time_order_from_the_start_to_before_the_end"),
    (GivesCursorsAPlaceInTheFeed, "test_what_shows_nothing_takes_no_place_so_a_consumer_does_not_wake_itself"),
    (TrimsWhatNobodyHasSeen, "test_upkeep_keeps_every_commit_that_some_cursor_has_not_passed"),
    (NeverWakes, "test_waiting_ends_with_the_next_commit"),
    (RepeatsTheFirstOfAPage, "test_find_goes_by_code_point_and_pages_without_gap_or_repetition"),
    (FindsMoreThanTheQuery, "test_a_query_selects_where_it_is_true_and_fills_its_pages"),
    (KeepsTheLastAnswer, "test_marks_tell_which_ids_a_device_used_and_its_first_answer"),
    (ForgetsNothing, "test_a_forgotten_device_is_gone_and_others_are_not"),
    (TrustsDigests, "test_an_artifact_with_another_digest_is_refused_and_not_kept"),
    (ShowsUnfinishedUploads, "test_an_upload_that_breaks_keeps_what_came_and_shows_no_artifact"),
    (ForgetsBrokenUploads, "test_an_upload_that_breaks_keeps_what_came_and_shows_no_artifact"),
    (ContinuesAnywhere, "test_an_upload_continues_nowhere_but_at_its_end"),
    (KeepsDroppedArtifacts, "test_an_artifact_that_is_dropped_is_gone_and_may_come_again"),
    (KeepsWrongUploads, "test_uploads_are_known_by_digest_and_size_and_dropped_alone"),
    (HasNoLimits, "test_an_artifact_beyond_the_limit_is_refused_before_it_is_read_to_its_end"),
]


@pytest.mark.parametrize(("broken", "test"), BROKEN, ids=[f"{broken.__name__}-{test}" for broken, test in BROKEN])
async def test_a_store_that_breaks_a_promise_fails_its_test(open_at, broken, test):
    async with open_at(None) as real:
        await getattr(StorageContract(), test)(Whole(real))

    # pytest.raises has an exception of its own where nothing is raised: no Exception, but a BaseException.
    async with open_at(None) as real:
        with pytest.raises(BaseException) as failure:
            await getattr(StorageContract(), test)(broken(real))

    assert str(failure.value).strip(), "a bare failure shows nothing"


@pytest.mark.parametrize(
    "broken",
    [FirstValueWins, LosesTheTally, LatestIsTheLastReceived, ReadsInReverse],
    ids=lambda broken: broken.__name__,
)
def test_the_property_test_finds_it_too(open_at, broken):
    @asynccontextmanager
    async def opened():
        async with open_at(None) as real:
            yield broken(real)

    _fails("test_any_order_and_cutting_of_the_same_readings_stores_the_same", lambda: opened())


def test_the_aggregate_property_finds_a_wrong_end(open_at):
    @asynccontextmanager
    async def opened():
        async with open_at(None) as real:
            yield AggregatesTheEndToo(real)

    _fails("test_aggregates_are_those_of_the_stored_readings_also_with_late_ones", lambda: opened())


@pytest.mark.parametrize(
    "test",
    [
        "test_texts_come_back_in_time_order_and_whole",
        "test_thousands_of_texts_are_read_without_gap",
    ],
)
async def test_a_store_may_forget_when_it_received_a_reading(open_at, test):
    async with open_at(None) as real:
        await getattr(StorageContract(), test)(ForgetsReceived(real))


class AnswersBeforeItWrites(Whole):
    """Writes what it has answered when there is enough of it, and when it is closed."""

    def __init__(self, real):
        super().__init__(real)
        self._later = []

    async def commit(self, change):
        self._later.append(change)
        if len(self._later) >= 50:
            await self.flush()
        return Committed(position=1)

    async def flush(self):
        later, self._later = self._later, []
        for change in later:
            await self._real.commit(change)


class SwallowsErrors(Whole):
    async def commit(self, change):
        try:
            return await self._real.commit(change)
        except StorageError:
            return Committed(position=1)


class RaisesWhatSqliteRaises(Whole):
    async def commit(self, change):
        try:
            return await self._real.commit(change)
        except FleetError as error:
            raise sqlite3.OperationalError(str(error)) from error


class TearsCommits(Whole):
    """Writes the events and blobs of a commit with the next one."""

    _rest = Commit()

    async def commit(self, change):
        rest, self._rest = self._rest, Commit(events=change.events, blobs=change.blobs)
        return await self._real.commit(evolve(change, events=rest.events, blobs=rest.blobs))


class PutsArtifactsAtTheEnd(Whole):
    _content = b""

    async def put_artifact(self, content, *, sha256, limit_bytes):
        self._content = b"".join([piece async for piece in content])
        return ArtifactInfo(sha256=hashlib.sha256(self._content).hexdigest(), size_bytes=len(self._content))

    async def flush(self):
        async def pieces():
            yield self._content

        if self._content:
            await self._real.put_artifact(pieces(), sha256=None, limit_bytes=10**9)


class ShowsWhatItCouldNotSync(Whole):
    """Syncs by Python's own functions, after it has written."""

    async def commit(self, change):
        done = await self._real.commit(change)
        with tempfile.TemporaryFile() as file:
            try:
                os.fsync(file.fileno())
            except OSError as error:
                raise StorageError(str(error)) from error
        return done


class HidesWhatWasCancelled(Whole):
    """Writes a commit whose caller has gone, and shows it after the next start alone."""

    def __init__(self, real):
        super().__init__(real)
        self._hidden = set()

    async def commit(self, change):
        task = asyncio.ensure_future(self._real.commit(change))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._hidden |= {event.time for event in change.events}
            await task
            raise

    async def feed(self, after, limit=1000):
        entries = await self._real.feed(after, limit)
        return [entry for entry in entries if not self._hidden & {event.time for event in entry.events}]


@pytest.mark.parametrize(
    ("broken", "test"),
    [
        (ShowsWhatItCouldNotSync, "test_a_commit_that_the_disk_refused_leaves_nothing_and_the_next_ones_are_kept"),
        (HidesWhatWasCancelled, "test_a_cancelled_commit_is_the_same_after_opening_again"),
        (ForgetsNothing, "test_a_forgotten_device_stays_gone_after_opening_again"),
        (AnswersBeforeItWrites, "test_what_was_committed_is_there_after_kill_9"),
        (TearsCommits, "test_what_was_committed_is_there_after_kill_9"),
        (SwallowsErrors, "test_a_commit_that_cannot_be_synced_is_not_acknowledged"),
        (AnswersBeforeItWrites, "test_a_commit_that_cannot_be_synced_is_not_acknowledged"),
        (RaisesWhatSqliteRaises, "test_a_full_disk_refuses_and_loses_nothing"),
        (PutsArtifactsAtTheEnd, "test_an_artifact_that_was_put_is_there_after_kill_9"),
    ],
)
async def test_a_store_that_is_not_durable_fails_its_test(open_at, broken, test, tmp_path):
    @asynccontextmanager
    async def opened():
        async with open_at(tmp_path / "store") as real:
            storage = broken(real)
            yield storage
            if hasattr(storage, "flush"):
                await storage.flush()

    with pytest.raises(BaseException) as failure:
        await getattr(StorageContract(), test)(opened)

    assert str(failure.value).strip(), "a bare failure shows nothing"


class CopiesWhatItHadAtFirst(Whole):
    """Backs up after its first commit, and gives this copy out ever after."""

    _first = None

    async def commit(self, change):
        done = await self._real.commit(change)
        if self._first is None:
            self._first = Path(tempfile.mkdtemp())
            await self._real.backup(self._first)
        return done

    async def backup(self, target):
        shutil.copytree(self._first, target, dirs_exist_ok=True)
        shutil.rmtree(self._first)


async def test_a_backup_without_the_newest_commits_fails_its_test(open_at, tmp_path):
    test = StorageContract().test_a_backup_has_all_that_was_committed_before_it
    folders = [tmp_path / name for name in ("right", "wrong")]
    for folder in folders:
        folder.mkdir()

    async with open_at(None) as real:
        await test(Whole(real), open_at, folders[0])
    async with open_at(None) as real:
        with pytest.raises(AssertionError) as failure:
            await test(CopiesWhatItHadAtFirst(real), open_at, folders[1])

    assert "k4" in str(failure.value), "it shows what is missing"


class CannotBackUp(Whole):
    async def backup(self, target):
        raise FileNotFoundError(target)


async def test_a_backup_that_raises_fails_at_once_with_its_error(open_at, tmp_path):
    async with open_at(None) as real:
        with pytest.raises(FileNotFoundError, match="copy"):
            await StorageContract().test_a_backup_made_while_writes_go_on_is_consistent(
                CannotBackUp(real), open_at, tmp_path
            )

        assert asyncio.all_tasks() == {asyncio.current_task()}, "its writer goes on"


async def test_a_store_that_keeps_nothing_fails_the_test_of_reopening(open_at):
    with pytest.raises((AssertionError, KeyError)):
        await StorageContract().test_everything_is_there_after_opening_again(lambda: open_at(None))


def test_a_contract_test_cannot_be_overridden():
    with pytest.raises(TypeError, match="overrides"):

        class TestMine(StorageContract):
            async def test_a_healthy_store_finds_nothing_wrong(self):
                pass


def test_a_gap_needs_a_reason_and_a_test():
    for gaps in ({"test_no_such_thing": "because"}, {"test_a_healthy_store_finds_nothing_wrong": " "}):
        with pytest.raises(TypeError):
            type("TestMine", (StorageContract,), {"gaps": gaps})


def _fails(test, opener):
    """Runs a property test outside of any loop, as its own runner would, and wants it to fail."""
    function = getattr(StorageContract, test).hypothesis
    inner = function.inner_test

    def run(*args, **kwargs):
        asyncio.run(inner(*args, **kwargs))

    function.inner_test = run
    try:
        with pytest.raises(BaseException):  # noqa: B017 - whatever way it fails
            getattr(StorageContract, test)(StorageContract(), opener)
    finally:
        function.inner_test = inner
