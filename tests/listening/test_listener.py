"""Budgets of listeners. Guards against bounds that the peers choose: descriptors, handshakes, deadlines, addresses."""

import asyncio
import socket
import ssl
from contextlib import asynccontextmanager, suppress

import pytest

from fleetcore.interfaces.waits import end_tasks
from fleetcore.listening.budget import Budget
from fleetcore.listening.limits import ListenerLimits
from fleetcore.listening.listener import Listener
from fleetcore.listening.sockets import bind
from fleetcore.listening.turns import Turns
from fleetcore.runtime.clock import SystemClock
from fleetcore.testing.clock import MovableClock
from fleetcore.testing.patience import PATIENCE_S, until
from fleetcore.testing.throwaway_ca import ThrowawayCa


class Echo(asyncio.Protocol):
    """Sends back what comes; of a peer that asks for ``big`` it sends more than any buffer holds."""

    def __init__(self, lost):
        self.lost = lost

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(b"x" * 16_000_000 if data == b"big" else data)

    def connection_lost(self, error):
        self.lost()


@pytest.fixture(scope="module")
def ca(tmp_path_factory):
    return ThrowawayCa(tmp_path_factory.mktemp("pki"))


@asynccontextmanager
async def listening(budget, *, name="a", clock=None, tls=None):
    opened = Listener(name, bind("127.0.0.1", 0), Echo, budget, clock or SystemClock(), tls=tls)
    port = opened.sockets[0].getsockname()[1]
    opened.open()
    try:
        yield opened, port
    finally:
        opened.close()
        await opened.wait_closed()


def silent(port, count):
    return [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]


async def echoed(port, context=None, source="127.0.0.1"):
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, local_addr=(source, 0))
    writer.write(b"hello")
    found = await reader.readexactly(5)
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return found


def unchecked():
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


async def test_turns_come_in_the_order_in_which_they_are_asked_for():
    turns, order = Turns(2), []

    async def take(number):
        turn = await turns.take()
        order.append(number)
        await asyncio.sleep(0)
        turn.end()
        turn.end()

    await asyncio.gather(*(take(number) for number in range(50)))

    assert order == list(range(50))
    assert (turns.under_way, turns.waiting) == (0, 0)


async def test_a_turn_that_is_not_waited_for_any_more_goes_to_the_next():
    turns = Turns(1)
    first = await turns.take()
    waiting = [asyncio.ensure_future(turns.take()) for _ in range(2)]
    await asyncio.sleep(0)
    first.end()
    waiting[0].cancel()
    second = await waiting[1]

    second.end()
    assert turns.under_way == 0


async def test_sources_take_turns_so_that_one_with_thousands_waiting_holds_up_itself_alone():
    turns, order = Turns(1), []
    first = await turns.take("herd")

    async def take(source, number):
        turn = await turns.take(source)
        order.append((source, number))
        await asyncio.sleep(0)
        turn.end()

    takers = [asyncio.ensure_future(take("herd", number)) for number in range(1000)]
    await asyncio.sleep(0)
    takers += [asyncio.ensure_future(take(source, number)) for source in ("a", "b") for number in range(2)]
    await asyncio.sleep(0)
    first.end()
    await asyncio.gather(*takers)

    assert order[:6] == [("herd", 0), ("a", 0), ("b", 0), ("herd", 1), ("a", 1), ("b", 1)]
    assert order[6:] == [("herd", number) for number in range(2, 1000)]
    assert (turns.under_way, turns.waiting) == (0, 0)


async def test_a_source_whose_last_wait_is_cancelled_leaves_nothing_behind():
    turns = Turns(1)
    first = await turns.take("a")
    waiting = [asyncio.ensure_future(turns.take(source)) for source in ("a", "b")]
    await asyncio.sleep(0)
    await end_tasks(*waiting)

    assert turns.waiting == 0
    first.end()
    assert turns.under_way == 0


