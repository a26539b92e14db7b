"""Devices that read slowly: nothing of theirs piles up in memory, nothing is lost, and no other device waits for them."""

import asyncio
import tracemalloc

import pytest
from fleetcore_websocket.downlinks import KEPT

from fleetcore.interfaces.provider import Limits
from fleetcore.listening.limits import ListenerLimits
from fleetcore.model.message import Downlink
from fleetcore.testing.patience import PATIENCE_S
from fleetcore.wire import messages

#: Of the socket of a device that reads slowly; the system doubles it.
WINDOW_BYTES = 4096


@pytest.fixture
async def slow(serve, connect, plane):
    """``dev1``, whose socket is not read until ``read_on`` is called."""
    served = await serve(tls=False, limits=Limits(message_bytes=1024 * 1024))
    raw = await connect(served, None, window_bytes=WINDOW_BYTES)
    await raw.opened(f"Authorization: Bearer {plane.token('dev1')}")
    raw.served = served
    raw.reader._transport.pause_reading()
    raw.read_on = raw.reader._transport.resume_reading
    return raw


def connection_of(served, device="dev1"):
    return served.adapter._by_device[device]


def fill(plane, served, until_held="command"):
    """Pushes until the transport of ``dev1`` is full."""
    number = 0
    while connection_of(served).writable:
        number += 1
        plane.command("dev1", {"id": f"{until_held}-{number}", "respond": "result", "args": {"blob": "x" * 60_000}})
    return number


def blink(number):
    """A command that wants no answer: it is over for the plane when it is handed over."""
    body = {"id": f"blink-{number}", "respond": "none", "args": {}}
    return Downlink(type=messages.COMMAND, subject="dev1", body=body)


async def quick(connect, plane, served):
    raw = await connect(served, None)
    await raw.opened(f"Authorization: Bearer {plane.token('dev2')}")
    raw.say(op="telemetry", id=1, body={"t": 1})
    return (await raw.json())["ok"]


async def test_of_state_the_newest_is_told_and_every_command_and_memory_stays(slow, connect, plane, until):
    filled = fill(plane, slow.served)
    connection = connection_of(slow.served)
    tracemalloc.start()
    for version in range(1, 2001):
        plane.desire("dev1", version, {"interval": version, "blob": "y" * 10_000})
        plane.offer("dev1", {"offer": {"version": str(version)}, "blob": "z" * 10_000})
    for number in range(5):
        plane.command("dev1", {"id": f"late-{number}", "respond": "result", "args": {}})
    held, grown = connection._downlinks.held, tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert await quick(connect, plane, slow.served)
    slow.read_on()

    told = []
    while not told or told[-1]["body"].get("id") != "late-4":
        told.append(await slow.json())
    assert held == 3
    assert connection.transport.get_write_buffer_size() < 600_000
    assert grown < 2_000_000
    assert [one["body"]["version"] for one in told if one["op"] == "twin.desired"] == [2000]
    assert [one["body"]["offer"]["version"] for one in told if one["op"] == "firmware"] == ["2000"]
    commands = {one["body"]["id"] for one in told if one["op"] == "command"}
    assert commands == {f"command-{number + 1}" for number in range(filled)} | {f"late-{number}" for number in range(5)}
    assert slow.served.counted["websocket_slow_consumer"] == 0
    plane.desire("dev1", 2001, {})
    assert (await slow.json())["body"]["version"] == 2001


async def test_what_the_plane_does_not_tell_again_is_kept(slow, plane):
    fill(plane, slow.served)
    plane.cancel("dev1", "command-1")
    for number in range(3):
        plane.push(blink(number))
    slow.read_on()

    told = []
    while not told or told[-1]["body"].get("id") != "blink-2":
        told.append(await slow.json())
    assert [one["target"] for one in told if one["op"] == "command.cancel"] == ["command-1"]
    assert [one["body"]["id"] for one in told if one["body"].get("respond") == "none"] == [
        "blink-0",
        "blink-1",
        "blink-2",
    ]


async def test_more_than_may_be_kept_ends_the_connection(slow, plane, until):
    fill(plane, slow.served)
    for number in range(KEPT + 1):
        plane.push(blink(number))
    slow.read_on()

    assert await slow.closed() == (1013, "too many messages wait for this device")
    assert slow.served.counted["websocket_slow_consumer"] == 1


async def test_replies_wait_for_a_device_that_does_not_read_them_and_all_come(slow, plane, until):
    plane.report("dev1", 7, {"blob": "x" * 20_000})
    for number in range(200):
        slow.say(op="twin.get", id=number)
    await until(lambda: not connection_of(slow.served).writable)
    await asyncio.sleep(0.1)
    buffered, asked = connection_of(slow.served).transport.get_write_buffer_size(), len(plane.calls)
    slow.read_on()

    assert [(await slow.json())["re"] for _ in range(200)] == list(range(200))
    assert buffered < 600_000
    assert asked < 200


async def test_draining_does_not_wait_for_a_device_that_does_not_read(slow, plane, until):
    plane.report("dev1", 7, {"blob": "x" * 200_000})
    for number in range(64):
        slow.say(op="twin.get", id=number)
    await until(lambda: not connection_of(slow.served).writable)

    await asyncio.wait_for(slow.served.adapter.drain(), PATIENCE_S)


@pytest.fixture
async def watched(serve, connect, plane):
    """As ``slow``, where a peer that takes nothing is cut off after half a second."""
    served = await serve(tls=False, listeners=ListenerLimits(unread_s=0.5))
    raw = await connect(served, None, window_bytes=WINDOW_BYTES)
    await raw.opened(f"Authorization: Bearer {plane.token('dev1')}")
    raw.served = served
    return raw


async def test_a_device_that_reads_nothing_is_cut_off_and_no_other(watched, connect, plane, until):
    watched.reader._transport.pause_reading()
    fill(plane, watched.served)
    assert await quick(connect, plane, watched.served)
    for _ in range(100):
        await watched.served.clock.advance(1)
        await asyncio.sleep(0.05)
        if watched.served.adapter.connections == 1:
            break

    assert list(watched.served.adapter._by_device) == ["dev2"]
    assert await quick(connect, plane, watched.served)


async def test_a_device_that_reads_a_little_all_the_while_stays(watched, plane):
    fill(plane, watched.served)
    transport, read = watched.reader._transport, 0
    watched.reader._limit = 2**30  # so that the reader itself never pauses the transport
    for _ in range(20):
        transport.resume_reading()
        await asyncio.sleep(0.002)
        transport.pause_reading()
        await watched.served.clock.advance(1)
        await asyncio.sleep(0.08)
        read = len(watched.reader._buffer)

    assert read > 0
    assert list(watched.served.adapter._by_device) == ["dev1"]
