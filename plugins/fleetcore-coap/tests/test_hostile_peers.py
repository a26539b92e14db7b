"""What strangers and broken devices send: nothing goes through, little is kept, and the others are served on."""

import asyncio
import socket
from random import Random

import pytest
from fleetcore_coap.codec import Kind, Method, Option, Packet, encode
from fleetcore_coap.config import CoapConfig
from fleetcore_coap.plugin import open_client

from fleetcore.errors import ConfigError
from fleetcore.interfaces.waits import end_tasks
from fleetcore.listening.limits import ListenerLimits
from fleetcore.wire import messages


@pytest.fixture
def stranger(served):
    """A socket that is connected to the listener."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as each:
        each.setblocking(False)
        each.connect(("127.0.0.1", served.port))
        yield each


async def answers(stranger, served, authority):
    """What came back, once a device that came after was served: then all before it is dealt with."""
    async with open_client(served.url, authority.secrets("dev1")) as device:
        reply = await device.send(messages.TELEMETRY, {"t": 1})
    assert reply.error is None
    found = []
    while True:
        try:
            found.append(stranger.recv(4096))
        except BlockingIOError:
            return found


async def test_datagrams_of_a_stranger_are_dropped_without_an_answer(served, stranger, authority):
    random = Random(24)
    for length in [0, 1, 12, 13, 14, 60, 1400, 8000] * 20:
        stranger.send(random.randbytes(length))
    for content in (20, 21, 23):
        stranger.send(bytes([content]) + b"\xfe\xfd\x00\x01" + bytes(6) + b"\x00\x10" + bytes(16))
    stranger.send(encode(Packet(kind=Kind.CON, code=Method.GET, mid=1, options=((Option.URI_PATH, b"ca"),))))

    assert await answers(stranger, served, authority) == []
    assert served.adapter.connections <= 1


async def test_a_device_that_restarts_on_its_port_is_let_in_and_its_old_association_ends(
    served, plane, authority, until
):
    where = {}

    async def connect(local):
        device = open_client(served.url, authority.secrets("dev1"))
        loop = asyncio.get_running_loop()
        original = loop.create_datagram_endpoint

        async def bound(factory, **given):
            given.pop("remote_addr")
            each = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            each.bind(("127.0.0.1", local))
            each.connect(("127.0.0.1", served.port))
            each.setblocking(False)
            where["port"] = each.getsockname()[1]
            return await original(factory, sock=each)

        loop.create_datagram_endpoint = bound
        try:
            return await device.__aenter__()
        finally:
            loop.create_datagram_endpoint = original

    first = await connect(0)
    await first.send(messages.TELEMETRY, {"t": 1})
    first._channel._transport.abort()  # it vanishes without a goodbye
    first._channel._lost = True
    await asyncio.sleep(0)
    second = await connect(where["port"])
    reply = await second.send(messages.TELEMETRY, {"t": 2})

    assert reply.error is None
    assert served.adapter.connections == 1
    assert len(plane.sessions) == 1
    await second.__aexit__(None, None, None)
    first._channel._ticking.cancel()


async def test_a_forged_hello_takes_nothing_from_a_living_association(served, authority):
    async with open_client(served.url, authority.secrets("dev1")) as device:
        other = open_client(served.url, authority.secrets("dev2"))
        sent = []
        other._channel._datagram = sent.append
        # The hello goes out from the device's own address, as a forger would have it look.
        opening = asyncio.ensure_future(other.__aenter__())
        while not sent:
            await asyncio.sleep(0)
        device._channel._transport.sendto(sent[0])
        reply = await device.send(messages.TELEMETRY, {"t": 1})
        await end_tasks(opening)

    assert reply.error is None


async def test_associations_are_bounded_and_the_most_silent_one_ends(serve, plane, authority, until):
    served = await serve(associations=2, listeners=ListenerLimits(per_address=10))
    devices = []
    for _ in range(4):
        device = open_client(served.url, authority.secrets("dev1"))
        devices.append(await device.__aenter__())

    assert served.adapter.connections == 2
    assert (await devices[3].send(messages.TELEMETRY, {"t": 1})).error is None
    for device in devices:
        await device.__aexit__(None, None, None)


async def test_an_association_that_is_silent_ends(serve, plane, authority, until):
    served = await serve(idle_s=600.0)
    async with open_client(served.url, authority.secrets("dev1")) as device:
        await device.send(messages.TELEMETRY, {"t": 1})
        for _ in range(3):
            await served.clock.advance(250.0)
        await until(lambda: served.adapter.connections == 0)

    assert plane.sessions == []


@pytest.mark.parametrize(
    "url", ["coap://0.0.0.0:5683", "coap://192.0.2.1", "https://127.0.0.1", "coaps://", "coaps://h:1/x", "coaps://h:x"]
)
def test_what_cannot_be_listened_on_safely_is_refused(url):
    with pytest.raises(ConfigError):
        CoapConfig(listen=url).listener()
