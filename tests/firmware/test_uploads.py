"""Uploads that are interrupted: what came stays, nothing is visible before its end, quota, a day, kill -9."""

import asyncio
import hashlib

import pytest

from fleetcore import IoTFleetManager
from fleetcore.cli.uploading import upload_file
from fleetcore.errors import Conflict, NotFound, Refused, Unavailable
from fleetcore.fleet.uploads import Uploads
from fleetcore.runtime.config import build
from fleetcore.testing.kill import killed
from fleetcore.testing.signers import DAY_MS, digest
from fleetcore.wire.pieces import async_pieces

CONTENT = bytes(range(256)) * 10_000
SHA256, SIZE = digest(CONTENT), len(CONTENT)
HOUR_MS = DAY_MS // 24


def pieces(content, size=70_000):
    return [content[at : at + size] for at in range(0, len(content), size)]


async def part_of(manager, content=CONTENT[:1_000_000], sha256=SHA256, size=SIZE, offset=0):
    return await manager.continue_upload(pieces(content), sha256, size, offset=offset)


async def test_an_upload_goes_on_where_it_was_and_shows_nothing_before_its_end(manager):
    assert (await manager.get_upload(SHA256, SIZE))["received"] == 0
    begun = await part_of(manager)
    there = await manager.get_upload(SHA256, SIZE)
    with pytest.raises(NotFound):
        await manager.get_artifact(SHA256)

    ended = await part_of(manager, CONTENT[1_000_000:], offset=1_000_000)

    assert (begun, there["received"], there["complete"]) == (there, 1_000_000, False)
    assert (ended["received"], ended["complete"]) == (SIZE, True)
    assert (await manager.get_artifact(SHA256))["size_bytes"] == SIZE
    assert await part_of(manager) == await manager.get_upload(SHA256, SIZE) == ended


async def test_another_digest_is_found_at_the_end_and_what_came_is_removed(manager):
    with pytest.raises(Refused) as refused:
        await manager.continue_upload(pieces(CONTENT[::-1]), SHA256, SIZE)

    assert refused.value.code == "hash_mismatch"
    assert (await manager.get_upload(SHA256, SIZE))["received"] == 0


async def test_a_later_request_takes_the_place_of_one_that_hangs(fleet):
    first_came, uploads = asyncio.Event(), fleet.uploads

    async def hangs():
        yield CONTENT[:100]
        first_came.set()
        await asyncio.Event().wait()

    hanging = asyncio.ensure_future(uploads.append(hangs(), SHA256, SIZE, 0))
    await first_came.wait()

    async def rest():
        yield CONTENT[100:]

    done = await uploads.append(rest(), SHA256, SIZE, 100)

    assert done.complete
    with pytest.raises(Conflict) as refused:
        await hanging
    assert refused.value.code == "session_taken_over"


async def test_unfinished_uploads_have_a_quota_of_what_they_announced(fleet, clock):
    uploads = Uploads(fleet.storage, clock, 1000)

    async def some(content=b"x"):
        yield content

    await uploads.append(some(), "0" * 64, 600, 0)
    with pytest.raises(Refused) as refused:
        await uploads.append(some(), "1" * 64, 401, 0)
    await uploads.append(some(), "2" * 64, 400, 0)
    await uploads.append(some(), "0" * 64, 600, 1)

    assert (refused.value.code, refused.value.ids["limit"]) == ("quota_exceeded", 1000)
    assert "upload_quota_bytes" in refused.value.remedy
    assert [part.received for part in await fleet.storage.parts()] == [2, 1]


async def test_too_many_uploads_at_once_are_refused(fleet, monkeypatch):
    monkeypatch.setattr("fleetcore.fleet.uploads._MAX_UPLOADS", 2)
    for number in range(2):
        await fleet.uploads.append(async_pieces(b"x"), f"{number}" * 64, 2, 0)

    with pytest.raises(Refused) as refused:
        await fleet.uploads.append(async_pieces(b"x"), "2" * 64, 2, 0)

    assert (refused.value.code, refused.value.ids["unit"]) == ("quota_exceeded", "uploads")


async def test_an_upload_that_gets_nothing_for_a_day_is_removed(manager, fleet, clock):
    await part_of(manager)
    clock.jump(23 * HOUR_MS)
    await part_of(manager, CONTENT[1_000_000:1_000_001], offset=1_000_000)
    clock.jump(23 * HOUR_MS)
    await fleet.uploads.tick()
    kept = (await manager.get_upload(SHA256, SIZE))["received"]

    clock.jump(2 * HOUR_MS)
    await fleet.uploads.tick()

    assert kept == 1_000_001
    assert (await manager.get_upload(SHA256, SIZE))["received"] == 0


