"""Bytes that no good client sends, slow peers, and bodies made to hurt: refused within bounds, the server stays."""

import gzip
import logging
import tracemalloc
import zlib
from contextlib import suppress
from math import inf

import pytest
from fleetcore_http.bodies import BodyLimitError, inflate

from fleetcore.interfaces.provider import Limits

HEAD = ("POST /device/v1/telemetry HTTP/1.1", "Host: x")


async def still_serves(connect, served) -> bool:
    raw = await connect(served)
    await raw.say("GET /device/v1/ HTTP/1.1", "Host: x")
    return (await raw.answer()).status == 200


async def test_a_header_of_a_megabyte_is_refused_and_the_connection_closed(served, connect):
    raw = await connect(served)
    with suppress(ConnectionError):
        await raw.say(*HEAD, "X-Long: " + "a" * 1_000_000)

    answer = await raw.rest()

    assert answer == b"" or (answer.startswith(b"HTTP/1.0 400") and b"application/problem+json" in answer)
    assert await still_serves(connect, served)


async def test_too_many_headers_are_refused(served, connect):
    raw = await connect(served)

    await raw.say(*HEAD, *(f"X-{number}: 1" for number in range(10_000)))

    assert (await raw.rest()).startswith(b"HTTP/1.0 400")


@pytest.mark.parametrize(
    "lines",
    [
        (*HEAD, "Content-Length: 5", "Transfer-Encoding: chunked"),
        (*HEAD, "Content-Length: 5", "Content-Length: 6"),
        (*HEAD, "Content-Length: -5"),
        (*HEAD, "Content-Length: 5a"),
        (*HEAD, "Transfer-Encoding: gzip, identity"),
        ("POST /device/v1/telemetry HTTP/9.9",),
        ("\x16\x03\x01\x02\x00\x01\x00\x01\xfc",),
        (*HEAD, "Bad Header: 1"),
        (*HEAD, "X: a\x00b"),
    ],
    ids=["both lengths", "two lengths", "negative", "no number", "coding", "version", "tls", "name", "nul"],
)
async def test_ambiguous_or_broken_framing_is_refused_as_a_problem_and_closed(served, connect, plane, lines):
    raw = await connect(served)
    await raw.say(*lines, body=b"hello")

    answer = await raw.rest()

    assert b" 400 " in answer.partition(b"\r\n")[0]
    assert b"application/problem+json" in answer
    assert b"<html" not in answer
    assert plane.arrived == []


async def test_a_broken_chunk_is_unreadable(served, connect, plane):
    raw = await connect(served)

    await raw.say(*HEAD, "Transfer-Encoding: chunked", body=b"ZZ\r\nhello\r\n0\r\n\r\n")

    assert b" 400 " in (await raw.rest()).partition(b"\r\n")[0]
    assert plane.arrived == []


async def test_a_declared_length_beyond_the_limit_is_refused_unread(serve, connect, plane):
    served = await serve(limits=Limits(message_bytes=1000))
    raw = await connect(served)

    await raw.say(*HEAD, "Content-Length: 1001")

    answer = await raw.answer()
    assert (answer.status, answer.json["code"]) == (413, "limit_exceeded")
    assert (answer.json["limit"], answer.json["unit"]) == (1000, "bytes")


@pytest.mark.parametrize("length", ["268435456", "9" * 30])
async def test_a_huge_declared_length_is_refused_before_a_byte_of_it(served, connect, length):
    raw = await connect(served)

    await raw.say(*HEAD, f"Content-Length: {length}", "Expect: 100-continue")

    assert b" 413 " in (first := (await raw.rest()).partition(b"\r\n")[0]) or b" 400 " in first


async def test_a_chunked_body_is_cut_off_at_the_limit(serve, connect, plane):
    served = await serve(limits=Limits(message_bytes=1000))
    raw = await connect(served)

    await raw.say(*HEAD, "Transfer-Encoding: chunked", body=b"200\r\n" + b"a" * 512 + b"\r\n")
    raw.writer.write(b"258\r\n" + b"a" * 600 + b"\r\n")

    assert b" 413 " in (await raw.rest()).partition(b"\r\n")[0]


async def test_a_body_of_exactly_the_limit_passes(serve, connect, plane):
    served = await serve(limits=Limits(message_bytes=1000))
    raw = await connect(served)

    await raw.say(*HEAD, "Content-Length: 1000", body=b"a" * 1000)

    assert (await raw.answer()).status == 204
    assert len(plane.messages[0].payload) == 1000


BOMBS = [("gzip", gzip.compress), ("deflate", zlib.compress)]


@pytest.mark.parametrize(("coding", "compress"), BOMBS, ids=["gzip", "deflate"])
async def test_a_bomb_is_refused_at_the_limit(served, connect, plane, coding, compress):
    bomb = compress(b"\0" * 50_000_000, 9)
    raw = await connect(served)

    await raw.say(*HEAD, f"Content-Encoding: {coding}", f"Content-Length: {len(bomb)}", body=bomb)

    assert (await raw.answer()).status == 413
    assert plane.arrived == []


