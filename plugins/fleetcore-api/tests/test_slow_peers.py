"""Peers of the API that are slow, or say nothing: they are cut off by its deadlines, and no other request notices."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from fleetcore_api.config import ApiConfig
from fleetcore_api.plugin import open_api

from fleetcore.testing.patience import PATIENCE_S

HEAD = b"POST /api/v1/groups HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.fixture
async def token(fleet):
    await fleet.operators.grant("op", "admin")
    return f"Authorization: Bearer {(await fleet.operators.create_token('op')).token}\r\n".encode()


@pytest.fixture(params=["h11", "httptools"])
async def dial(fleet, request):
    """Opens a connection on which bytes are written by hand."""
    writers = []
    config = ApiConfig(listen="http://127.0.0.1:0", parser=request.param)
    async with open_api(config, fleet._context("api"), fleet) as server:

        @asynccontextmanager
        async def one():
            reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
            writers.append(writer)
            yield reader, writer
            writer.transport.abort()

        yield one


async def said(writer, data, server_side=0.05):
    writer.write(data)
    await writer.drain()
    await asyncio.sleep(server_side)  # the server reads it; how long it then waits is by the movable clock


async def rest(reader):
    async with asyncio.timeout(PATIENCE_S):
        try:
            return await reader.read()
        except ConnectionError:
            return b""


@pytest.mark.parametrize("start", [b"", b"GET /api/v1/devices HT", HEAD])
async def test_a_head_that_does_not_come_is_cut_off(dial, clock, start):
    async with dial() as (reader, writer):
        await said(writer, start)

        await clock.advance(11)

        assert await rest(reader) == b""


async def test_a_body_that_stops_is_cut_off_and_what_was_under_way_leaves_nothing(dial, clock, token, fleet):
    async with dial() as (reader, writer):
        await said(writer, HEAD + token + b'Content-Length: 100\r\n\r\n{"id": ')

        await clock.advance(31)

        assert b"200 OK" not in await rest(reader)
    assert fleet.groups.list() == []


async def test_a_body_that_comes_in_pieces_has_its_time_for_each(dial, clock, token):
    body = b'{"id": "lab"}'
    async with dial() as (reader, writer):
        await said(writer, HEAD + token + b"Content-Length: %d\r\n\r\n" % len(body))
        for piece in (body[:5], body[5:9]):
            await clock.advance(20)
            await said(writer, piece)
        await clock.advance(20)
        writer.write(body[9:])
        async with asyncio.timeout(PATIENCE_S):
            answer = await reader.readuntil(b"\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 201"), answer


async def test_an_answer_that_takes_longer_than_the_deadlines_is_no_fault_of_its_peer(dial, clock, token):
    async with dial() as (reader, writer):
        await said(writer, b"GET /api/v1/events HTTP/1.1\r\nHost: x\r\n" + token + b"\r\n")
        async with asyncio.timeout(PATIENCE_S):
            head = await reader.readuntil(b"\r\n\r\n")

        await clock.advance(120)
        await asyncio.sleep(0.05)

        assert head.startswith(b"HTTP/1.1 200")
        assert not reader.at_eof()


async def test_a_live_stream_that_is_not_read_is_cut_off(dial, clock, token, manager, fleet):
    handshake = (
        b"GET /api/v1/live HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        b"Sec-WebSocket-Protocol: fleetcore.live.v1\r\n" + token + b"\r\n"
    )
    (share,) = fleet.listening.shares
    for number in range(20):
        await manager.create_device(f"d-{number}", type="sensor", attributes={"blob": "x" * 30_000})
    async with dial() as (reader, writer):
        await said(writer, handshake)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        for number in range(30):  # each tells 600 kB, which no buffer of a loopback connection takes in
            asked = b'{"op":"subscribe","id":"%d","to":"state","parts":["attributes"]}' % number
            await said(writer, b"\x81" + bytes([0x80 | len(asked)]) + bytes(4) + asked, server_side=0.01)
        writer.transport.pause_reading()
        assert share.open == 1
        async with asyncio.timeout(PATIENCE_S):
            while share.open:
                await clock.advance(5)
                await asyncio.sleep(0.01)
