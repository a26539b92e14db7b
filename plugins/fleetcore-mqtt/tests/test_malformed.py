"""Packets that no decent client sends, byte by byte on a socket: closed or waiting, never broken."""

import asyncio
import gc
import logging
import tracemalloc

import mqtt5
import pytest
from fleetcore_mqtt import v5 as v5_codec
from fleetcore_mqtt.connection import Connection
from fleetcore_mqtt.endpoint import Endpoint
from fleetcore_mqtt.framing import header
from fleetcore_mqtt.packets import Violation
from fleetcore_mqtt.v311 import V311
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleetcore.model.message import Downlink
from fleetcore.testing import context
from fleetcore.wire import messages

TELEMETRY = "fleet/v1/dev1/telemetry"
FIRST_BYTES = sorted({kind << 4 | flags for kind in range(16) for flags in (0, 2)} - {0x10})


async def alive(dial, device="dev9"):
    """The endpoint serves others as before."""
    wire = await dial.device(device)
    await wire.send(b"\xc0\x00")
    return await wire.answer() == b"\xd0\x00"


@pytest.mark.parametrize("first", FIRST_BYTES, ids=hex)
async def test_any_packet_but_connect_closes_when_it_comes_first(dial, plane, first):
    wire = await dial.wire()

    await wire.send(bytes((first, 4)) + b"\x00\x01\x00\x00")

    assert await wire.closed() == []
    assert plane.authentications == []


@pytest.mark.parametrize("first", FIRST_BYTES, ids=hex)
async def test_an_incomplete_first_packet_that_is_no_connect_is_not_waited_for(dial, first):
    wire = await dial.wire()

    await wire.send(bytes((first, 0x7F)))

    assert await wire.closed() == []


@pytest.mark.parametrize("kind", [2, 5, 6, 7, 9, 11, 13, 15, 0])
async def test_a_packet_that_only_servers_send_closes(dial, codec, kind):
    wire = await dial.device(codec=codec)

    await wire.send(bytes((kind << 4, 2)) + b"\x00\x01")

    ends = await wire.closed()
    assert [end[2] for end in ends] == ([0x82] if codec.version == 5 else [])


async def test_a_second_connect_closes(dial, plane, codec):
    wire = await dial.device(codec=codec)

    await wire.send(codec.connect(token=plane.token("dev1")))

    assert [end[2] for end in await wire.closed()] == ([0x82] if codec.version == 5 else [])


@pytest.mark.parametrize("length", [b"\xff\xff\xff\xff\x01", b"\x80\x80\x80\x80\x00", b"\x80\x00", b"\xff\xff\xff\x7f"])
@pytest.mark.parametrize("opened", [False, True])
async def test_a_length_that_cannot_be_is_refused_from_the_header(dial, codec, length, opened):
    wire = await (dial.device(codec=codec) if opened else dial.wire(codec))

    await wire.send((b"\x30" if opened else b"\x10") + length)

    ends = await wire.closed()
    assert len(ends) == (1 if opened and codec.version == 5 else 0)


async def test_a_connect_of_more_than_64_kib_is_refused_before_it_is_read(dial, wire_packet):
    wire = await dial.wire()

    await wire.send(wire_packet(0x10, b"x" * 65_536)[:4])

    assert await wire.closed() == []


@pytest.mark.parametrize(("size", "refused"), [(270_336, False), (270_337, True)])
async def test_the_largest_packet_is_taken_and_one_byte_more_is_not(dial, plane, v4, size, refused, until):
    wire = await dial.device()
    head = 4 + len(TELEMETRY) + 2 + 2
    packet = v4.publish(TELEMETRY, b"x" * (size - head))
    assert len(packet) == size

    await wire.send(packet[:4] if refused else packet)

    assert (await wire.closed() == []) if refused else (await wire.answer() == b"\x40\x02\x00\x01")


async def test_a_header_of_256_mb_costs_no_memory(dial):
    wires = [await dial.device(f"dev{n}") for n in range(1, 9)]
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]

    for wire in wires:
        await wire.send(b"\x30\xff\xff\xff\x7f" + b"x" * 60_000)
    for wire in wires:
        assert await wire.closed() == []

    grown = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    assert grown < 3_000_000


