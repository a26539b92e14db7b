"""What no device should send, on both real endpoints: answered by a code, stored nowhere, the connection still good.

First readings and names, then what is too long or not even a message.
"""

import asyncio
import gzip

import aiohttp
import pytest

from fleetcore.errors import CODES, NotFound
from fleetcore.testing.patience import PATIENCE_S
from fleetcore.wire import messages

#: ``message_bytes`` of these tests' servers.
_MAX = 65_536
_BATCH = b'{"time": 1750000000000, "values": {"heat": %s}}'

UNREADABLE = {
    "NaN": b'{"heat": NaN}',
    "Infinity": b'{"heat": Infinity}',
    "minus Infinity": b'{"heat": -Infinity}',
    "1e999": b'{"heat": 1e999}',
    "30,000 levels": b'{"values":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    "60,000 levels never closed": b"[" * 60_000,
    "eleven levels": b'{"heat":' + b"[" * 11 + b"]" * 11 + b"}",
    "a key twice": b'{"heat": 1, "heat": 2}',
    "a key twice further in": b'{"values": {"heat": 1, "heat": 2}}',
    "a key twice by an escape": b'{"heat": 1, "he\\u0061t": 2}',
    "5,000 digits": b'{"heat": ' + b"9" * 5000 + b"}",
    "2^64": b'{"heat": 18446744073709551616}',
    "a lone surrogate": b'{"heat": "\\ud800"}',
    "a lone surrogate in a key": b'{"\\ud800": 1}',
    "NUL": b'{"heat": "\x00"}',
    "an escaped NUL": b'{"heat": "\\u0000"}',
    "NUL in a key": b'{"he\\u0000at": 1}',
    "a byte order mark": b'\xef\xbb\xbf{"heat": 1}',
    "no UTF-8": b'{"heat": "\xff"}',
    "UTF-16": '{"heat": 1}'.encode("utf-16"),
    "trailing bytes": b'{"heat": 1}x',
    "two messages": b'{"heat": 1}{"heat": 2}',
    "half a message": b'{"heat": 1',
    "nothing": b"",
    "null": b"null",
    "random bytes": bytes(range(7, 256, 3)),
    "half a CBOR map": b"\xa2\x64heat\x01",
    "CBOR with a key twice": b"\xa2\x64heat\x01\x64heat\x02",
    "CBOR nested without end": b"\x9f" * 60_000,
}
REFUSED = {
    "the year 9999": (b'{"time": "9999-12-31T23:59:59Z", "values": {"heat": 1}}', "time_out_of_range"),
    "a negative time": (b'{"time": -5, "values": {"heat": 1}}', "time_unit"),
    "nanoseconds": (b'{"time": 1750000000000000000, "values": {"heat": 1}}', "time_unit"),
    "microseconds": (b'{"time": 1750000000000000, "values": {"heat": 1}}', "time_unit"),
    "seconds": (b'{"time": 1750000000, "values": {"heat": 1}}', "time_unit"),
    "tomorrow": (b'{"time": 3999999999999, "values": {"heat": 1}}', "time_in_future"),
    "a time without an offset": (b'{"time": "2026-01-01T00:00:00", "values": {"heat": 1}}', "time_invalid"),
    "a time in words": (b'{"time": "yesterday", "values": {"heat": 1}}', "time_invalid"),
    "a negative age": (b'{"age_ms": -5, "values": {"heat": 1}}', "time_out_of_range"),
    "both times": (b'{"time": 1750000000000, "age_ms": 5, "values": {"heat": 1}}', "time_ambiguous"),
    "a metric with a blank": (b'{"he at": 1}', "metric_name_invalid"),
    "a metric of 65 characters": (b'{"' + b"x" * 65 + b'": 1}', "metric_name_invalid"),
    "a metric that drops tables": (b'{"x\'; DROP TABLE series; --": 1}', "metric_name_invalid"),
    "an object for a value": (b'{"heat": {"deg": 1}}', "schema_invalid"),
    "null for a value": (b'{"heat": null}', "schema_invalid"),
    "a list of numbers": (b"[1, 2]", "schema_invalid"),
    "an unknown SenML field that must be understood": (b'[{"n": "heat", "v": 1, "x_": 2}]', "schema_invalid"),
    "CBOR NaN": (b"\xa1\x64heat\xf9\x7e\x00", "number_not_finite"),
    "CBOR Infinity": (b"\xa1\x64heat\xf9\x7c\x00", "number_not_finite"),
}


