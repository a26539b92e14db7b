"""Clients that vanish at every step, forged sources, tokens that come again: nothing is left over, nobody else is hurt."""

import asyncio

import pytest
from fleetcore_coap.codec import Block, Kind, Method, Option, Packet, encode
from fleetcore_coap.plugin import open_client

from fleetcore.interfaces.waits import end_tasks
from fleetcore.wire import messages

COMMAND = {"id": "c-1", "name": "reboot", "args": {}, "sequence": 1, "attempt": 1}
OBSERVE = [(Option.OBSERVE, b""), (Option.URI_PATH, b"d"), (Option.URI_PATH, b"c")]
TELEMETRY = [(Option.URI_PATH, b"d"), (Option.URI_PATH, b"t"), (Option.CONTENT_FORMAT, b"\x32")]


async def _in_a_handshake(served, authority, datagrams):
    """A client of which so many datagrams arrive, and that is gone then."""
    client = open_client(served.url, authority.secrets("dev1"))
    original, sent = client._channel._datagram, []

    def some(datagram):
        sent.append(datagram)
        if len(sent) <= datagrams:
            original(datagram)

    client._channel._datagram = some
    opening = asyncio.ensure_future(client.__aenter__())
    while len(sent) <= datagrams:
        await asyncio.sleep(0.001)
    await end_tasks(opening)
    client._channel.close()


@pytest.mark.parametrize("datagrams", [1, 2, 3])
async def test_a_client_that_vanishes_in_its_handshake_leaves_nothing(served, authority, plane, until, datagrams):
    await _in_a_handshake(served, authority, datagrams)
    for _ in range(40):
        await served.clock.advance(1.1)
    await until(lambda: not served.adapter._places.pending)

    assert plane.sessions == []


async def _first_block(wire, plane, until):
    wire.send(Method.POST, [*TELEMETRY, (Option.BLOCK1, Block(0, True, 0).encode())], b"x" * 16)
    await until(lambda: wire.heard)


async def _request_under_way(wire, plane, until):
    plane.hold()
    wire.send(Method.POST, TELEMETRY, b'{"t": 1}')
    await until(lambda: plane.waiting)


async def _observing(wire, plane, until):
    wire.send(Method.GET, OBSERVE)
    await until(lambda: plane.listening)


async def _notified(wire, plane, until):
    await _observing(wire, plane, until)
    plane.command("dev1", COMMAND)
    await until(lambda: len(wire.heard) >= 2)


async def _nothing_more(wire, plane, until):
    pass


@pytest.mark.parametrize("step", [_nothing_more, _first_block, _request_under_way, _observing, _notified])
async def test_a_client_that_vanishes_leaves_nothing_once_it_is_silent_for_long(
    serve, wires, authority, plane, until, step
):
    served = await serve(idle_s=600.0)
    wire = await wires(served=served)
    await step(wire, plane, until)
    wire.vanish()
    for _ in range(14):
        await served.clock.advance(50.0)
    plane.commit()
    await until(lambda: served.adapter.connections == 0 and not served.adapter._state.tasks)

    assert plane.sessions == []
    assert served.adapter._state.awake == set()
    assert (await plane_is_served(served, authority)) is None


async def plane_is_served(served, authority):
    async with open_client(served.url, authority.secrets("dev2")) as device:
        return (await device.send(messages.TELEMETRY, {"t": 1})).error


FORGED = {
    "an alert in plain": b"\x15\xfe\xfd\x00\x00\x00\x00\x00\x00\x00\x01\x00\x02\x02\x28",
    "a goodbye in plain": b"\x15\xfe\xfd\x00\x00\x00\x00\x00\x00\x00\x02\x00\x02\x01\x00",
    "an alert of its epoch": b"\x15\xfe\xfd\x00\x01\x00\x00\x00\x00\x00\x09\x00\x1a" + bytes(26),
    "data of its epoch": b"\x17\xfe\xfd\x00\x01\x00\x00\x00\x00\x00\x09\x00\x1a" + bytes(26),
    "data in plain": b"\x17\xfe\xfd\x00\x00\x00\x00\x00\x00\x00\x09\x00\x04abcd",
    "a change of ciphers": b"\x14\xfe\xfd\x00\x00\x00\x00\x00\x00\x00\x09\x00\x01\x01",
    "a handshake message": b"\x16\xfe\xfd\x00\x00\x00\x00\x00\x00\x00\x09\x00\x0c\x10" + bytes(11),
    "a request in plain": encode(Packet(kind=Kind.CON, code=Method.POST, mid=1, payload=b"x")),
    "nothing": b"",
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
async def test_a_datagram_with_a_devices_address_forged_does_nothing_to_its_association(
    served, authority, plane, forged
):
    async with open_client(served.url, authority.secrets("dev1")) as device:
        await device.send(messages.TELEMETRY, {"t": 1})
        for _ in range(3):
            device._channel._transport.sendto(forged)  # from the very address, as a forger would have it look
        reply = await device.send(messages.TELEMETRY, {"t": 2})

    assert reply.error is None
    assert len(plane.messages) == 2
    assert served.adapter.connections <= 1


async def test_a_token_that_comes_again_is_another_request_and_its_answers_are_told_apart_by_id(
    served, wires, plane, until
):
    wire = await wires()
    for mid in (7, 8, 7):
        wire.send(Method.POST, TELEMETRY, b'{"t": %d}' % mid, mid=mid)
        await until(lambda mid=mid: any(packet.mid == mid for packet in wire.heard))
    await until(lambda: len(wire.heard) == 3)

    assert [packet.mid for packet in wire.heard] == [7, 8, 7]
    assert plane.bodies == [b'{"t": 7}', b'{"t": 8}']  # the third is the first one, repeated


async def test_a_request_with_the_token_of_an_observation_leaves_it_as_it_is(served, wires, plane, until):
    wire = await wires()
    wire.send(Method.GET, OBSERVE, mid=1)
    await until(lambda: wire.heard)
    wire.send(Method.POST, TELEMETRY, b'{"t": 1}', mid=2)
    await until(lambda: len(wire.heard) == 2)
    plane.command("dev1", COMMAND)
    await until(lambda: len(wire.heard) == 3)

    assert b"c-1" in wire.heard[2].payload
    assert wire.heard[2].token == b"t"


async def test_tokens_of_two_devices_are_their_own(served, wires, plane, until):
    first, second = await wires("dev1"), await wires("dev2")
    for wire in (first, second):
        wire.send(Method.GET, OBSERVE, mid=1)
        await until(lambda wire=wire: wire.heard)
    plane.command("dev1", COMMAND)
    await until(lambda: len(first.heard) == 2)
    second.send(Method.POST, TELEMETRY, b'{"t": 1}', mid=1, token=b"u")
    await until(lambda: len(second.heard) == 2)

    assert b"c-1" in first.heard[1].payload
    assert all(b"c-1" not in packet.payload for packet in second.heard)
