"""The faults do what they say, and are over when they are to be."""

import asyncio
import contextlib
import errno
import os
import threading

import pytest

from fleetcore.testing import killed
from fleetcore.testing.faults import (
    CutProxy,
    Stuck,
    at_sync,
    break_calls,
    failing_sync,
    files_cannot_grow,
    flip_bit,
    slow_sync,
)
from fleetcore.testing.faults.disk import PLACED_WRITES, SYNCS


def written(path, content=b"x" * 100):
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


# --- disk ---


def test_files_cannot_grow_until_the_block_ends(tmp_path):
    with files_cannot_grow(beyond_bytes=10), pytest.raises(OSError) as refused:
        written(tmp_path / "a")

    assert refused.value.errno == errno.EFBIG
    assert (tmp_path / "a").stat().st_size == 10
    written(tmp_path / "a")


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_sync_fails_until_the_block_ends(tmp_path, code):
    with failing_sync(code), pytest.raises(OSError) as refused:
        written(tmp_path / "a")

    assert refused.value.errno == code
    written(tmp_path / "a")


def test_a_slow_sync_takes_as_long_as_it_is_told(tmp_path):
    with Stuck() as stuck, slow_sync(stuck):
        writing = threading.Thread(target=written, args=(tmp_path / "a",))
        writing.start()
        stuck.wait_entered()

        assert stuck.returned == 0
        stuck.release()
        writing.join()

    assert stuck.returned == 1


def test_an_action_at_a_sync_may_sync_or_not(tmp_path):
    synced = []
    with at_sync(lambda sync: synced.append(sync())):
        written(tmp_path / "a")

    assert synced == [None]


@pytest.mark.parametrize(("at", "place"), [(None, 2), (0, 0), (-1, 4)])
def test_one_bit_is_flipped_and_back_again(tmp_path, at, place):
    file = tmp_path / "a"
    file.write_bytes(b"hello")

    assert flip_bit(file, at, bit=3) == place
    flipped = file.read_bytes()
    flip_bit(file, at, bit=3)

    assert [i for i in range(5) if flipped[i] != b"hello"[i]] == [place]
    assert flipped[place] == b"hello"[place] ^ 8
    assert file.read_bytes() == b"hello"


def test_system_calls_are_broken_for_c_code_in_every_thread_of_the_child_alone(tmp_path):
    def work(child):
        import sqlite3

        database = sqlite3.connect(tmp_path / "db", check_same_thread=False)
        database.execute("PRAGMA synchronous=FULL")
        database.execute("CREATE TABLE t (x)")
        break_calls(*SYNCS)

        def write():
            try:
                with database:
                    database.execute("INSERT INTO t VALUES (1)")
            except sqlite3.OperationalError as error:
                child.acknowledge(str(error))

        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
        child.point("done")

    assert killed(work, at="done") == ("disk I/O error",)
    written(tmp_path / "a")


def test_a_disk_is_full_for_what_writes_at_a_place(tmp_path):
    def work(child):
        with (tmp_path / "a").open("wb") as file:
            break_calls(*PLACED_WRITES, code=errno.ENOSPC)
            try:
                os.pwrite(file.fileno(), b"x", 10)
            except OSError as error:
                child.acknowledge(errno.errorcode[error.errno])
        child.point("done")

    assert killed(work, at="done") == ("ENOSPC",)


# --- threads ---


def test_whoever_calls_it_hangs_until_it_is_let_go():
    with Stuck() as stuck:
        thread = threading.Thread(target=stuck, args=("anything",), kwargs={"at": "all"})
        thread.start()
        stuck.wait_entered()
        assert thread.is_alive()
    thread.join()

    assert stuck.returned == 1


def test_nobody_calls_it():
    with pytest.raises(TimeoutError, match="nothing called it"):
        Stuck().wait_entered(0.01)


# --- network ---


@pytest.fixture
async def echo():
    """A server that sends back what it gets; yields its port."""

    async def answer(reader, writer):
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1000):
                writer.write(data)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


@pytest.fixture
async def proxy(echo):
    async with CutProxy("127.0.0.1", echo) as opened:
        yield opened


@pytest.fixture
async def line(proxy):
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    yield reader, writer
    writer.close()


async def test_it_passes_everything_on_until_a_fault_is_ordered(line, proxy):
    reader, writer = line
    content = os.urandom(300_000)

    async with asyncio.TaskGroup() as group:
        answer = group.create_task(reader.readexactly(len(content)))
        writer.write(content)

    assert answer.result() == content
    assert proxy.passed == {"up": len(content), "down": len(content)}
    assert proxy.connections == proxy.accepted == 1


@pytest.mark.parametrize("down", [False, True])
async def test_it_cuts_after_so_many_bytes(line, proxy, down):
    reader, writer = line
    proxy.cut_after(3, down=down)

    writer.write(b"hello")

    assert await reader.read() == (b"hel" if down else b"")
    assert proxy.passed["down" if down else "up"] == 3
    assert proxy.connections == 0


async def test_it_resets_where_it_is_told(line, proxy):
    reader, writer = line
    proxy.cut_after(3, reset=True)

    writer.write(b"hello")

    with pytest.raises(ConnectionResetError):
        await reader.read()


async def test_what_is_stalled_comes_when_it_heals(line, proxy):
    reader, writer = line
    proxy.stall()
    writer.write(b"hello")
    waiting = asyncio.ensure_future(reader.readexactly(5))
    done, _ = await asyncio.wait({waiting}, timeout=0.05)

    proxy.heal()

    assert not done
    assert await waiting == b"hello"


async def test_a_cut_line_may_be_opened_again(line, proxy):
    reader, _ = line
    await asyncio.sleep(0)
    while not proxy.connections:
        await asyncio.sleep(0.001)

    proxy.cut()
    assert await reader.read() == b""

    again, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"hello")
    assert await again.readexactly(5) == b"hello"
    writer.close()


async def test_a_proxy_that_refuses_closes_before_a_byte(proxy):
    proxy.refuse()

    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)

    assert await reader.read() == b""
    writer.close()


async def test_a_server_that_does_not_listen_looks_the_same(unused_tcp_port):
    async with CutProxy("127.0.0.1", unused_tcp_port) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)

        assert await reader.read() == b""
        writer.close()