@pytest.fixture
async def server(in_process):
    async with in_process(coap=True) as running:
        running.secrets = await running.device("d")
        running.witness = await running.device("witness")
        yield running


async def _told(device):
    """The next message on ``errors``."""
    async for downlink in device.downlinks():
        if downlink.type is messages.ERRORS:
            return downlink.body
    raise AssertionError("the connection ended")


async def _unharmed(server, device):
    """The connection is as good as before, other devices are, and the store holds this and nothing else."""
    assert (await device.send(messages.TELEMETRY, _BATCH % b"20.5")).error is None
    async with server.client("http", server.witness) as witness:
        assert (await witness.send(messages.TELEMETRY, {"cold": 1})).error is None
    series = {(one["device"], one["metric"]) for one in await server.manager.list_series()}
    assert {("d", "heat"), ("witness", "cold")} <= series <= {("d", "heat"), ("witness", "cold"), ("d", "fine")}
    assert (await server.manager.query_telemetry("d", "heat")).value.tolist() == [20.5]


@pytest.mark.parametrize("kind", ["http", "mqtt", "mqtt 3.1.1", "coap", "oscore"])
async def test_what_cannot_be_read_is_refused_by_that_code(server, kind):
    async with server.client(kind, server.secrets) as device:
        for name, payload in UNREADABLE.items():
            reply = await device.send(messages.TELEMETRY, payload)

            if kind == "mqtt 3.1.1":
                assert (await _told(device))["code"] == "payload_unreadable", name
            else:
                assert (reply.status, reply.error["code"]) == (400, "payload_unreadable"), name
        await _unharmed(server, device)
    assert (await server.manager.get_status())["messages"]["rejected"] == {"payload_unreadable": len(UNREADABLE)}
    assert len(await server.manager.list_dead_letters()) == len(UNREADABLE)


@pytest.mark.parametrize("kind", ["http", "mqtt", "mqtt 3.1.1", "coap", "oscore"])
async def test_what_can_be_read_and_not_be_meant_is_refused_with_its_reason(server, kind):
    async with server.client(kind, server.secrets) as device:
        for name, (payload, code) in REFUSED.items():
            reply = await device.send(messages.TELEMETRY, payload)

            if kind == "mqtt 3.1.1":
                assert (await _told(device))["code"] == code, name
            else:
                assert (reply.status, reply.error["code"]) == (422, code), name
        await _unharmed(server, device)


@pytest.mark.parametrize("kind", ["http", "mqtt", "mqtt 3.1.1", "coap", "oscore"])
async def test_of_a_batch_with_one_bad_point_the_rest_is_stored_and_the_point_named(server, kind):
    batch = [{"fine": 1}, {"time": 5, "values": {"heat": 2}}, {"fine": 3, "time": 1_750_000_000_000}]
    async with server.client(kind, server.secrets) as device:
        reply = await device.send(messages.TELEMETRY, batch[1:])

        assert reply.error is None
        told = reply.body if kind in {"http", "coap", "oscore"} else await _told(device)
        detail = "the time is seconds: send milliseconds since the epoch"
        assert told["rejected"] == [{"index": 0, "metric": "heat", "code": "time_unit", "detail": detail}]
        assert told["stored"] == 1 or kind not in {"http", "coap", "oscore"}
        await _unharmed(server, device)


@pytest.mark.parametrize("kind", ["http", "mqtt", "coap", "oscore"])
async def test_ten_thousand_metric_names_end_at_the_cap(server, kind):
    async with server.client(kind, server.secrets) as device:
        refused = 0
        for start in range(0, 10_000, 1000):
            reply = await device.send(messages.TELEMETRY, {f"bomb-{start + n}": 1 for n in range(1000)})
            refused += reply.error is not None
            if reply.error is not None:
                assert (reply.status, reply.error["code"]) == (422, "too_many_metrics")

        assert refused == 9
        assert len(await server.manager.list_series("d")) == 200
        reply = await device.send(messages.TELEMETRY, {"bomb-7": 2})
        assert reply.error is None