async def test_a_stream_cut_at_every_byte_means_the_same(dial, plane, codec, until):
    stream = b"".join(
        (
            codec.connect(token=plane.token("dev1"), user="dev1", will=("fleet/v1/dev1/status", b"{}")),
            codec.subscribe(1, ("fleet/v1/dev1/errors", 1)),
            codec.publish(TELEMETRY, b'{"t": 1}', 2),
            codec.publish(TELEMETRY, b"x" * 200, 3),
            b"\xc0\x00",
        )
    )
    wire = await dial.wire(codec)

    for at in range(len(stream)):
        await wire.send(stream[at : at + 1])
        await asyncio.sleep(0)

    answers = [await wire.answer() for _ in range(5)]
    assert [answer[0] for answer in answers] == [0x20, 0x90, 0x40, 0x40, 0xD0]
    assert plane.bodies == [b'{"t": 1}', b"x" * 200]


@pytest.mark.parametrize("step", [2, 3, 7, 64, 1000])
async def test_packets_cut_in_pieces_of_any_size_mean_the_same(dial, plane, codec, step):
    wire = await dial.device(codec=codec)
    stream = b"".join(codec.publish(TELEMETRY, b"%d" % n, n) for n in range(1, 30))

    for at in range(0, len(stream), step):
        await wire.send(stream[at : at + step])
        await asyncio.sleep(0)

    assert [(await wire.answer())[-1] for _ in range(29)] == list(range(1, 30))
    assert plane.bodies == [b"%d" % n for n in range(1, 30)]


MALFORMED = {
    "empty topic": (0x32, b"\x00\x00\x00\x01{}"),
    "topic with NUL": (0x32, b"\x00\x03a\x00b\x00\x01{}"),
    "topic that is not UTF-8": (0x32, b"\x00\x03a\xff\xfe\x00\x01{}"),
    "topic with a surrogate": (0x32, b"\x00\x03\xed\xa0\x80\x00\x01{}"),
    "topic with +": (0x32, b"\x00\x0ffleet/v1/+/time\x00\x01{}"),
    "topic with #": (0x32, b"\x00\x0bfleet/v1/d#\x00\x01{}"),
    "packet id 0": (0x32, b"\x00\x01a\x00\x00{}"),
    "QoS 3": (0x36, b"\x00\x01a\x00\x01{}"),
    "QoS 2": (0x34, b"\x00\x01a\x00\x01{}"),
    "DUP at QoS 0": (0x38, b"\x00\x01a{}"),
    "topic longer than the packet": (0x32, b"\x00\x09ab"),
    "no topic": (0x32, b"\x00"),
    "no packet id": (0x32, b"\x00\x01a\x00"),
    "SUBSCRIBE without flags": (0x80, b"\x00\x01\x00\x01a\x00"),
    "empty SUBSCRIBE": (0x82, b"\x00\x01"),
    "SUBSCRIBE with id 0": (0x82, b"\x00\x00\x00\x01a\x00"),
    "SUBSCRIBE at QoS 3": (0x82, b"\x00\x01\x00\x01a\x03"),
    "SUBSCRIBE with reserved bits": (0x82, b"\x00\x01\x00\x01a\xf0"),
    "SUBSCRIBE cut short": (0x82, b"\x00\x01\x00\x05a"),
    "empty UNSUBSCRIBE": (0xA2, b"\x00\x01"),
    "UNSUBSCRIBE that is not UTF-8": (0xA2, b"\x00\x01\x00\x01\xff"),
    "PINGREQ with a body": (0xC0, b"\x00"),
    "PINGREQ with flags": (0xC1, b""),
    "PUBACK with id 0": (0x40, b"\x00\x00"),
    "PUBACK cut short": (0x40, b"\x00"),
    "DISCONNECT with flags": (0xE1, b""),
}


