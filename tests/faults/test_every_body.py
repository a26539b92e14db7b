"""Every body of the table, with bad members, over HTTP and MQTT: refused alike, counted once, kept once."""

import aiohttp
import pytest

from fleetcore.model.message import Direction
from fleetcore.wire import messages
from tests.wire.test_messages import BAD, NUMBERS, TEXTS

BEYOND = [
    *((row, name, info.le + max(1, abs(info.le) * 1e-6)) for row, name, info in NUMBERS if info.le < 2**52),
    *((row, name, info.ge - 1) for row, name, info in NUMBERS if info.ge > -(2**52)),
    *((row, name, "x" * (info.max_length + 1)) for row, name, info in TEXTS),
]
#: Enrolling and reads without a body are asked in ways of their own.
CASES = [case for case in (*BAD, *BEYOND) if case[0] not in (messages.ENROLL, messages.TIME)]


@pytest.fixture
async def server(in_process):
    async with in_process(coap=True) as running:
        running.secrets = await running.device("d")
        await running.manager.set_desired("d", {"interval": 60})
        running.command = (await running.manager.send_command("d", "reboot"))["id"]
        yield running


async def _newest(fleet):
    letters = await fleet.dead_letters.list()
    return letters[-1] if letters else None


@pytest.mark.parametrize("kind", ["http", "mqtt", "coap", "oscore"])
async def test_a_bad_member_is_refused_with_its_place_counted_once_and_kept_once(server, kind):
    fleet = server.fleet
    async with server.client(kind, server.secrets) as device:
        for row, name, value in CASES:
            body = {**row.example, name: value}
            target = server.command if row is messages.COMMAND_RESULT else None
            counts, letter = dict(fleet.refusals.counts), await _newest(fleet)

            if kind == "mqtt" and row.direction is Direction.CALL:
                reply = await device.request(row, body)
            else:
                reply = await device.send(row, body, target=target)

            error = reply.error
            assert error is not None, (row, name, value)
            moved = {key: count - counts.get(key, 0) for key, count in fleet.refusals.counts.items()}
            assert {key: count for key, count in moved.items() if count} == {(kind, error["code"]): 1}, (row, name)
            kept = await _newest(fleet)
            assert kept.number == (letter.number + 1 if letter else 0), (row, name)
            assert (kept.operation, kept.code, kept.device) == (row.name, error["code"], "d")
            assert kept.reason
            if kind in {"http", "coap", "oscore"}:
                assert [fault["pointer"] for fault in error["errors"]] == [f"/{name}"], (row, name, value)
                assert name in error["detail"]


@pytest.mark.parametrize("kind", ["http", "mqtt", "coap", "oscore"])
async def test_what_an_adapter_refuses_by_itself_is_counted_and_kept_too(server, kind):
    fleet = server.fleet
    async with server.client(kind, server.secrets) as device:
        too_long = b'{"heat": 1}' + b" " * fleet.limits.message_bytes

        reply = await device.send(messages.TELEMETRY, too_long)

        assert reply.error["code"] == "limit_exceeded"
        assert fleet.refusals.counts == {(kind, "limit_exceeded"): 1}
        kept = await _newest(fleet)
        assert (kept.operation, kept.code, kept.whole) == ("telemetry", "limit_exceeded", kind != "mqtt")


@pytest.mark.parametrize("declared", ["text/plain", "Application/JSON; charset=utf-16", "application/json, text/plain"])
async def test_a_body_of_a_type_that_is_not_read_is_refused_with_what_is_read(server, declared):
    connector = aiohttp.TCPConnector(ssl=server.secrets.tls())
    async with aiohttp.ClientSession(connector=connector, headers={"Content-Type": declared}) as http:
        for path in ("telemetry", "location", "status", "twin/ack", f"commands/{server.command}/result", "leaf"):
            async with http.post(f"{server.http}/device/v1/{path}", data=b"{}") as response:
                problem = await response.json()

            assert (path, response.status, problem["code"]) == (path, 415, "media_type_unsupported")
            assert "application/json" in problem["detail"].replace(repr(declared.lower()), "")


@pytest.mark.parametrize("declared", ["application/json", "Application/JSON", "APPLICATION/JSON; charset=UTF-8", None])
async def test_json_is_read_strictly_however_it_is_declared(server, declared):
    headers = {} if declared is None else {"Content-Type": declared}
    connector = aiohttp.TCPConnector(ssl=server.secrets.tls())
    async with aiohttp.ClientSession(connector=connector, skip_auto_headers=["Content-Type"]) as http:
        for body in (b'{"heat": 1, "heat": 2}', b'{"a":' * 5_000 + b"1" + b"}" * 5_000, b'{"heat": NaN}'):
            for path in ("telemetry", "location", "twin/ack"):
                async with http.post(f"{server.http}/device/v1/{path}", data=body, headers=headers) as response:
                    problem = await response.json()

                assert (path, response.status, problem["code"]) == (path, 400, "payload_unreadable"), body[:30]
