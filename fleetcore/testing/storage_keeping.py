"""The storage contract, durability: reopening, forgetting, artifacts, backups, the self-check."""

import asyncio
import contextlib
import errno
import hashlib
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from fleetcore.errors import Conflict, FleetError, NotFound, Refused
from fleetcore.interfaces.storage import Storage
from fleetcore.interfaces.waits import end_tasks
from fleetcore.model.store import Commit, MessageMark, PartInfo, Put, SeriesRequest
from fleetcore.model.telemetry import SeriesKind, Tally, TelemetryBatch, TextReading
from fleetcore.testing.faults.disk import PLACED_WRITES, SYNCS, break_calls, can_break_calls, failing_sync
from fleetcore.testing.kill import Child, killed
from fleetcore.testing.storage_base import (
    OpenBackup,
    OpenStorage,
    StorageCase,
    columns,
    event,
    problems,
    put,
    readings,
    series,
    shown,
    store,
    texts,
)

_MIB = 1024 * 1024
#: What an upload that is cut off may lose.
_PIECE = 256 * 1024
#: Commits under way at once when the process is killed.
_WRITERS = 3


class KeepingContract(StorageCase):
    """Durability, erasure, artifacts and backups."""

    async def test_everything_is_there_after_opening_again(self, open_again: OpenStorage) -> None:
        async with open_again() as storage:
            (index,) = await series(storage, "t")
            batch = TelemetryBatch.of(
                [index] * 3, [1000, 3000, 2000], [1.5, 3.5, 2.5], received=7, quality=4, seq=[1, 2, 3]
            )
            done = await storage.commit(
                Commit(
                    puts=(Put(kind="thing", key="a", body={"x": 1}, unique=frozenset({("s", "1")}), due=5),),
                    readings=batch,
                    texts=(TextReading(index, 500, 7, "hello"),),
                    marks=(MessageMark(device="device", id="m", time=1, answer={"ok": True}),),
                    events=(event(1),),
                    cursors={"c": 1},
                    blobs={"b": b"state"},
                )
            )
            artifact = await storage.put_artifact(_pieces(b"firmware"), sha256=None, limit_bytes=_MIB)
            known = storage.catalog.series(index)

        async with open_again() as storage:
            assert storage.catalog.series(index) == known
            assert await series(storage, "t") == [index]
            assert await readings(storage, index) == [(1000, 1.5), (2000, 2.5), (3000, 3.5)]
            assert [text.value for text in await texts(storage, index)] == ["hello"]
            (latest,) = await storage.latest([index])
            assert latest is not None
            assert (latest.time, latest.value) == (3000, 3.5)
            found = await storage.find_unique("s", "1")
            assert found is not None
            assert (found.version, found.body) == (1, {"x": 1})
            assert [record.key for record in await storage.due("thing", 5)] == ["a"]
            assert (await storage.marks("device", ["m"]))["m"].answer == {"ok": True}
            assert await storage.cursor("c") == 1
            assert await storage.blob("b") == b"state"
            assert await storage.position() == done.position
            (entry,) = await storage.feed(0)
            assert entry.readings is not None
            assert columns(entry.readings) == columns(batch)
            assert entry.events == (event(1),)
            assert await storage.artifact(artifact.sha256) == artifact
            assert (await store(storage, index, [1000, 2000, 4000], [1.5, 9.0, 4.0], seq=[1, 1, 1])).tally == Tally(
                stored=1, duplicates=1, conflicts=1
            )
            assert (await storage.commit(Commit(events=(event(2),)))).position > done.position

    async def test_what_was_committed_is_there_after_kill_9(self, open_again: OpenStorage) -> None:
        async def write(child: Child) -> None:
            async with open_again() as storage:
                (index,) = await series(storage, "t")
                (state,) = await storage.intern([SeriesRequest("device", "state", None, SeriesKind.TEXT)])

                async def write_every(first: int) -> None:
                    for n in itertools.count(first, _WRITERS):
                        await storage.commit(
                            Commit(
                                puts=(put(f"k{n}", {"n": n}),),
                                readings=TelemetryBatch.of([index], [1000 * n], [float(n)]),
                                texts=(TextReading(state.index, 1000 * n, 7, str(n)),),
                                marks=(MessageMark(device="device", id=f"m{n}", time=n, answer={"n": n}),),
                                events=(event(n),),
                                cursors={f"c{n}": n},
                                blobs={f"b{n}": b"%d" % n},
                                add={("s", "n"): 1},
                                floors={("f", f"{n}"): n + 1},
                            )
                        )
                        child.acknowledge(str(n))

                await asyncio.gather(*(write_every(first) for first in range(_WRITERS)))

        done = sorted(int(n) for n in killed(write, after=60))

        async with open_again() as storage:
            (index,) = await series(storage, "t")
            (state,) = await storage.intern([SeriesRequest("device", "state", None, SeriesKind.TEXT)])
            keys = [record.key for record in (await storage.find("thing", limit=10**6)).items]
            there = sorted(int(key[1:]) for key in keys)
            assert [n for n in done if n not in there] == [], "acknowledged, and gone"
            # Commits under way may be there too, but complete.
            assert await readings(storage, index) == [(1000 * n, float(n)) for n in there]
            assert [text.value for text in await texts(storage, state.index)] == [str(n) for n in there]
            assert sorted(e.time for entry in await storage.feed(0, limit=10**6) for e in entry.events) == there
            marks = await storage.marks("device", [f"m{n}" for n in there])
            assert [marks[f"m{n}"].answer for n in there] == [{"n": n} for n in there]
            assert [await storage.cursor(f"c{n}") for n in there] == there
            assert [await storage.blob(f"b{n}") for n in there] == [b"%d" % n for n in there]
            assert [await storage.floor("f", f"{n}") for n in there] == [n + 1 for n in there]
            assert await storage.counters("s") == {"n": len(there)}
            assert await problems(storage) == []

    async def test_an_artifact_that_was_put_is_there_after_kill_9(self, open_again: OpenStorage) -> None:
        content = bytes(range(256)) * 1000

        async def write(child: Child) -> None:
            async with open_again() as storage:
                info = await storage.put_artifact(_pieces(content), sha256=None, limit_bytes=_MIB)
                child.acknowledge(info.sha256)
                child.point("put")

        (digest,) = killed(write, at="put")

        async with open_again() as storage:
            assert await _whole(storage.read_artifact(digest)) == content

    async def test_an_upload_goes_on_where_it_was_after_kill_9(self, open_again: OpenStorage) -> None:
        content = bytes(range(256)) * 8192
        digest = hashlib.sha256(content).hexdigest()

        async def write(child: Child) -> None:
            async def half() -> AsyncIterator[bytes]:
                async for piece in _pieces(content[: _MIB + 1]):
                    yield piece
                child.point("half")

            async with open_again() as storage:
                await storage.append_part(half(), sha256=digest, size_bytes=len(content), offset=0, now_ms=1)

        killed(write, at="half")

        async with open_again() as storage:
            (part,) = await storage.parts()
            assert _MIB + 1 - _PIECE <= part.received <= _MIB + 1
            assert await storage.artifact(digest) is None
            rest = _pieces(content[part.received :])
            await storage.append_part(rest, sha256=digest, size_bytes=len(content), offset=part.received, now_ms=2)
            await storage.finish_part(digest, len(content))
            assert await _whole(storage.read_artifact(digest)) == content
            assert list(await storage.parts()) == []

    async def test_a_commit_that_cannot_be_synced_is_not_acknowledged(self, open_again: OpenStorage) -> None:
        if not can_break_calls():
            pytest.skip("syncs cannot be made to fail on this system")

        async def write(child: Child) -> None:
            async with open_again() as storage:
                await storage.commit(Commit(puts=(put("before"),)))
                child.acknowledge("before")
                break_calls(*SYNCS)
                try:
                    await storage.commit(Commit(puts=(put("after"),)))
                except FleetError as error:
                    child.acknowledge(error.code)
                else:
                    child.acknowledge("acknowledged without a sync: a power failure would lose it")
                child.point("done")

        said = killed(write, at="done")

        assert said in [("before", "storage_failed"), ("before", "storage_full")]
        async with open_again() as storage:
            assert await storage.get("thing", "before") is not None
            assert await problems(storage) == []

    async def test_a_full_disk_refuses_and_loses_nothing(self, open_again: OpenStorage) -> None:
        if not can_break_calls():
            pytest.skip("writes cannot be made to fail on this system")

        async def write(child: Child) -> None:
            async with open_again() as storage:
                await storage.commit(Commit(puts=(put("before"),)))
                child.acknowledge("before")
                break_calls(*PLACED_WRITES, *SYNCS, code=errno.ENOSPC)
                try:
                    await storage.commit(Commit(puts=(put("after", {"text": "x" * _MIB}),)))
                except FleetError as error:
                    child.acknowledge(error.code)
                if await storage.get("thing", "after") is not None:
                    child.acknowledge("refused, but visible")
                child.point("done")

        said = killed(write, at="done")

        assert said == ("before", "storage_full")
        async with open_again() as storage:
            assert [record.key for record in (await storage.find("thing")).items] == ["before"]
            assert await problems(storage) == []

    async def test_a_commit_that_the_disk_refused_leaves_nothing_and_the_next_ones_are_kept(
        self, open_again: OpenStorage
    ) -> None:
        async with open_again() as storage:
            await storage.commit(Commit(puts=(put("before"),), events=(event(1),)))
            before = await _state_of(storage)
            # A store that does not sync with Python's functions is not affected, and keeps this commit.
            with failing_sync(errno.ENOSPC), contextlib.suppress(FleetError):
                await storage.commit(Commit(puts=(put("unsynced"),), events=(event(2),)))
                before = await _state_of(storage)
            assert await _state_of(storage) == before, "a refused commit is visible"
            # It may refuse everything until it is reopened.
            with contextlib.suppress(FleetError):
                await storage.commit(Commit(puts=(put("next"), put("before")), events=(event(3),)))
            state = await _state_of(storage)

        async with open_again() as storage:
            assert await _state_of(storage) == state, "reopened it shows something else"

    async def test_a_cancelled_commit_is_the_same_after_opening_again(self, open_again: OpenStorage) -> None:
        async with open_again() as storage:
            for turns in range(8):
                task = asyncio.ensure_future(storage.commit(Commit(puts=(put(f"k{turns}"),), events=(event(turns),))))
                for _ in range(turns):
                    await asyncio.sleep(0)
                await end_tasks(task)
            await storage.commit(Commit(puts=(put("last"),)))
            state = await _state_of(storage)

        async with open_again() as storage:
            assert await _state_of(storage) == state, "reopened it shows something else"

    async def test_what_upkeep_did_is_there_after_opening_again(self, open_again: OpenStorage) -> None:
        rng = np.random.default_rng(3)
        before: list[list[tuple[int, float]]] = []
        indices: list[int] = []
        for _ in range(6):
            async with open_again() as storage:
                indices = await series(storage, *"abc")
                assert [await readings(storage, index) for index in indices] == (before or [[], [], []])
                for maintained in (True, False):
                    n = 200
                    time = rng.integers(0, 500, n) * 1000
                    batch = TelemetryBatch.of(rng.choice(indices, n), time, rng.integers(0, 9, n) / 2)
                    await storage.commit(Commit(readings=batch))
                    if maintained:
                        await storage.maintain(10**15)
                before = [await readings(storage, index) for index in indices]
                assert await problems(storage) == []

    async def test_a_position_is_not_used_twice_after_upkeep_and_opening_again(self, open_again: OpenStorage) -> None:
        last = 0
        for i in range(4):
            async with open_again() as storage:
                (index,) = await series(storage, "t")
                position = (await store(storage, index, [1000 * i], [1.0])).position
                await storage.commit(Commit(cursors={"c": position}))
                await storage.maintain(10**15)

            assert position > last
            last = position

    async def test_a_forgotten_device_is_gone_and_others_are_not(self, storage: Storage) -> None:
        (gone,) = await series(storage, "t", device="gone")
        (stays,) = await series(storage, "t", device="stays")
        for i in range(4):
            batch = TelemetryBatch.of([gone, stays], [1000 * i, 1000 * i], [1.0, 2.0])
            text = TextReading(gone, 1000 * i, 1, "secret")
            marks = tuple(
                MessageMark(device=device, id=f"m{i}", time=10**15, answer={}) for device in ("gone", "stays")
            )
            await storage.commit(Commit(readings=batch, texts=(text,), marks=marks, events=(event(i),)))
            if i == 1:
                await storage.maintain(10**15)
        last = await storage.position()
        await storage.commit(Commit(cursors={"keeps the feed": last - 2}))

        await storage.forget("gone")

        with pytest.raises(KeyError):
            storage.catalog.series(gone)
        assert list(await storage.series_of("gone")) == []
        assert await readings(storage, gone) == []
        assert await texts(storage, gone) == []
        assert await storage.marks("gone", ["m0", "m3"]) == {}
        assert await readings(storage, stays) == [(1000 * i, 2.0) for i in range(4)]
        assert sorted(await storage.marks("stays", ["m0", "m3"])) == ["m0", "m3"]
        assert await storage.position() == last
        assert await problems(storage) == []
        entries = await storage.feed(last - 2)
        assert [e.time for entry in entries for e in entry.events] == [2, 3]
        assert [text for entry in entries for text in entry.texts] == []
        assert {s for entry in entries if entry.readings is not None for s in entry.readings.series.tolist()} <= {stays}

    async def test_a_forgotten_device_stays_gone_after_opening_again(self, open_again: OpenStorage) -> None:
        async with open_again() as storage:
            (gone,) = await series(storage, "t", device="gone")
            (stays,) = await series(storage, "t", device="stays")
            mark = MessageMark(device="gone", id="m", time=10**15, answer={})
            text = TextReading(gone, 2000, 1, "secret")
            batch = TelemetryBatch.of([gone, stays], [1000, 1000], [1.0, 2.0])
            await storage.commit(Commit(readings=batch, texts=(text,), marks=(mark,), events=(event(1),)))
            await storage.forget("gone")

        async with open_again() as storage:
            assert not storage.catalog.has(gone), storage.catalog.series(gone)
            assert await readings(storage, gone) == []
            assert await texts(storage, gone) == []
            assert await storage.marks("gone", ["m"]) == {}
            assert await readings(storage, stays) == [(1000, 2.0)]
            entries = await storage.feed(0)
            assert [e.time for entry in entries for e in entry.events] == [1]
            assert await shown(storage) == [(stays, 1000, 2.0)]
            (new,) = await series(storage, "t", device="gone")
            assert new not in {gone, stays}
            assert await readings(storage, new) == []

    async def test_the_index_of_a_forgotten_series_is_not_given_out_again(self, storage: Storage) -> None:
        (gone,) = await series(storage, "t", device="gone")
        await store(storage, gone, [1000], [1.0])
        await storage.forget("gone")

        (new,) = await series(storage, "t", device="gone")

        assert new != gone
        assert await readings(storage, new) == []
        assert await storage.latest([new]) == [None]
        with pytest.raises(NotFound):
            await store(storage, gone, [2000], [1.0])

    async def test_forgetting_a_device_that_has_nothing_does_nothing(self, storage: Storage) -> None:
        await storage.forget("nobody")

        assert await problems(storage) == []

    async def test_an_artifact_is_found_by_its_digest_and_read_in_parts(self, storage: Storage) -> None:
        content = bytes(range(256)) * 4096 + b"end"
        digest = hashlib.sha256(content).hexdigest()

        info = await storage.put_artifact(_pieces(content), sha256=digest, limit_bytes=len(content))

        assert (info.sha256, info.size_bytes) == (digest, len(content))
        assert await storage.artifact(digest) == info
        for start, end in ((0, None), (0, 1), (1000, 700_000), (len(content) - 3, None), (5, 5), (5, 10**9)):
            assert await _whole(storage.read_artifact(digest, start, end)) == content[start:end]

    async def test_an_artifact_put_twice_is_one(self, storage: Storage) -> None:
        first = await storage.put_artifact(_pieces(b"same"), sha256=None, limit_bytes=_MIB)

        assert await storage.put_artifact(_pieces(b"same"), sha256=first.sha256, limit_bytes=_MIB) == first
        assert await _whole(storage.read_artifact(first.sha256)) == b"same"

    async def test_an_artifact_that_is_dropped_is_gone_and_may_come_again(self, storage: Storage) -> None:
        content = bytes(range(256)) * 4096
        info = await storage.put_artifact(_pieces(content), sha256=None, limit_bytes=_MIB)

        await storage.drop_artifact(info.sha256)
        await storage.drop_artifact(info.sha256)

        assert await storage.artifact(info.sha256) is None
        with pytest.raises(NotFound):
            await _whole(storage.read_artifact(info.sha256))
        assert await storage.put_artifact(_pieces(content), sha256=info.sha256, limit_bytes=_MIB) == info
        assert await _whole(storage.read_artifact(info.sha256)) == content
        assert await problems(storage) == []

    async def test_an_empty_artifact_is_one_too(self, storage: Storage) -> None:
        info = await storage.put_artifact(_pieces(b""), sha256=None, limit_bytes=0)

        assert info.size_bytes == 0
        assert await _whole(storage.read_artifact(info.sha256)) == b""

    async def test_an_artifact_with_another_digest_is_refused_and_not_kept(self, storage: Storage) -> None:
        promised = hashlib.sha256(b"promised").hexdigest()

        with pytest.raises(Refused) as refused:
            await storage.put_artifact(_pieces(b"delivered"), sha256=promised, limit_bytes=_MIB)

        assert refused.value.code == "hash_mismatch"
        assert await storage.artifact(promised) is None
        assert await storage.artifact(hashlib.sha256(b"delivered").hexdigest()) is None

    async def test_an_artifact_beyond_the_limit_is_refused_before_it_is_read_to_its_end(self, storage: Storage) -> None:
        taken = 0

        async def endless() -> AsyncIterator[bytes]:
            nonlocal taken
            while True:
                taken += 1000
                yield b"x" * 1000

        with pytest.raises(Refused) as refused:
            await storage.put_artifact(endless(), sha256=None, limit_bytes=100_000)

        assert refused.value.code == "limit_exceeded"
        assert taken < 200_000

    async def test_a_stream_that_breaks_leaves_nothing(self, storage: Storage) -> None:
        async def breaking() -> AsyncIterator[bytes]:
            yield b"first half"
            raise ConnectionResetError

        with pytest.raises(ConnectionResetError):
            await storage.put_artifact(breaking(), sha256=None, limit_bytes=_MIB)

        assert await storage.artifact(hashlib.sha256(b"first half").hexdigest()) is None

    async def test_an_upload_that_breaks_keeps_what_came_and_shows_no_artifact(self, storage: Storage) -> None:
        content = bytes(range(256)) * 4000
        digest, size = hashlib.sha256(content).hexdigest(), len(content)

        async def breaking() -> AsyncIterator[bytes]:
            async for piece in _pieces(content[:600_000]):
                yield piece
            raise ConnectionResetError

        with pytest.raises(ConnectionResetError):
            await storage.append_part(breaking(), sha256=digest, size_bytes=size, offset=0, now_ms=1000)
        (part,) = await storage.parts()

        assert part == PartInfo(sha256=digest, size_bytes=size, received=600_000, changed=1000)
        assert await storage.artifact(digest) is None
        with pytest.raises(NotFound):
            await anext(storage.read_artifact(digest))
        for end in (700_001, size):
            start = (await storage.parts())[0].received
            more = _pieces(content[start:end])
            came = await storage.append_part(more, sha256=digest, size_bytes=size, offset=start, now_ms=2000)
            assert came == end
        assert [part.changed for part in await storage.parts()] == [2000]
        assert await storage.artifact(digest) is None
        assert (await storage.finish_part(digest, size)).size_bytes == size
        assert await _whole(storage.read_artifact(digest)) == content
        assert list(await storage.parts()) == []

    async def test_an_upload_continues_nowhere_but_at_its_end(self, storage: Storage) -> None:
        digest = hashlib.sha256(b"firmware").hexdigest()
        await storage.append_part(_pieces(b"firm"), sha256=digest, size_bytes=8, offset=0, now_ms=1)

        for offset in (0, 3, 5):
            with pytest.raises(Conflict) as refused:
                await storage.append_part(_pieces(b"ware"), sha256=digest, size_bytes=8, offset=offset, now_ms=1)
            assert (refused.value.code, refused.value.ids["received"]) == ("offset_mismatch", 4)
        with pytest.raises(Refused) as unfinished:
            await storage.finish_part(digest, 8)
        assert unfinished.value.code == "size_mismatch"
        with pytest.raises(Refused) as excess:
            await storage.append_part(_pieces(b"wares"), sha256=digest, size_bytes=8, offset=4, now_ms=1)
        assert excess.value.code == "size_mismatch"
        assert [part.received for part in await storage.parts()] == [4]

    async def test_an_upload_with_another_digest_is_dropped(self, storage: Storage) -> None:
        promised = hashlib.sha256(b"promised").hexdigest()
        await storage.append_part(_pieces(b"deliverd"), sha256=promised, size_bytes=8, offset=0, now_ms=1)

        with pytest.raises(Refused) as refused:
            await storage.finish_part(promised, 8)

        assert refused.value.code == "hash_mismatch"
        assert await storage.artifact(promised) is None
        assert await storage.artifact(hashlib.sha256(b"deliverd").hexdigest()) is None
        assert list(await storage.parts()) == []

    async def test_uploads_are_known_by_digest_and_size_and_dropped_alone(self, storage: Storage) -> None:
        digest = hashlib.sha256(b"").hexdigest()
        for size in (0, 5, 7):
            await storage.append_part(_pieces(b"x" * size), sha256=digest, size_bytes=size, offset=0, now_ms=1)

        await storage.drop_part(digest, 5)
        await storage.drop_part(digest, 5)

        assert sorted(part.received for part in await storage.parts()) == [0, 7]
        await storage.append_part(_pieces(b"y"), sha256=digest, size_bytes=5, offset=0, now_ms=1)
        assert (await storage.finish_part(digest, 0)).size_bytes == 0
        assert sorted((part.size_bytes, part.received) for part in await storage.parts()) == [(5, 1), (7, 7)]

    async def test_a_missing_artifact_is_told_at_the_first_step(self, storage: Storage) -> None:
        for name in ("0" * 64, "../../etc/passwd", ""):
            assert await storage.artifact(name) is None
            with pytest.raises(NotFound) as gone:
                await anext(storage.read_artifact(name))
            assert gone.value.code == "artifact_unknown"

    async def test_a_backup_made_while_writes_go_on_is_consistent(
        self, storage: Storage, open_backup: OpenBackup, tmp_path: Path
    ) -> None:
        (index,) = await series(storage, "t")
        artifact = await storage.put_artifact(_pieces(b"firmware"), sha256=None, limit_bytes=_MIB)
        backed_up = asyncio.Event()

        async def write() -> int:
            n = 0
            while not backed_up.is_set() or n < 50:
                batch = TelemetryBatch.of([index], [1000 * n], [float(n)])
                await storage.commit(Commit(puts=(put("count", {"n": n}),), readings=batch, events=(event(n),)))
                n += 1
                if n == 30:
                    await storage.maintain(10**15)
            return n

        async def back_up() -> None:
            while await storage.position() < 10:
                await storage.wait_feed(await storage.position(), 5.0)
            await storage.backup(tmp_path / "copy")
            backed_up.set()

        writing = asyncio.ensure_future(write())
        try:
            written, _ = await asyncio.gather(writing, back_up())
        finally:
            # If the backup failed, the writer would continue, and a store that waits for its commits would never close.
            backed_up.set()
            await asyncio.wait([writing])

        async with open_backup(tmp_path / "copy") as copy:
            record = await copy.get("thing", "count")
            assert record is not None
            n = record.version
            assert 10 <= n <= written
            assert record.body == {"n": n - 1}
            assert await copy.position() == n
            assert await readings(copy, index) == [(1000 * i, float(i)) for i in range(n)]
            assert await _whole(copy.read_artifact(artifact.sha256)) == b"firmware"
            assert await problems(copy) == []

    async def test_a_backup_has_all_that_was_committed_before_it(
        self, storage: Storage, open_backup: OpenBackup, tmp_path: Path
    ) -> None:
        (index,) = await series(storage, "t")
        for n in range(5):
            batch = TelemetryBatch.of([index], [1000 * n], [float(n)])
            await storage.commit(Commit(puts=(put(f"k{n}"),), readings=batch, events=(event(n),)))
        state, points = await _state_of(storage), await readings(storage, index)
        (tmp_path / "empty").mkdir()

        for folder in (tmp_path / "new", tmp_path / "empty"):
            await storage.backup(folder)

            async with open_backup(folder) as copy:
                assert await _state_of(copy) == state
                assert await readings(copy, index) == points

    async def test_a_backup_does_not_write_over_anything(self, storage: Storage, tmp_path: Path) -> None:
        (tmp_path / "mine.txt").write_text("precious")

        with pytest.raises(Refused):
            await storage.backup(tmp_path)

        assert (tmp_path / "mine.txt").read_text() == "precious"

    async def test_a_healthy_store_finds_nothing_wrong(self, storage: Storage) -> None:
        (index,) = await series(storage, "t")
        await store(storage, index, [1000, 2000], [1.0, 2.0])
        await storage.commit(Commit(puts=(put("a"),)))

        assert await problems(storage) == []

    async def test_a_part_of_a_check_that_does_not_exist_is_refused(self, storage: Storage) -> None:
        if type(storage).verify is Storage.verify:
            pytest.skip("this store checks everything in one part")
        with pytest.raises(Refused):
            await storage.verify("no such part")


async def _state_of(storage: Storage) -> dict[str, object]:
    """A store's things and feed, to be compared later."""
    found = await storage.find("thing", limit=10**6)
    return {
        "records": [(record.key, record.version) for record in found.items],
        "feed": [(entry.position, [e.time for e in entry.events]) for entry in await storage.feed(0, limit=10**6)],
        "position": await storage.position(),
    }


async def _pieces(content: bytes, size: int = 70_000) -> AsyncIterator[bytes]:
    for at in range(0, len(content), size):
        yield content[at : at + size]


async def _whole(parts: AsyncIterator[bytes]) -> bytes:
    return b"".join([part async for part in parts])