def with_properties(name, first, body):
    """The version 5 form: an empty property list where 3.1.1 has none."""
    if first >> 4 == 3 and b"\x00\x01{}" in body:
        return body.replace(b"\x00\x01{}", b"\x00\x01\x00{}")
    if first >> 4 == 3 and body.endswith(b"{}"):
        return body[:-2] + b"\x00{}"
    if first >> 4 in {8, 10}:
        return body[:2] + b"\x00" + body[2:]
    return body


@pytest.mark.parametrize("name", MALFORMED)
async def test_a_malformed_packet_closes_the_connection_and_no_other(dial, plane, codec, name, wire_packet):
    first, body = MALFORMED[name]
    wire = await dial.device(codec=codec)
    if codec.version == 5:
        body = with_properties(name, first, body)

    await wire.send(wire_packet(first, body))

    ends = await wire.closed()
    assert len(ends) == (1 if codec.version == 5 else 0)
    assert all(end[0] == 0xE0 and end[2] >= 0x80 for end in ends)
    assert plane.received == []
    assert await alive(dial)


@pytest.mark.parametrize(
    ("name", "body"),
    {
        "reserved flag": b"\x00\x04MQTT\x04\x03\x00\x3c\x00\x04dev1",
        "will QoS 3": b"\x00\x04MQTT\x04\x1e\x00\x3c\x00\x04dev1\x00\x01a\x00\x00",
        "will flags without a will": b"\x00\x04MQTT\x04\x0a\x00\x3c\x00\x04dev1",
        "password without user name": b"\x00\x04MQTT\x04\x42\x00\x3c\x00\x04dev1\x00\x01x",
        "client id not UTF-8": b"\x00\x04MQTT\x04\x02\x00\x3c\x00\x02\xff\xfe",
        "client id with NUL": b"\x00\x04MQTT\x04\x02\x00\x3c\x00\x02a\x00",
        "cut short": b"\x00\x04MQTT\x04\xc2\x00\x3c\x00\x04dev1\x00",
        "too long": b"\x00\x04MQTT\x04\x02\x00\x3c\x00\x04dev1x",
        "another protocol": b"\x00\x04MQXX\x04\x02\x00\x3c\x00\x04dev1",
        "MQTT 3.1": b"\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x04dev1",
        "nothing": b"",
    }.items(),
)
async def test_a_malformed_connect_closes(dial, plane, wire_packet, name, body):
    wire = await dial.wire()

    await wire.send(wire_packet(0x10, body))

    assert await wire.closed() == []
    assert plane.authentications == []


@pytest.mark.parametrize(
    "properties",
    [b"\x02\x7f\x00", b"\x03\x26\x00\xff", b"\x05\x26\x00\x02\xff\xfe", b"\x7f", b"\x04\x21\x00\x01\x21", b"\xff" * 5],
)
async def test_a_version_5_connect_with_bad_properties_is_answered_with_its_reason(
    dial, wire_packet, properties, capfd
):
    wire = await dial.wire()

    await wire.send(wire_packet(0x10, b"\x00\x04MQTT\x05\x02\x00\x3c" + properties + b"\x00\x04dev1"))

    assert [(end[0], end[2:4]) for end in await wire.closed()] == [(0x20, b"\x00\x81")]
    # The library would print a page for a string that is not UTF-8.
    assert capfd.readouterr().err == ""


async def test_an_unknown_version_is_told_so(dial, v4):
    wire = await dial.wire()

    await wire.send(v4.connect(level=7))

    assert await wire.answer() == b"\x20\x02\x00\x01"
    assert await wire.closed() == []


async def test_an_authentication_method_is_refused(dial, v5):
    wire = await dial.wire(v5)

    await wire.send(v5.connect(authentication_method="SCRAM", authentication_data=b"x"))

    assert (await wire.decoded()).reason_code == 0x8C


async def test_a_topic_alias_is_refused(dial, v5):
    wire = await dial.device(codec=v5)

    await wire.send(v5.publish(TELEMETRY, topic_alias=1))

    assert [end[2] for end in await wire.closed()] == [0x94]


