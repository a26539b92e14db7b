"""What keeps a connection open and what ends it: rights, takeover, pings, back-pressure, drain and stop."""

import asyncio

import pytest
from fleetcore_websocket.config import WebSocketConfig
from fleetcore_websocket.plugin import open_websocket

from fleetcore.errors import ConfigError, NotReady
from fleetcore.testing import context
from fleetcore.testing.protocol_contract import COMMAND

# Opcodes (RFC 6455 §11.8).
CLOSE, PING, PONG, TEXT = 8, 9, 10, 1


async def test_revocation_ends_the_connection_at_once_and_no_other(served, connect, device, plane):
    other = await connect(served, "dev2")
    await other.opened()

    plane.revoke("dev1")

    assert await device.closed() == (4403, "device_revoked")
    device.say(op="telemetry", id=1, body={"t": 1})
    other.say(op="telemetry", id=1, body={"t": 2})
    assert (await other.json())["ok"]
    assert plane.bodies == [b'{"t": 2}']


async def test_what_is_sent_after_the_revocation_is_not_taken(served, device, plane, until):
    plane.hold()
    device.say(op="telemetry", id=1, body={"t": 1})
    await until(lambda: plane.waiting)

    plane.revoke("dev1")
    device.say(op="telemetry", id=2, body={"t": 2})
    await device.closed()
    plane.commit()

    assert plane.bodies == []


async def test_the_newest_connection_of_a_device_stands(served, connect, device, plane, until):
    newer = await connect(served)
    await newer.opened()

    assert await device.closed() == (4409, "session_taken_over")
    device.write((CLOSE, b"\x03\xe8"))
    await until(lambda: served.adapter.connections == 1)
    newer.say(op="telemetry", id=1, body={"t": 1})
    assert (await newer.json())["ok"]
    assert [session.identity for session in plane.sessions] == ["dev1"]


async def test_a_credential_that_is_refused_takes_nothing_over(served, connect, device):
    refused = await connect(served, None)
    answer = await refused.ask("Authorization: Bearer fc_dev_dev1_0000")

    device.say(op="telemetry", id=1, body={"t": 1})
    assert answer.status == 401
    assert (await device.json())["ok"]


async def test_a_device_that_closes_is_offline(served, device, plane, until):
    device.write((CLOSE, b"\x03\xe8bye"))

    assert await device.closed() == (1000, "bye")
    assert await device.rest() == b""
    await until(lambda: not plane.sessions)
    assert (plane.opened[0].ended, served.adapter.connections) == ("closed", 0)


@pytest.mark.parametrize("step", ["connect", "request", "authentication", "open", "message", "reply"])
async def test_a_device_that_vanishes_leaves_nothing_open(served, connect, plane, until, step):
    raw = await connect(served)
    await until(lambda: served.adapter.connections == 1)
    if step == "request":
        raw.writer.write(b"GET /device")
    if step == "authentication":
        plane.hold_authentication()
        asking = asyncio.ensure_future(raw.ask())
        await until(lambda: plane.authentications)
    if step in {"open", "message", "reply"}:
        await raw.opened()
    if step == "message":
        raw.write(raw.encoded(TEXT, b'{"op":"telemetry"')[:-3])
    if step == "reply":
        plane.hold()
        raw.say(op="telemetry", id=1, body={"t": 1})
        await until(lambda: plane.waiting)

    raw.writer.transport.abort()

    plane.let_in()  # while it is asked who it is, nothing of a connection is read, not even its end
    await until(lambda: served.adapter.connections == 0)
    plane.commit()
    await until(lambda: not plane.sessions)
    if step == "authentication":
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await asking


async def test_a_silent_device_is_pinged_and_one_that_answers_stays(served, device, until):
    for _ in range(3):
        await served.clock.advance(32)
        assert await device.frame() == (PING, b"")
        device.write((PONG,))
        await until(lambda: next(iter(served.adapter._all)).heard)

    device.say(op="telemetry", id=1, body={"t": 1})
    assert (await device.json())["ok"]


async def test_a_device_that_does_not_answer_a_ping_is_disconnected(served, device, plane, until):
    await served.clock.advance(32)
    await served.clock.advance(32)

    assert await device.frame() == (PING, b"")
    assert await device.closed() == (1011, "no answer to a ping")
    await served.clock.advance(6)
    await until(lambda: served.adapter.connections == 0 and not plane.sessions)