async def test_a_full_store_keeps_what_came_and_says_so(tmp_path):
    def opened(limit):
        return IoTFleetManager(
            config=build({"fleet": {"data": str(tmp_path / "data")}, "storage": {"limit_bytes": limit}})
        )

    async with opened(16 << 20) as manager:
        big = CONTENT * 10
        with pytest.raises(Unavailable) as refused:
            await manager.continue_upload(pieces(big), digest(big), len(big))
        there = await manager.get_upload(digest(big), len(big))

        assert refused.value.code == "storage_full"
        assert 0 < there["received"] < len(big)
        assert f"{there['received']} of the {len(big)} bytes" in refused.value.message
    async with opened(64 << 20) as manager:
        rest = pieces(big[there["received"] :])
        assert (await manager.continue_upload(rest, digest(big), len(big), offset=there["received"]))["complete"]


async def test_after_kill_9_in_the_middle_the_upload_goes_on(tmp_path):
    async def work(child):
        async def half():
            for piece in pieces(CONTENT[:1_400_000]):
                yield piece
            child.point("half")

        async with IoTFleetManager(tmp_path / "data") as manager:
            await manager.continue_upload(half(), SHA256, SIZE)

    killed(work, at="half")

    async with IoTFleetManager(tmp_path / "data") as manager:
        there = (await manager.get_upload(SHA256, SIZE))["received"]
        assert there == 1_400_000
        assert (await part_of(manager, CONTENT[there:], offset=there))["complete"]
        assert (await manager.get_artifact(SHA256))["size_bytes"] == SIZE


# --- the command line's part ------------------------------------------------------------------------------------------


class Line:
    """A server behind a line that breaks after so many bytes of each request."""

    def __init__(self, breaks=(), error=None):
        self.got, self.breaks, self.requests = bytearray(), list(breaks), 0
        self.error = error or Unavailable("The line is broken", code="not_ready")

    async def run(self, name, given):
        if name == "continue_upload":
            self.requests += 1
            bound = self.breaks.pop(0) if self.breaks else None
            assert given["offset"] == len(self.got)
            came = 0
            async for piece in given["content"]:
                taken = piece if bound is None else piece[: bound - came]
                self.got += taken
                came += len(taken)
                if len(taken) < len(piece) or came == bound:
                    raise self.error
        complete = hashlib.sha256(self.got).hexdigest() == given["sha256"]
        return {"received": len(self.got), "complete": complete}


@pytest.fixture
def file(tmp_path):
    (tmp_path / "image").write_bytes(CONTENT)
    return tmp_path / "image"


async def upload(line, file, **more):
    paused, shown, notes = [], [], []

    async def pause(seconds):
        paused.append(seconds)

    try:
        await upload_file(line, file, SHA256, SIZE, step=shown.append, note=notes.append, pause=pause, **more)
    finally:
        line.paused, line.shown, line.notes = paused, shown, notes


async def test_the_command_line_goes_on_after_each_break_with_the_rest_alone(file):
    line = Line([1_500_000, 1, 0, 0, 500_000])

    await upload(line, file)

    assert (bytes(line.got), line.requests) == (CONTENT, 6)
    assert sum(line.shown) == SIZE
    assert line.paused == [0.5, 0.5, 0.5, 1.0, 2.0]
    assert line.notes[:2] == [
        "The upload was interrupted: The line is broken.",
        "The upload goes on after 1500000 of 2560000 bytes.",
    ]


async def test_the_command_line_gives_up_where_nothing_comes_through(file):
    line = Line([0] * 100)

    with pytest.raises(Unavailable):
        await upload(line, file)

    assert (line.requests, sum(line.paused)) == (7, 31.5)


@pytest.mark.parametrize(
    "error",
    [Unavailable("full", code="storage_full"), Conflict("gone", code="session_taken_over")],
    ids=lambda error: error.code,
)
async def test_the_command_line_does_not_try_again_what_cannot_work(file, error):
    line = Line([10], error)

    with pytest.raises(type(error)):
        await upload(line, file)

    assert line.requests == 1


async def test_a_file_that_became_shorter_ends_the_upload(file):
    file.write_bytes(CONTENT[:100])

    with pytest.raises(Refused) as refused:
        await upload(Line(), file)

    assert refused.value.code == "size_mismatch"