async def test_a_subscription_identifier_is_refused(dial, v5):
    wire = await dial.device(codec=v5)

    await wire.send(v5.subscribe(1, ("fleet/v1/dev1/commands", 1), properties=b"\x0b\x05"))

    assert [end[2] for end in await wire.closed()] == [0xA1]


async def test_qos_2_closes_with_its_reason(dial, v5):
    wire = await dial.device(codec=v5)

    await wire.send(mqtt5.PublishPacket(TELEMETRY, b"{}", qos=mqtt5.QoS.EXACTLY_ONCE, packet_id=1).write())

    assert [end[2] for end in await wire.closed()] == [0x9B]


async def test_the_same_packet_again_before_its_acknowledgement_is_one_message(dial, plane, codec, until):
    plane.hold()
    wire = await dial.device(codec=codec)
    await wire.send(codec.publish(TELEMETRY, b"{}", 5))

    await wire.send(*(codec.publish(TELEMETRY, b"{}", 5, dup=True) for _ in range(50)), b"\xc0\x00")
    assert await wire.answer() == b"\xd0\x00"
    plane.commit()

    assert await wire.answer() == b"\x40\x02\x00\x05"
    assert len(plane.received) == 1
    assert await wire.silent()


async def test_a_packet_id_used_for_another_message_before_its_acknowledgement_closes(dial, plane, codec):
    plane.hold()
    wire = await dial.device(codec=codec)

    await wire.send(codec.publish(TELEMETRY, b"1", 5), codec.publish(TELEMETRY, b"2", 5))

    assert [end[2] for end in await wire.closed()] == ([0x82] if codec.version == 5 else [])


async def test_a_packet_id_is_free_again_after_its_acknowledgement(dial, plane, codec):
    wire = await dial.device(codec=codec)

    for n in range(3):
        await wire.send(codec.publish(TELEMETRY, b"%d" % n, 5))
        assert await wire.answer() == b"\x40\x02\x00\x05"

    assert len(plane.received) == 3


async def test_more_in_flight_than_the_receive_maximum_waits(dial, plane, codec, until):
    plane.hold()
    wire = await dial.device(codec=codec)
    await wire.send(*(codec.publish(TELEMETRY, b"{}", n) for n in range(1, 101)))
    await until(lambda: len(plane.waiting) >= 32)
    await asyncio.sleep(0.1)
    assert len(plane.waiting) == 32

    plane.commit()

    assert len({await wire.answer() for _ in range(100)}) == 100


async def test_calls_under_way_are_bounded(dial, plane, codec, until):
    plane.hold_calls()
    wire = await dial.device(codec=codec)

    await wire.send(*(codec.publish("fleet/v1/dev1/twin/get", b"", None) for _ in range(100)))
    await until(lambda: len(plane.calls) >= 32)
    await asyncio.sleep(0.1)

    assert len(plane.calls) == 32


async def test_a_topic_of_65535_bytes_is_refused(dial, plane, codec):
    wire = await dial.device(codec=codec)

    await wire.send(codec.publish("fleet/v1/dev1/" + "x" * (65_535 - 14), b"{}", 1))

    answer = await wire.answer()
    assert (answer[0], plane.received) == (0x40, [])


async def test_a_client_that_reads_nothing_is_cut_off_and_others_are_not(dial, plane, clock, codec, until, endpoint):
    wire = await dial.device(codec=codec)
    wire.reader._transport.pause_reading()
    await wire.send(codec.subscribe(1, ("fleet/v1/dev1/#", 0)))
    await until(lambda: plane.listening)
    await asyncio.sleep(0.05)
    for n in range(600):
        plane.push(Downlink(type=messages.TWIN_DESIRED, subject="dev1", body={"n": n, "x": "y" * 20_000}))
        await asyncio.sleep(0)
    assert endpoint.connections == 1

    await clock.advance(31)
    await clock.advance(6)

    await until(lambda: endpoint.connections == 0)
    assert await alive(dial)


# -- anything at all ----------------------------------------------------------------------------------------------


def packets():
    """Headers that fit, bodies of any kind: deeper than noise alone gets."""
    return st.builds(
        lambda first, body: bytes((first,)) + _length(len(body)) + body, st.integers(0, 255), st.binary(max_size=80)
    )


