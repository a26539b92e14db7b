"""Frames that no good client sends, and peers that are slow or vanish: refused within bounds, the server stays."""

import struct
import tracemalloc
from contextlib import suppress

import pytest

# Opcodes (RFC 6455 §11.8).
BINARY, CLOSE, PING, TEXT = 2, 8, 9, 1

GOOD = b'{"op":"telemetry","id":1,"body":{"t":1}}'


async def still_serves(connect, served) -> bool:
    raw = await connect(served, "dev2")
    await raw.opened()
    raw.write((TEXT, GOOD))
    return (await raw.json())["ok"]


@pytest.mark.parametrize(
    ("code", "frames"),
    [
        (1002, [(TEXT, GOOD, {"mask": False})]),
        (1002, [(PING, b"x", {"fin": False})]),
        (1002, [(PING, b"x" * 126)]),
        (1002, [(TEXT, GOOD, {"rsv": 4})]),
        (1002, [(TEXT, GOOD, {"rsv": 1})]),
        (1002, [(3, GOOD)]),
        (1002, [(11, b"")]),
        (1002, [(0, GOOD)]),
        (1002, [(TEXT, GOOD, {"fin": False}), (TEXT, GOOD)]),
        (1002, [(CLOSE, b"\x01")]),
        (1002, [(CLOSE, struct.pack("!H", 1005))]),
        (1003, [(BINARY, GOOD)]),
        (1003, [(BINARY, b"", {"fin": False})]),
        (1007, [(TEXT, b'{"op":"\xff"}')]),
        (1007, [(TEXT, b'{"op":"\xed\xa0\x80"}')]),
        (1008, [(TEXT, b"{", {"fin": False}), *[(0, b"", {"fin": False})] * 300]),
        (1009, [(TEXT, b"x" * 400_000)]),
        (1009, [(TEXT, b"x" * 200_000, {"fin": False}), (0, b"x" * 200_000)]),
    ],
    ids=[
        "no mask", "fragmented ping", "long ping", "compressed", "reserved bit", "reserved opcode", "reserved control",
        "continuation of nothing", "text within a text", "close of one byte", "close 1005", "binary", "binary begins",
        "no utf-8", "surrogate", "fragments", "too long", "too long in fragments",
    ],
)  # fmt: skip
async def test_a_frame_against_the_rules_ends_its_connection_with_a_code(
    served, connect, device, plane, until, code, frames
):
    with suppress(ConnectionError):
        device.write(*frames)

    assert (await device.closed())[0] == code
    await device.rest()
    await until(lambda: served.adapter.connections == 0)
    assert plane.received == []
    assert plane.refusals[-1].rejected.code == ("limit_exceeded" if code == 1009 else "protocol_violation")
    assert await still_serves(connect, served)


async def test_a_frame_that_is_announced_too_long_is_refused_before_it_is_buffered(served, connect, device):
    tracemalloc.start()
    device.write(struct.pack("!BBQ", 0x81, 0xFF, 256 * 1024 * 1024) + b"\0\0\0\0")

    assert (await device.closed())[0] == 1009
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 1024 * 1024


async def test_a_length_of_64_bits_with_the_highest_set_is_refused(device):
    device.write(struct.pack("!BBQ", 0x81, 0xFF, 2**63) + b"\0\0\0\0")

    assert (await device.closed())[0] in {1002, 1009}


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (b"", "payload_unreadable"),
        (b"nonsense", "payload_unreadable"),
        (b"[1]", "schema_invalid"),
        (b"{}", "schema_invalid"),
        (b'{"op":1}', "schema_invalid"),
        (b'{"op":"telemetry","op":"status","body":{}}', "payload_unreadable"),
        (b'{"op":"telemetry","body":{"a":1,"a":2}}', "payload_unreadable"),
        (b'{"op":"telemetry","body":' + b"[" * 100 + b"]" * 100 + b"}", "payload_unreadable"),
        (b'{"op":"telemetry","body":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "payload_unreadable"),
        (b'{"op":"telemetry","body":{"t":NaN}}', "payload_unreadable"),
        (b'{"op":"telemetry","data_base64":"%"}', "payload_unreadable"),
        (b'{"op":"telemetry","body":{},"data_base64":"AA=="}', "schema_invalid"),
        (b'{"op":"telemetry","body":{},"message_id":"two words"}', "schema_invalid"),
        (b'{"op":"nothing","body":{}}', "operation_unknown"),
        (b'{"op":"logs","body":{}}', "operation_unknown"),
        (b'{"op":"command","body":{}}', "operation_unknown"),
        (b'{"op":"artifact","target":"' + b"0" * 64 + b'"}', "operation_unknown"),
        (b'{"op":"hello","body":{}}', "operation_unknown"),
        (b'{"op":"twin.get"}', "schema_invalid"),
        (b'{"op":"telemetry","id":"' + b"x" * 65 + b'","body":{}}', "schema_invalid"),
    ],
)
async def test_a_message_that_is_no_frame_is_refused_and_the_next_passes(device, plane, said, code):
    device.write((TEXT, said), (TEXT, GOOD))

    refused, passed = await device.json(), await device.json()
    assert (refused["op"], refused["body"]["code"]) == ("errors", code)
    assert (passed["re"], passed["ok"]) == (1, True)
    assert [one.rejected.code for one in plane.refusals] == [code]


async def test_a_refusal_names_the_request_where_its_number_can_be_read(device):
    device.write((TEXT, b'{"op":"telemetry","id":"a","body":{"t":1,"t":2}}'))
    device.write((TEXT, b'{"op":"nothing","id":7}'))

    first, second = await device.json(), await device.json()
    assert (first["re"], first["ok"], first["error"]["code"]) == ("a", False, "payload_unreadable")
    assert (second["re"], second["error"]["code"]) == (7, "operation_unknown")


async def test_a_number_of_an_open_request_is_refused_without_using_it(device, plane, until):
    plane.hold()
    device.write((TEXT, GOOD))
    await until(lambda: plane.waiting)
    device.write((TEXT, GOOD))

    refused = await device.json()
    plane.commit()
    assert (refused["op"], refused["body"]["errors"][0]["pointer"]) == ("errors", "/id")
    assert (await device.json()) == {"re": 1, "ok": True, "status": 204}
    device.write((TEXT, GOOD))
    assert (await device.json())["ok"]


async def test_a_message_may_come_in_fragments_with_a_ping_between(device, plane):
    device.write((TEXT, GOOD[:5], {"fin": False}), (PING, b"p"), (0, GOOD[5:9], {"fin": False}))
    assert await device.frame() == (10, b"p")
    device.write((0, GOOD[9:]))

    assert (await device.json())["ok"]
    assert plane.bodies == [b'{"t":1}']


async def test_a_message_may_be_split_at_every_byte(device, plane):
    whole = device.encoded(TEXT, GOOD)
    for at in range(len(whole)):
        device.write(whole[:at])
        await device.writer.drain()
        device.write(whole[at:])
        assert (await device.json())["ok"]

    assert len(plane.bodies) == len(whole)


@pytest.mark.parametrize("fragments", [False, True])
async def test_a_message_that_never_ends_is_cut_off_in_time(served, device, fragments):
    device.write((TEXT, b"{", {"fin": False}) if fragments else device.encoded(TEXT, GOOD)[:-1])

    for _ in range(8):  # it is alive all the while, by its pings where it can
        await served.clock.advance(5)

    assert (await device.closed()) == (1008, "a message took too long")