async def test_sixty_four_requests_are_open_and_then_nothing_is_read(device, plane, until):
    plane.hold()
    for number in range(80):
        device.say(op="telemetry", id=number, body={"n": number})
    await until(lambda: len(plane.waiting) == 64)
    await asyncio.sleep(0.1)
    read = len(plane.arrived)
    plane.commit()

    assert [(await device.json())["re"] for _ in range(80)] == list(range(80))
    assert read == 64


async def test_calls_count_as_open_requests_too(device, plane, until):
    plane.hold_calls()
    for number in range(70):
        device.say(op="twin.get", id=number)
    await until(lambda: len(plane.calls) == 64)
    await asyncio.sleep(0.1)
    read = len(plane.calls)
    plane.answer_calls()

    assert {(await device.json())["re"] for _ in range(70)} == set(range(70))
    assert read == 64


async def test_replies_name_what_waits(device, plane):
    plane.desire("dev1", 12, {"interval": 60})
    plane.command("dev1", COMMAND)
    device.say(op="status", id=1, body={"state": "online"})

    came = [await device.json() for _ in range(3)]
    assert [one.get("op") for one in came] == ["twin.desired", "command", None]
    assert came[2]["pending"] == {"commands": 1, "desired": 12}


async def test_a_burst_asks_once_what_waits(device, plane, until):
    plane.hold()
    for number in range(20):
        device.say(op="telemetry", id=number, body={"n": number})
    await until(lambda: len(plane.waiting) == 20)
    plane.commit()
    for _ in range(20):
        await device.json()

    assert len(plane.pending_asked) < 20


async def test_what_is_for_a_leaf_names_it(device, plane):
    plane.command("leaf1", COMMAND)

    push = await device.json()
    assert (push["op"], push["device"], push["body"]["id"]) == ("command", "leaf1", "c-0001")


async def test_stopping_tells_devices_to_connect_again(authority, plane, connect):
    lent = context("websocket", tls=authority)
    async with open_websocket(WebSocketConfig(listen="wss://127.0.0.1:0"), lent, plane, plane) as adapter:
        raw = await connect(type("Served", (), {"url": adapter.endpoints[0], "port": _port(adapter)}))
        await raw.opened()

        async def leave():
            code = await raw.closed()
            raw.write((CLOSE, b"\x03\xf4"))
            return code

        leaving = asyncio.ensure_future(leave())
    assert await leaving == (1012, "the server is stopping")
    assert plane.sessions == []


def _port(adapter) -> int:
    return int(adapter.endpoints[0].split("/")[2].rpartition(":")[2])


@pytest.mark.parametrize("config", [
    {"listen": "ws://0.0.0.0:1"}, {"listen": "https://127.0.0.1:1"}, {"listen": "wss://127.0.0.1:x"},
    {"listen": "wss://127.0.0.1:0/path"}, {"listen": "wss://127.0.0.1:0", "origins": ("app.example",)},
    {"listen": "wss://127.0.0.1:0", "origins": ("https://app.example/",)}, {"listen": "wss://127.0.0.1:0", "ping_s": 0},
    {"listen": "wss://127.0.0.1:0", "trusted_proxies": ("proxy.example",)},
    {"listen": "wss://127.0.0.1:0", "trusted_proxies": ("10.0.0.0/7",)},
])  # fmt: skip
async def test_a_setting_that_is_none_is_refused_with_a_remedy(authority, plane, config):
    with pytest.raises(ConfigError) as caught:
        async with open_websocket(WebSocketConfig(**config), context("websocket", tls=authority), plane, plane):
            pass

    assert caught.value.remedy


async def test_a_fleet_without_a_ca_has_no_wss(plane):
    with pytest.raises(ConfigError, match="no CA"):
        async with open_websocket(WebSocketConfig(listen="wss://127.0.0.1:0"), context("websocket"), plane, plane):
            pass


async def test_an_address_that_is_taken_is_not_ready(authority, served, plane):
    config = WebSocketConfig(listen=f"wss://127.0.0.1:{served.port}")
    with pytest.raises(NotReady):
        async with open_websocket(config, context("websocket", tls=authority), plane, plane):
            pass