@pytest.mark.parametrize(("coding", "compress"), BOMBS, ids=["gzip", "deflate"])
def test_inflating_a_bomb_stops_at_the_limit(coding, compress):
    bomb = compress(b"\0" * 50_000_000, 9)
    tracemalloc.start()
    try:
        with pytest.raises(BodyLimitError):
            inflate(bomb, coding, 256 * 1024)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak_bytes < 2_000_000


@pytest.mark.parametrize(
    ("coding", "body", "status"),
    [
        ("gzip", b"no gzip at all", 400),
        ("gzip", gzip.compress(b"{}")[:-3], 400),
        ("gzip", gzip.compress(b"{}") + gzip.compress(b"{}"), 400),
        ("deflate", zlib.compress(b'{"t": 1}'), 204),
        ("deflate", zlib.compress(b"{}")[:-3], 400),
        ("deflate", zlib.compress(b"{}") + b"{}", 400),
        ("deflate", zlib.compress(b"{}")[2:-4], 400),
        ("gzip, deflate", zlib.compress(gzip.compress(b"{}")), 415),
        ("br", b"{}", 415),
        ("gzip, gzip", gzip.compress(gzip.compress(b"{}")), 415),
        ("identity", b"{}", 204),
    ],
)
async def test_a_content_coding_is_one_that_is_read_whole_and_single_or_refused(served, connect, coding, body, status):
    raw = await connect(served)

    await raw.say(*HEAD, f"Content-Encoding: {coding}", f"Content-Length: {len(body)}", body=body)

    assert (await raw.answer()).status == status


@pytest.mark.parametrize(
    "lines",
    [
        ("Authorization: Bearer fc_dev_dev1_x", "Authorization: Bearer fc_dev_dev2_y"),
        ("Content-Type: application/json", "content-type: text/plain"),
        ("Idempotency-Key: a", "Idempotency-Key: b"),
        ("If-Match: *", 'If-Match: "r1"'),
        ("Host: y",),
        ("Client-Cert: :YQ==:", "Client-Cert: :YQ==:"),
    ],
)
async def test_a_header_that_two_readers_could_take_differently_is_refused(served, connect, plane, lines):
    raw = await connect(served)

    await raw.say(*HEAD, *lines, "Content-Length: 2", body=b"{}")

    answer = await raw.answer()
    assert (answer.status, answer.json["code"]) == (400, "payload_unreadable")
    assert "twice" in answer.json["detail"] or "Duplicate" in answer.json["detail"]  # the parser's own word
    assert plane.arrived == []


async def test_a_query_parameter_that_stands_twice_is_refused(served, connect):
    raw = await connect(served)

    await raw.say("GET /device/v1/commands?wait=0&wait=55 HTTP/1.1", "Host: x")

    assert (await raw.answer()).status == 422


async def test_an_unknown_expectation_is_refused(served, connect):
    raw = await connect(served)

    await raw.say(*HEAD, "Expect: miracles", "Content-Length: 2", body=b"{}")

    assert (await raw.answer()).status == 422


@pytest.mark.parametrize("key", ["", "x" * 65, "a b", "\xe9"])
async def test_an_idempotency_key_that_is_no_message_id_is_refused(served, connect, plane, key):
    raw = await connect(served)

    await raw.say(*HEAD, f"Idempotency-Key: {key}", "Content-Length: 2", body=b"{}")

    assert (await raw.answer()).status == 422
    assert plane.arrived == []


async def test_a_quoted_idempotency_key_is_the_text_in_the_quotes(served, connect, plane):
    raw = await connect(served)

    await raw.say(*HEAD, 'Idempotency-Key: "m-1"', "Content-Length: 2", body=b"{}")

    assert ((await raw.answer()).status, plane.messages[0].id) == (204, "m-1")


async def test_a_head_that_does_not_end_is_cut_off(served, connect, until):
    raw = await connect(served)
    await until(lambda: served.adapter.connections)
    raw.writer.write(b"GET /device/v1/ HTTP/1.1\r\nX-Slow: ")
    await raw.writer.drain()

    await served.clock.advance(11)

    assert await raw.rest() == b""


async def test_a_slow_head_after_a_good_request_is_cut_off_too(served, connect, until):
    raw = await connect(served)
    await raw.say("GET /device/v1/ HTTP/1.1", "Host: x")
    await raw.answer()
    raw.writer.write(b"GET /dev")
    await raw.writer.drain()
    [connection] = served.adapter._server.open
    await until(lambda: connection.deadline < served.clock.monotonic_s() + 11)

    await served.clock.advance(11)

    assert await raw.rest() == b""


async def test_a_connection_that_says_nothing_is_closed(served, connect, until):
    raw = await connect(served)
    await until(lambda: served.adapter.connections)

    await served.clock.advance(11)

    assert await raw.rest() == b""


async def test_a_slow_body_is_cut_off(served, connect, plane, until):
    raw = await connect(served)
    await raw.say(*HEAD, "Content-Length: 10", body=b"abc")
    await until(lambda: any(one.reading_body for one in served.adapter._server.open))

    await served.clock.advance(31)

    assert await raw.rest() == b""
    assert plane.arrived == []


