"""Long polls, closing down, and the settings that decide where we listen."""

import asyncio
import asyncio.sslproto
import subprocess
import sys

import pytest
from fleetcore_http.config import HttpConfig
from fleetcore_http.plugin import fleetcore_protocols, open_http

from fleetcore.errors import ConfigError, NotReady
from fleetcore.testing import context
from fleetcore.testing.patience import PATIENCE_S

POLL = ("GET /device/v1/commands?wait=55 HTTP/1.1", "Host: x")


async def test_a_poll_answers_as_soon_as_a_command_arrives(served, connect, plane, until):
    raw = await connect(served)
    await raw.say(*POLL)
    await until(lambda: plane.polls)

    plane.command("dev1", {"id": "c1"})

    answer = await raw.answer()
    assert (answer.status, answer.json["commands"]) == (200, [{"id": "c1"}])


async def test_a_poll_whose_peer_has_gone_ends(served, connect, plane, until):
    raw = await connect(served)
    await raw.say(*POLL)
    await until(lambda: plane.polls)

    raw.writer.transport.abort()

    await until(lambda: not plane.polls)


async def test_draining_answers_polls_at_once_and_refuses_new_connections(served, connect, plane, until):
    raw = await connect(served)
    await raw.say(*POLL)
    await until(lambda: plane.polls)

    async with asyncio.timeout(45):  # less than the poll would last
        await served.adapter.drain()

    assert (await raw.answer()).status == 204
    with pytest.raises(OSError):
        await connect(served)


async def test_draining_waits_for_the_message_under_way(served, connect, plane, until):
    plane.hold()
    raw = await connect(served)
    await raw.say("POST /device/v1/telemetry HTTP/1.1", "Host: x", "Content-Length: 2", body=b"{}")
    await until(lambda: plane.waiting)
    draining = asyncio.create_task(served.adapter.drain())
    await asyncio.sleep(0.05)
    assert not draining.done()

    plane.commit()

    async with asyncio.timeout(PATIENCE_S):
        await draining
    assert (await raw.answer()).status == 204
    assert len(plane.messages) == 1


async def test_draining_waits_for_a_message_whose_body_came_late(served, connect, plane, until):
    plane.hold()
    raw = await connect(served)
    await raw.say("POST /device/v1/telemetry HTTP/1.1", "Host: x", "Content-Length: 2", body=b"{")
    await until(lambda: any(one.reading_body for one in served.adapter._server.open))
    raw.writer.write(b"}")
    await until(lambda: plane.waiting)
    draining = asyncio.create_task(served.adapter.drain())
    await asyncio.sleep(0.05)

    plane.commit()
    await draining

    assert (await raw.answer()).status == 204


async def test_draining_does_not_wait_for_idle_connections_or_unfinished_bodies(served, connect, plane, until):
    idle, slow = await connect(served), await connect(served)
    await idle.say("GET /device/v1/ HTTP/1.1", "Host: x")
    await idle.answer()
    await slow.say("POST /device/v1/telemetry HTTP/1.1", "Host: x", "Content-Length: 9", body=b"{}")
    await until(lambda: any(one.reading_body for one in served.adapter._server.open))

    async with asyncio.timeout(PATIENCE_S):
        await served.adapter.drain()

    assert (await idle.rest(), await slow.rest()) == (b"", b"")
    assert plane.arrived == []


async def test_tls_buffers_are_one_record(served):
    assert asyncio.sslproto.SSLProtocol.max_size == 16384


async def test_port_0_is_resolved_in_the_endpoint(served):
    [endpoint] = served.adapter.endpoints

    assert endpoint.startswith("https://127.0.0.1:")
    assert served.port > 0


@pytest.mark.parametrize(
    "listen",
    [
        "http://0.0.0.0:8080",
        "http://fleet.example:80",
        "http://192.0.2.1",
        "ftp://127.0.0.1",
        "127.0.0.1:80",
        "https://",
        "https://127.0.0.1:99999",
        "https://127.0.0.1/path",
    ],
)
def test_an_unsafe_or_unreadable_listen_is_refused_with_a_remedy(listen):
    with pytest.raises(ConfigError):
        HttpConfig(listen=listen).listener()


@pytest.mark.parametrize("listen", ["http://127.0.0.1:0", "http://[::1]:80", "http://localhost:80", "https://0.0.0.0"])
def test_plaintext_is_for_the_loopback(listen):
    assert HttpConfig(listen=listen).listener().tls is listen.startswith("https")


@pytest.mark.parametrize("name", ["idle_s", "header_timeout_s", "body_timeout_s"])
def test_a_time_of_nothing_is_refused(name):
    with pytest.raises(ConfigError, match=name):
        HttpConfig(**{name: 0}).check()


async def test_a_proxy_that_is_no_address_is_refused(served, plane):
    config = HttpConfig(listen="http://127.0.0.1:0", trusted_proxies=("proxy.example",))
    with pytest.raises(ConfigError, match="trusted_proxies"):
        async with open_http(config, context("http", clock=served.clock), plane, plane):
            pass


async def test_https_without_a_ca_says_what_to_do(served, plane):
    with pytest.raises(ConfigError, match="fleetcore init"):
        async with open_http(
            HttpConfig(listen="https://127.0.0.1:0"), context("http", clock=served.clock), plane, plane
        ):
            pass


async def test_a_port_in_use_is_not_ready_so_that_it_is_tried_again(served, plane):
    with pytest.raises(NotReady, match="cannot be bound"):
        async with open_http(
            HttpConfig(listen=f"http://127.0.0.1:{served.port}"), context("http", clock=served.clock), plane, plane
        ):
            pass


def test_the_offer_names_what_the_core_needs():
    [offer] = fleetcore_protocols()

    assert (offer.name, offer.config_class, offer.opener) == ("http", HttpConfig, open_http)
    assert offer.demo == {"listen": "https://127.0.0.1:0"}


def test_loading_the_plugin_loads_no_http_stack():
    code = "import sys, fleetcore_http.plugin; print([m for m in ('aiohttp', 'yarl') if m in sys.modules])"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