@pytest.mark.parametrize("kind", ["http", "mqtt", "mqtt 3.1.1", "coap", "oscore"])
async def test_a_message_longer_than_the_limit_is_refused_with_limit_unit_and_scope(server, kind):
    padding = b" " * (_MAX + 1 - len(_BATCH % b"6"))
    async with server.client(kind, server.secrets) as device:
        assert (await device.send(messages.TELEMETRY, (_BATCH % b"20.5") + padding[:-4])).error is None

        reply = await device.send(messages.TELEMETRY, (_BATCH % b"6") + padding)

        told = reply.error if kind in {"http", "coap", "oscore"} else await _told(device)
        assert (told["code"], told["limit"], told["unit"], told["scope"]) == (
            "limit_exceeded",
            _MAX,
            "bytes",
            "message",
        )
        if kind != "mqtt 3.1.1":
            assert reply.status == CODES["limit_exceeded"].http == 413
        await _unharmed(server, device)


async def test_a_small_body_that_inflates_to_a_large_one_is_refused(server):
    bomb = gzip.compress(b'{"heat": 6' + b" " * 50_000_000 + b"}")
    assert len(bomb) < _MAX
    connector = aiohttp.TCPConnector(ssl=server.secrets.tls())
    async with aiohttp.ClientSession(connector=connector) as http:
        headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
        async with http.post(f"{server.http}/device/v1/telemetry", data=bomb, headers=headers) as response:
            assert (response.status, (await response.json())["code"]) == (413, "limit_exceeded")
    async with server.client("http", server.secrets) as device:
        await _unharmed(server, device)


#: What a stranger's program may write to the port: nothing of it is a message.
GARBAGE = {
    "nothing": b"",
    "a web page's request": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "an MQTT length of five bytes": b"\x10\xff\xff\xff\xff\x7f",
    "an MQTT packet of 256 MB": b"\x10\xff\xff\xff\x7f" + b"\x00\x04MQTT\x05",
    "a PUBLISH before a CONNECT": b"\x30\x05\x00\x01ax",
    "random bytes": bytes(range(255, 5, -1)),
    "a header without end": b"POST /device/v1/telemetry HTTP/1.1\r\nX: " + b"a" * 100_000,
    "two lengths": b"POST /device/v1/telemetry HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
}


@pytest.mark.parametrize("port", ["http", "mqtt"])
async def test_garbage_on_a_connection_ends_that_connection_alone(server, port):
    host, _, number = getattr(server, port).rpartition("//")[2].partition(":")
    async with server.client("mqtt", server.witness) as witness:
        for name, garbage in GARBAGE.items():
            reader, writer = await asyncio.open_connection(host, int(number), ssl=server.secrets.tls())
            writer.write(garbage)
            if garbage:
                await writer.drain()
                async with asyncio.timeout(PATIENCE_S):
                    answer = await reader.read(1 << 20)
                assert b"204" not in answer[:20], name
            writer.close()
            assert (await witness.send(messages.STATUS, {"state": "online"})).error is None, name
    async with server.client(port, server.secrets) as device:
        await _unharmed(server, device)


async def test_a_body_on_any_other_uplink_is_held_to_the_same_reading(server):
    operations = (messages.LOCATION, messages.STATUS, messages.TWIN_REPORT, messages.TWIN_ACK)
    for kind in ("http", "mqtt", "coap", "oscore"):
        async with server.client(kind, server.secrets) as device:
            for operation in operations:
                for name in ("NaN", "30,000 levels", "a key twice", "an escaped NUL", "trailing bytes", "2^64"):
                    reply = await device.send(operation, UNREADABLE[name])
                    assert (reply.status, reply.error["code"]) == (400, "payload_unreadable"), (operation, name)
    assert (await server.manager.get_twin("d"))["reported"] == {}
    with pytest.raises(NotFound):
        await server.manager.get_location("d")