async def test_an_idle_connection_outlives_the_other_deadlines_but_not_its_own(served, connect):
    raw = await connect(served)
    await raw.say(*HEAD, "Content-Length: 2", body=b"{}")
    await raw.answer()
    await served.clock.advance(1100)
    await raw.say("GET /device/v1/ HTTP/1.1", "Host: x")
    assert (await raw.answer()).status == 200

    await served.clock.advance(1300)

    assert await raw.rest() == b""


async def test_pipelined_requests_are_answered_in_order(served, connect, plane):
    raw = await connect(served)
    one = "\r\n".join([*HEAD, "Content-Length: 2", "", ""]).encode()

    raw.writer.write(one + b"01" + one + b"02" + one + b"03")

    assert [(await raw.answer()).status for _ in range(3)] == [204] * 3
    assert [m.payload for m in plane.messages] == [b"01", b"02", b"03"]


async def test_a_refused_requests_body_is_not_taken_for_the_next_request(served, connect, plane):
    smuggled = b"POST /device/v1/telemetry HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
    raw = await connect(served)

    await raw.say("POST /device/v1/nowhere HTTP/1.1", "Host: x", f"Content-Length: {len(smuggled) + 9}", body=smuggled)

    answer = await raw.answer()
    assert (answer.status, answer.headers["connection"]) == (404, "close")
    assert plane.arrived == []


async def test_a_failing_plane_is_a_500_without_its_secrets(served, connect, plane, caplog):
    plane.failure = RuntimeError("password=hunter2")
    raw = await connect(served)
    with caplog.at_level(logging.CRITICAL, logger="fleetcore.http"):
        await raw.say(*HEAD, "Content-Length: 2", body=b"{}")
        answer = await raw.answer()

    assert (answer.status, answer.json["code"]) == (500, "internal")
    assert b"hunter2" not in answer.body


async def test_an_artifact_that_breaks_off_is_not_taken_for_whole(served, connect, plane):
    sha = plane.put_artifact(b"x" * 5000, breaks_at=2000, breaks=1)
    raw = await connect(served)

    await raw.say(f"GET /device/v1/artifacts/{sha} HTTP/1.1", "Host: x")

    answer = await raw.rest()
    assert b"Content-Length: 5000" in answer
    assert len(answer.partition(b"\r\n\r\n")[2]) < 5000
    assert await still_serves(connect, served)


async def test_an_absolute_target_is_understood(served, connect):
    raw = await connect(served)

    await raw.say("GET https://fleet.example/device/v1/twin HTTP/1.1", "Host: fleet.example")

    assert (await raw.answer()).status == 200


@pytest.mark.parametrize("target", ["*", "/", "//device/v1/twin", "/device/v1/../v1/twin", "/device/v1/leaf/%00/twin"])
async def test_odd_targets_lead_nowhere(served, connect, target):
    raw = await connect(served)

    await raw.say(f"GET {target} HTTP/1.1", "Host: x")

    assert (await raw.answer()).status in {400, 404, 422}


async def test_a_peer_that_does_not_read_its_download_is_cut_off(served, connect, plane, until):
    sha = plane.put_artifact(b"x" * 30_000_000, piece_bytes=65536)
    raw = await connect(served)
    raw.writer.transport.pause_reading()
    await raw.say(f"GET /device/v1/artifacts/{sha} HTTP/1.1", "Host: x")
    await until(lambda: any(one.busy and one.deadline < inf for one in served.adapter._server.open))

    await served.clock.advance(1300)

    await until(lambda: served.adapter.connections == 0)
    await until(lambda: plane.opened[0].ended)


async def test_a_device_that_opens_too_many_connections_loses_its_oldest_and_no_other_does(serve, connect, until):
    served = await serve(per_identity=2)
    other = await connect(served, "dev2")
    await other.say("GET /device/v1/time HTTP/1.1", "Host: x")
    await other.answer()
    opened = []
    for _ in range(3):
        opened.append(raw := await connect(served, "dev1"))
        await raw.say("GET /device/v1/time HTTP/1.1", "Host: x")
        await raw.answer()

    assert await opened[0].rest() == b""
    for raw in (*opened[1:], other):
        await raw.say("GET /device/v1/time HTTP/1.1", "Host: x")
        assert (await raw.answer()).status == 200
    assert served.reached["http", "per_identity"] == 1


async def test_the_oldest_of_too_many_long_polls_is_answered(serve, connect, plane, until):
    served = await serve(tls=False, per_identity=2, trusted_proxies=("127.0.0.1/32",))
    token = f"Authorization: Bearer {plane.token('dev1')}"
    polls = []
    for count in range(1, 4):
        polls.append(raw := await connect(served))
        await raw.say("GET /device/v1/commands?wait=55 HTTP/1.1", "Host: x", token)
        await until(lambda count=count: plane.polls >= min(count, 2))

    assert (await polls[0].answer()).status == 204
    await until(lambda: plane.polls == 2)