def _length(value):
    out = bytearray()
    while True:
        value, low = divmod(value, 128)
        out.append(low | (0x80 if value else 0))
        if not value:
            return bytes(out)


def mutations():
    """A sound packet with some bytes changed."""
    sound = [
        b"\x32\x1e\x00\x17fleet/v1/dev1/telemetry\x00\x01\x00{}",
        b"\x82\x0a\x00\x01\x00\x04a/b+\x01\x00",
        b"\x10\x17\x00\x04MQTT\x05\x04\x00\x3c\x00\x00\x04dev1\x00\x00\x01a\x00\x00",
        b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04dev1",
        b"\xa2\x06\x00\x01\x00\x00\x01a",
        b"\x40\x04\x00\x01\x00\x00",
        b"\xe0\x07\x00\x05\x11\x00\x00\x00\x09",
        b"\x30\x14\x00\x01a\x0f\x03\x00\x01j\x08\x00\x01r\x26\x00\x01i\x00\x01x",
    ]

    def change(packet, changes):
        out = bytearray(packet)
        for at, value in changes:
            out[at % len(out)] = value
        return bytes(out)

    return st.builds(
        change, st.sampled_from(sound), st.lists(st.tuples(st.integers(0, 100), st.integers(0, 255)), max_size=4)
    )


@settings(max_examples=2000, deadline=None)
@given(st.one_of(packets(), mutations(), st.binary(max_size=64)), st.sampled_from([V311(), v5_codec.V5()]))
def test_a_codec_reads_a_packet_or_says_what_is_wrong(data, codec):
    try:
        found = header(data, 0, 270_336)
        if found is None or found[1] > len(data):
            return
        at, end = found
        if data[0] >> 4 == 3:
            topic, packet_id, payload, _ = codec.read_publish(data, 0, at, end)
            assert len(topic) + len(payload) <= len(data)
            assert (packet_id is None) == (data[0] & 0x06 == 0)
        elif data[0] != 0x10 or data[at : at + 7] == b"\x00\x04MQTT" + bytes((codec.version,)):
            codec.read(data, 0, at, end)
    except Violation:
        pass


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    data=st.lists(st.one_of(packets(), mutations(), st.binary(max_size=64)), min_size=1, max_size=6),
    version=st.sampled_from([0, 4, 5]),
)
def test_a_connection_that_gets_anything_is_closed_or_waits(data, version, fuzzed):
    fuzzed(data, version)


@pytest.fixture
def fuzzed(plane_class, v4, v5):
    """Feeds bytes to a connection without a socket; anything unhandled fails the test."""

    class Transport(asyncio.Transport):
        def __init__(self):
            super().__init__()
            self.out, self.closing = bytearray(), False

        def get_extra_info(self, name, default=None):
            return default

        def set_write_buffer_limits(self, high=None, low=None):
            pass

        def is_closing(self):
            return self.closing

        def close(self):
            self.closing = True

        abort = close

        def write(self, data):
            assert not self.closing
            self.out += data

        def pause_reading(self):
            pass

        def resume_reading(self):
            pass

    async def feed(data, version):
        plane = plane_class()
        problems = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, what: problems.append(what))
        lent = context("mqtt", in_memory=True, logger=logging.getLogger("fuzz"))
        lent.logger.error = lambda *args, **more: problems.append((args, more))
        endpoint = Endpoint(lent, plane, plane, in_flight=32)
        connection, transport = Connection(endpoint), Transport()
        connection.connection_made(transport)
        if version:
            codec = v5 if version == 5 else v4
            connection.data_received(codec.connect(token=plane.token("dev1")))
            await lent.clock.advance(0)
        for piece in data:
            if not transport.closing:
                connection.data_received(piece)
                await asyncio.sleep(0)
        await asyncio.sleep(0)
        connection.connection_lost(None)
        await endpoint.close()
        assert problems == []
        assert not plane.sessions
        assert all(message.subject in {"dev1", "leaf1"} for _, message in plane.received)

    return lambda data, version: asyncio.run(feed(data, version))
