"""The API where the reader leaves, and where it stops itself: within a second, with nothing kept of a request."""

import asyncio
import json
import logging
import ssl

import httpx
import pytest
from fleetcore_api.config import ApiConfig
from fleetcore_api.plugin import open_api

from fleetcore import IoTFleetManager
from fleetcore.client import AsyncFleetClient, wire
from fleetcore.errors import Conflict, FleetError
from fleetcore.testing.open_files import open_files
from fleetcore.testing.patience import PATIENCE_S, soonest

SENT = b'{"name": "blink", "wait_s": 600}'
#: Who → method, path, further headers, what is sent of the body, and its length.
REQUESTS = {
    "follows": ("GET", "/events", "", b"", 0),
    "waits": ("POST", "/devices/a/commands", "", SENT, len(SENT)),
    "waits with a key": ("POST", "/devices/a/commands", "Idempotency-Key: k\r\n", SENT, len(SENT)),
    "sends half a body": ("POST", "/groups", "", b"{", 100),
    "uploads": ("POST", "/firmware/artifacts", "Content-Type: application/octet-stream\r\n", b"x", 100),
}


@pytest.fixture
async def token(fleet, manager):
    await manager.register_device("a", "sensor")
    await fleet.operators.grant("op", "admin")
    return (await fleet.operators.create_token("op")).token


async def speak(url, token, who, tls=None):
    method, path, more, body, length = REQUESTS[who]
    host, port = url.partition("://")[2].split(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=tls)
    head = f"{method} /api/v1{path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n{more}"
    writer.write(f"{head}Content-Length: {length}\r\n\r\n".encode() + body)
    return reader, writer


def requests():
    return [task for task in asyncio.all_tasks() if "run_asgi" in repr(task.get_coro())]


async def under_way(count):
    """Returns once so many requests are, and had time to get to where they wait."""
    async with asyncio.timeout(PATIENCE_S):
        while len(requests()) != count:
            await asyncio.sleep(0.02)
    await asyncio.sleep(0.3)
    assert len(requests()) == count


@pytest.mark.parametrize("who", REQUESTS)
async def test_of_a_reader_that_leaves_nothing_is_kept_after_a_second(served, token, who):
    loop, before = asyncio.get_running_loop(), open_files()

    async def left():
        _, writer = await speak(served.url, token, who)
        await under_way(1)
        writer.transport.abort()
        begun = loop.time()
        async with asyncio.timeout(PATIENCE_S):
            while requests() or open_files() - before:
                await asyncio.sleep(0.02)
        return loop.time() - begun

    assert await soonest(left, 1) < 1


async def test_an_api_that_stops_answers_who_waits_and_ends_streams(fleet, token, caplog):
    loop, answers = asyncio.get_running_loop(), {}

    async def stopped():
        async with open_api(ApiConfig(listen="http://127.0.0.1:0"), fleet._context("api"), fleet) as server:
            opened = {who: await speak(server.url, token, who) for who in REQUESTS}
            await under_way(len(opened))
            begun = loop.time()
        took_s = loop.time() - begun
        async with asyncio.timeout(PATIENCE_S):
            said = {who: await reader.read() for who, (reader, _) in opened.items()}
        for _, writer in opened.values():
            writer.close()
        assert requests() == []
        answers.update({who: text.partition(b"\r\n\r\n") for who, text in said.items()})
        return took_s

    assert await soonest(stopped, 1) < 1
    status = {who: int(head.split()[1]) for who, (head, _, _) in answers.items()}
    assert status == {
        "follows": 200, "waits": 201, "waits with a key": 201, "sends half a body": 503, "uploads": 503,
    }  # fmt: skip
    assert json.loads(answers["waits"][2])["finished_at"] is None
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_reader_that_does_not_read_holds_no_end_up(fleet, manager, token, caplog):
    loop = asyncio.get_running_loop()

    async def stopped():
        async with open_api(ApiConfig(listen="http://127.0.0.1:0"), fleet._context("api"), fleet) as server:
            reader, writer = await speak(server.url, token, "follows")
            await reader.readuntil(b"retry: 2000\n\n")
            writer.transport.pause_reading()
            for number in range(300):
                await manager.update_device("a", name=f"{number}", reason="x" * 1000)
                await manager.update_device("a", attributes={"text": "x" * 10_000}, reason="x" * 1000)
            begun = loop.time()
        took_s = loop.time() - begun
        writer.transport.abort()
        assert requests() == []
        return took_s

    assert await soonest(stopped, 2) < 2


async def test_one_that_does_not_close_its_end_of_tls_holds_no_end_up(tmp_path, caplog):
    loop = asyncio.get_running_loop()
    tls = ssl.create_default_context()
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    async with IoTFleetManager(tmp_path) as manager:
        fleet = await manager.open()
        await fleet.operators.grant("op", "admin")
        token = (await fleet.operators.create_token("op")).token

        async def stopped():
            async with open_api(ApiConfig(listen="https://127.0.0.1:0"), fleet._context("api"), fleet) as server:
                _, writer = await speak(server.url, token, "uploads", tls)
                await under_way(1)
                writer.transport.pause_reading()
                begun = loop.time()
            took_s = loop.time() - begun
            writer.transport.abort()
            return took_s

        assert await soonest(stopped, 1.5) < 1.5
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


# --- a stream that is refused, or fails, on its way ---------------------------------------------------------------------


async def raising(error):
    raise error
    yield


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (Conflict("It is over", remedy="Begin again"), Conflict, Conflict.default_code),
        (ZeroDivisionError("ours"), FleetError, "internal"),
    ],
)
async def test_the_refusal_of_a_stream_reaches_the_client(fleet, served, token, monkeypatch, error, kind, code):
    async def invoked(_call, _caller, _values):
        return raising(error)

    monkeypatch.setattr("fleetcore_api.endpoints.invoke", invoked)
    async with AsyncFleetClient(served.url, token) as client, asyncio.timeout(PATIENCE_S):
        with pytest.raises(FleetError) as raised:
            await anext(client.watch_events())

    assert (type(raised.value), raised.value.code) == (kind, code)


async def test_a_stream_that_is_cut_off_is_not_asked_for_at_once_again(monkeypatch):
    asked = 0

    def answer(_request):
        nonlocal asked
        asked += 1
        return httpx.Response(200, content=b"retry: 2000\n\n")

    monkeypatch.setattr(wire, "AGAIN_S", 0.2)
    async with AsyncFleetClient("http://127.0.0.1:1", "token") as client:
        client._http = httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://127.0.0.1:1")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await anext(client.watch_events())

    assert asked <= 3
