"""Connections that last: the smallest protocol that has them, over real sockets; what a protocol of others can count on."""

import asyncio
import logging
from contextlib import asynccontextmanager

import pytest

from fleetcore.errors import NotReady
from fleetcore.listening.budget import Budget
from fleetcore.listening.flow_control import PausableProtocol
from fleetcore.listening.persistent import PersistentConnections
from fleetcore.testing.clock import MovableClock
from fleetcore.testing.patience import PATIENCE_S

HELD = 1


class Line(PausableProtocol):
    """The first line names the device, every other is answered by itself; ``hold`` as a line stops reading."""

    def __init__(self, host, lost):
        super().__init__()
        self._host, self._lost, self._text, self.identity, self.busy = host, lost, b"", "", False
        self.swept = []

    def connection_made(self, transport):
        super().connection_made(transport)
        self._host.opened(self)

    def connection_lost(self, exc):
        self.closed, self.transport = True, None
        self._host.lost(self)
        self._lost()

    def data_received(self, data):
        self._text += data
        if not self.held:
            self.read_on()

    def read_on(self):
        while b"\n" in self._text and not self.held:
            line, _, self._text = self._text.partition(b"\n")
            if not self.identity:
                self.identity = line.decode()
                self._host.authenticated(self.identity, self)
            elif line == b"hold":
                self.busy = True
                self.hold(HELD)
            else:
                self.transport.write(line + b"\n")
        if not self.held:
            self.resume()

    def drain(self):
        self.hold(2)

    def sweep(self, now_s):
        self.swept.append(now_s)

    def end(self, word):
        self.transport.write(word + b"\n")
        self.transport.close()


class Lines(PersistentConnections[Line]):
    def connection(self, lost):
        return Line(self, lost)

    def replace(self, earlier):
        earlier.end(b"replaced")

    def dismiss(self, connection):
        connection.end(b"bye")


@pytest.fixture
def clock():
    return MovableClock(0)


@asynccontextmanager
async def opened(clock, **more):
    lines = Lines("lines", Budget(), clock, logging.getLogger("lines"), closing_s=1.0)
    async with lines.listening("lines://127.0.0.1:0", "127.0.0.1", 0, None, **more):
        yield lines


async def dial(lines, name):
    port = int(lines.endpoints[0].removesuffix("/x").rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(name.encode() + b"\nhello\n")
    assert await reader.readline() == b"hello\n"
    return reader, writer


async def test_the_newest_connection_of_a_device_stands_and_each_is_dismissed_at_the_end(clock):
    async with opened(clock) as lines:
        older, one = await dial(lines, "dev1")
        newer, two = await dial(lines, "dev1")
        other, three = await dial(lines, "dev2")
        replaced = await older.read()
        one.close()
        async with asyncio.timeout(PATIENCE_S):
            while lines.connections != 2:
                await asyncio.sleep(0.01)
        connected = [lines.is_connected(name) for name in ("dev1", "dev2", "dev3")]

    assert (replaced, await newer.read(), await other.read()) == (b"replaced\n", b"bye\n", b"bye\n")
    assert (connected, lines.connections) == ([True, True, False], 0)
    two.close()
    three.close()


async def test_the_endpoint_has_the_scheme_the_port_that_was_bound_and_the_path(clock):
    async with opened(clock, path="/x") as lines:
        assert lines.endpoints[0].startswith("lines://127.0.0.1:")
        assert lines.endpoints[0].endswith("/x")
        assert ":0/" not in lines.endpoints[0]


async def test_what_is_held_is_not_read_and_goes_on_when_it_is_released(clock):
    async with opened(clock) as lines:
        reader, writer = await dial(lines, "dev1")
        writer.write(b"hold\nlater\n")
        (connection,) = lines._all
        async with asyncio.timeout(PATIENCE_S):
            while not connection.held:
                await asyncio.sleep(0.01)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.readline(), 0.05)
        connection.release(HELD)

        assert await asyncio.wait_for(reader.readline(), PATIENCE_S) == b"later\n"
        writer.close()


async def test_draining_waits_for_what_was_read_and_takes_nobody(clock):
    async with opened(clock) as lines:
        _, writer = await dial(lines, "dev1")
        writer.write(b"hold\n")
        (connection,) = lines._all
        async with asyncio.timeout(PATIENCE_S):
            while not connection.busy:
                await asyncio.sleep(0.01)
        draining = asyncio.ensure_future(lines.drain())
        await asyncio.sleep(0.05)
        waits = not draining.done()
        connection.busy = False
        await asyncio.wait_for(draining, PATIENCE_S)

        assert waits
        with pytest.raises(OSError):
            await dial(lines, "dev2")
        writer.close()


async def test_connections_are_swept_with_the_clock(clock):
    async with opened(clock) as lines:
        _, writer = await dial(lines, "dev1")
        (connection,) = lines._all
        await clock.advance(3)

        assert connection.swept
        assert connection.swept[-1] == pytest.approx(clock.monotonic_s(), abs=1.0)
        writer.close()


async def test_an_address_that_is_taken_is_not_ready(clock):
    async with opened(clock) as lines:
        port = int(lines.endpoints[0].rpartition(":")[2])
        second = Lines("lines", Budget(), clock, logging.getLogger("lines"), closing_s=1.0)
        with pytest.raises(NotReady, match="cannot be bound"):
            async with second.listening(f"lines://127.0.0.1:{port}", "127.0.0.1", port, None):
                pass


async def test_what_a_task_of_it_raises_is_logged_and_one_under_way_ends_with_it(clock, caplog):
    ended = asyncio.Event()

    async def fails():
        raise ValueError("oh")

    async def stays():
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with opened(clock) as lines:
        lines.spawn(fails(), "a failing task")
        lines.spawn(stays(), "a task that stays")
        await asyncio.sleep(0.01)

    assert ended.is_set()
    assert "a failing task failed" in caplog.text