async def test_silent_connections_to_one_listener_leave_the_others_their_part():
    budget = Budget(ListenerLimits(per_address=1000, reserve=10), descriptors=lambda: 50)
    async with listening(budget, name="a") as (one, port), listening(budget, name="b") as (_, other):
        held = silent(port, 60)
        await until(lambda: budget.reached["a", "descriptors"])

        assert one.connections == 30  # its own ten, and the twenty that are for whoever needs them
        assert await echoed(other) == b"hello"
        for each in held:
            each.close()
        assert await echoed(port) == b"hello"


async def test_silent_tls_connections_are_cut_off_and_the_listener_serves_again(ca):
    clock = MovableClock()
    budget = Budget(ListenerLimits(per_address=1000, reserve=10), descriptors=lambda: 50)
    async with listening(budget, clock=clock, tls=ca.server()) as (opened, port):
        held = silent(port, 60)
        await until(lambda: budget.reached["a", "descriptors"])
        async with asyncio.timeout(PATIENCE_S):
            while opened.connections > 20 or budget.reached["a", "head_s"] < 40:
                await clock.advance(11)
                await asyncio.sleep(0.01)

        assert await echoed(port, unchecked()) == b"hello"
        assert budget.reached["a", "head_s"] >= 40
        for each in held:
            each.close()


async def test_one_address_has_no_more_connections_than_its_cap():
    budget = Budget(ListenerLimits(per_address=5))
    async with listening(budget) as (opened, port):
        held = silent(port, 9)
        await until(lambda: budget.reached["a", "per_address"] == 4)

        assert opened.connections == 5
        for each in held:
            each.close()
        await until(lambda: opened.connections == 0)
        assert await echoed(port) == b"hello"


async def test_a_peer_that_reads_nothing_is_cut_off():
    budget = Budget(ListenerLimits(unread_s=0.2))
    async with listening(budget) as (opened, port):
        (held,) = silent(port, 1)
        held.sendall(b"big")

        await until(lambda: budget.reached["a", "unread_s"] and not opened.connections)
        held.close()


async def test_a_herd_shakes_hands_in_its_order_and_nobody_is_cut_off(ca):
    budget = Budget(ListenerLimits(handshakes=4, handshake_s=60))
    context = unchecked()
    async with listening(budget, tls=ca.server()) as (opened, port):
        found = await asyncio.gather(*(echoed(port, context) for _ in range(200)))

        assert found == [b"hello"] * 200
        assert opened.turns.begun == 200
        assert not budget.reached


async def test_handshakes_that_stall_hold_up_no_other(ca):
    budget = Budget(ListenerLimits(handshakes=2))
    async with listening(budget, tls=ca.server()) as (opened, port):
        held = silent(port, 10)
        for each in held:
            each.sendall(b"\x16\x03\x01")  # a record's beginning, and nothing more
        await until(lambda: opened.turns.begun)

        assert await echoed(port, unchecked()) == b"hello"
        for each in held:
            each.close()


async def test_half_handshakes_of_one_address_do_not_delay_another_address(ca):
    budget = Budget(ListenerLimits(handshakes=1))
    async with listening(budget, tls=ca.server()) as (opened, port):
        held = silent(port, 200)  # a turn of a quarter of a second each
        for each in held:
            each.sendall(b"\x16")
        await until(lambda: opened.turns.waiting > 190)

        assert await echoed(port, unchecked(), source="127.0.0.2") == b"hello"
        assert opened.turns.waiting  # the herd's own wait goes on
        for each in held:
            each.close()


def test_a_bound_that_goes_on_being_reached_is_said_once_a_minute(caplog):
    now = [0.0]
    budget = Budget(now_s=lambda: now[0])
    share = budget.enter("a")
    for _ in range(100):
        share.note("head_s", "silent")
    now[0] = 61.0
    share.note("head_s", "silent")

    assert budget.reached["a", "head_s"] == 101
    assert [record.message.count("100 times") for record in caplog.records] == [0, 1]
