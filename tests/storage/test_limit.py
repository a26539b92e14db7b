"""A limit in bytes counts every file that grows, in bytes of files, and is left at once when there is room again."""

import hashlib

import numpy as np
import pytest

from fleetcore.errors import Unavailable
from fleetcore.model.store import Commit, Put, SeriesRequest
from fleetcore.model.telemetry import TelemetryBatch

_MIB = 1024**2
_LIMIT = 12 * _MIB
_LATER = 10**15


def taken(folder):
    """The bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


async def fill(storage, folder, limit=_LIMIT, start=0):
    """Commits readings that hardly pack until they are refused; gives the time of the next one, and the refusal."""
    (series,) = await storage.intern([SeriesRequest("d", "t")])
    chance = np.random.default_rng(start)
    for first in range(start, 10**9, 5000):
        times = np.arange(first, first + 5000)
        try:
            await storage.commit(
                Commit(readings=TelemetryBatch.of([series.index] * 5000, times, chance.standard_normal(5000)))
            )
        except Unavailable as refused:
            return first, refused
        assert taken(folder) <= limit
        if first % 50_000 == 0:
            await storage.maintain(_LATER)
    raise AssertionError("it was never full")


async def many(storage):
    """Records until they are refused."""
    for number in range(100_000):
        await storage.commit(Commit(puts=(Put(kind="many", key=str(number), body={"x": "y" * 5000}),)))


def piece(size):
    async def pieces():
        for _ in range(size // 1024):
            yield b"\1" * 1024

    return pieces()


async def test_readings_are_refused_before_the_files_pass_the_limit(open_at, tmp_path):
    async with open_at(tmp_path, limit_bytes=_LIMIT) as storage:
        stored, refused = await fill(storage, tmp_path)

        assert (refused.code, refused.ids["limit"], refused.ids["unit"]) == ("storage_full", _LIMIT, "bytes")
        assert str(_LIMIT) in refused.message
        assert "limit_bytes" in refused.message
        assert "[retention]" in refused.remedy
        assert stored > 100_000
        assert taken(tmp_path) > _LIMIT // 2
        size = await storage.size()
        assert size.limit_bytes == _LIMIT
        assert abs(size.total_bytes - taken(tmp_path)) <= 64 * 1024


async def test_operators_change_things_in_a_store_that_is_full_of_readings(open_at, tmp_path):
    async with open_at(tmp_path, limit_bytes=_LIMIT) as storage:
        await fill(storage, tmp_path)

        for number in range(100):
            await storage.commit(
                Commit(puts=(Put(kind="k", key=str(number), body={"x": "y" * 500}),), cursors={"c": number})
            )

        await storage.maintain(_LATER)
        assert taken(tmp_path) <= _LIMIT


async def test_it_goes_on_at_once_when_old_readings_went(open_at, tmp_path):
    async with open_at(tmp_path, limit_bytes=_LIMIT) as storage:
        stored, _ = await fill(storage, tmp_path)
        (series,) = await storage.intern([SeriesRequest("d", "t")])
        while (await storage.expire([series.index], stored // 2)).more:
            pass

        again, _ = await fill(storage, tmp_path, start=stored)

        assert again - stored > stored // 4
        assert taken(tmp_path) <= _LIMIT


async def test_a_limit_below_what_is_there_leaves_a_bounded_room_to_operators(open_at, tmp_path):
    async with open_at(tmp_path, limit_bytes=_LIMIT) as storage:
        next_time, _ = await fill(storage, tmp_path)
    lowered = _LIMIT // 3
    async with open_at(tmp_path, limit_bytes=lowered) as storage:
        there = await storage.size()

        for number in range(100):
            await storage.commit(Commit(puts=(Put(kind="k", key=str(number), body={"x": "y" * 500}),)))
            await storage.maintain(_LATER)
        assert (await fill(storage, tmp_path, start=next_time, limit=10 * _LIMIT))[0] == next_time
        with pytest.raises(Unavailable, match="limit"):
            await many(storage)
        await storage.maintain(_LATER)
        after = await storage.size()

        assert after.parts["database"] > there.parts["database"]
        assert after.total_bytes <= there.total_bytes + lowered // 4


async def test_artifacts_count_and_are_refused_without_a_trace(open_at, tmp_path):
    async with open_at(tmp_path, limit_bytes=_LIMIT) as storage:
        await storage.put_artifact(piece(8 * _MIB), sha256=None, limit_bytes=_LIMIT)
        before = taken(tmp_path)

        with pytest.raises(Unavailable) as refused:
            await storage.put_artifact(piece(4 * _MIB), sha256=None, limit_bytes=_LIMIT)

        assert (refused.value.code, refused.value.ids["limit"]) == ("storage_full", _LIMIT)
        assert taken(tmp_path) == before
        stored, _ = await fill(storage, tmp_path)
        assert stored < 400_000
        assert taken(tmp_path) <= _LIMIT


async def test_a_store_that_is_full_keeps_what_came_of_an_upload(open_at, tmp_path):
    content = b"x" * (4 * _MIB)
    digest = hashlib.sha256(content).hexdigest()

    async def rest(start):
        for at in range(start, len(content), 100_000):
            yield content[at : at + 100_000]

    async with open_at(tmp_path, limit_bytes=_LIMIT) as storage:
        other = await storage.append_part(piece(8 * _MIB), sha256="0" * 64, size_bytes=8 * _MIB, offset=0, now_ms=1)
        with pytest.raises(Unavailable) as refused:
            await storage.append_part(rest(0), sha256=digest, size_bytes=len(content), offset=0, now_ms=1)
        came = {part.sha256: part.received for part in await storage.parts()}[digest]

        assert (refused.value.code, other) == ("storage_full", 8 * _MIB)
        assert 0 < came < len(content)
        assert taken(tmp_path) <= _LIMIT
        await storage.drop_part("0" * 64, 8 * _MIB)
        await storage.append_part(rest(came), sha256=digest, size_bytes=len(content), offset=came, now_ms=1)
        assert await storage.finish_part(digest, len(content)) == await storage.artifact(digest)


async def test_other_files_of_the_folder_count(open_at, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "copy").write_bytes(b"x" * (11 * _MIB))
    async with open_at(tmp_path, limit_bytes=_LIMIT) as storage:
        stored, _ = await fill(storage, tmp_path)
        assert stored == 0
        assert (await storage.size()).parts["other"] >= 11 * _MIB

        (tmp_path / "sub" / "copy").unlink()
        await storage.maintain(_LATER)

        assert (await fill(storage, tmp_path))[0] > 100_000


async def test_how_much_each_part_takes_is_told(open_at, tmp_path):
    async with open_at(tmp_path) as storage:
        await storage.put_artifact(piece(_MIB), sha256=None, limit_bytes=_MIB)
        size = await storage.size()
        assert size.limit_bytes is None
        assert size.parts["artifacts"] == _MIB
        assert size.parts["database"] == (tmp_path / "fleet.db").stat().st_size
    async with open_at(None) as storage:
        assert (await storage.size()).total_bytes > 0


async def test_a_check_lists_no_folder_of_artifacts_twice(open_at, tmp_path, monkeypatch):
    async with open_at(tmp_path) as storage:
        for number in range(30):
            await storage.put_artifact(_content(b"%d" % number), sha256=None, limit_bytes=100)
        listed = []
        from fleetcore.builtin.sqlite import artifacts

        real = artifacts._blobs
        monkeypatch.setattr(artifacts, "_blobs", lambda above: listed.append(above) or real(above))
        part = await storage.verify()
        while part.after is not None:
            part = await storage.verify(part.after)

    assert part.done == part.total
    assert len(listed) <= 4 * 30


async def _content(content):
    yield content
