"""A connection by a claim certificate, byte by byte: what it may, how long, how often, and how many of them.

The plane here knows one claim certificate, which every connection without a token shows. How real ones fare against
a real fleet is tested there.
"""

import asyncio
import json
import logging

import pytest
from fleetcore_mqtt.connection import Connection
from fleetcore_mqtt.endpoint import Endpoint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleetcore.listening import applicants
from fleetcore.model.credential import CertificateCredential
from fleetcore.model.message import Reply
from fleetcore.testing import context
from fleetcore.wire import messages

NAME = "fleetcore:claim:spring"
REQUEST, REPLY = f"fleet/v1/{NAME}/request/r1", f"fleet/v1/{NAME}/reply/r1"
REPLIES = f"fleet/v1/{NAME}/reply/+"
ENROLL = b'{"op": "enroll", "body": {"csr": "PEM"}}'


def with_claims(plane):
    """Has ``plane`` take the claim certificate of a batch."""
    plane.accept_claim(b"claim", "spring")
    plane.enroll_reply = Reply(status=201, body={"device": "th-1"})
    return plane


@pytest.fixture(autouse=True)
def shown(plane, monkeypatch):
    with_claims(plane)
    as_ever = Connection._credential
    monkeypatch.setattr(
        Connection,
        "_credential",
        lambda self, connect: CertificateCredential(b"claim") if connect.password is None else as_ever(self, connect),
    )


@pytest.fixture
def connected(dial, codec):
    """Opens a connection by the claim certificate, subscribed to its replies."""

    async def connect(*, subscribed=True, **more):
        wire = await dial.wire(codec)
        await wire.send(codec.connect(more.pop("client_id", ""), **more))
        answer = await wire.answer()
        assert (answer[0], answer[3]) == (0x20, 0), answer
        if subscribed:
            await wire.send(codec.subscribe(1, (REPLIES, 1)))
            assert (await wire.answer())[-1] == 1
        return wire

    return connect


async def test_a_request_is_acknowledged_and_answered_where_it_asked(connected, codec, plane):
    wire = await connected()

    await wire.send(codec.publish(REQUEST, ENROLL, 7))

    assert await wire.answer() == b"\x40\x02\x00\x07"
    assert await wire.publication() == (REPLY, {"ok": True, "status": 201, "body": {"device": "th-1"}})
    ((_, message),) = plane.calls
    assert (message.type, json.loads(message.payload)) == (messages.ENROLL, {"csr": "PEM"})


async def test_a_reply_goes_to_who_asked_and_to_nobody_else(connected, codec):
    asking, other = await connected(), await connected()

    await asking.send(codec.publish(REQUEST, ENROLL))

    await asking.answer()
    await asking.publication()
    assert await other.silent()


async def test_nobody_is_taken_over_from_whatever_the_client_id(connected, codec, dial, plane):
    device = await dial.device("dev1", codec)
    wires = [await connected(client_id="dev1") for _ in range(3)]

    for wire in (*wires, device):
        await wire.send(b"\xc0\x00")
        assert await wire.answer() == b"\xd0\x00"
    assert len(plane.claims) == 3
    assert [session.identity for session in plane.sessions] == ["dev1"]


async def test_one_request_at_a_time_and_none_is_lost(connected, codec, plane, until):
    wire = await connected()
    plane.hold_calls()
    await wire.send(*(codec.publish(REQUEST, ENROLL, number) for number in (1, 2, 3)))
    await until(lambda: plane.calls)
    await asyncio.sleep(0.05)
    asked = len(plane.calls)

    plane.answer_calls()
    for number in (1, 2, 3):
        assert await wire.answer() == bytes((0x40, 2, 0, number))
        await wire.publication()

    assert asked == 1


@pytest.mark.parametrize(
    "topic",
    [
        f"fleet/v1/{NAME}/telemetry",
        f"fleet/v1/{NAME}/status",
        f"fleet/v1/{NAME}/request",
        f"fleet/v1/{NAME}/request/a/b",
        f"fleet/v1/{NAME}/request/",
        f"fleet/v1/{NAME}/leaf/dev1/request/r1",
        f"fleet/v1/{NAME}/reply/r1",
        "fleet/v1/dev1/telemetry",
        "fleet/v1/dev1/request/r1",
        "fleet/v1/fleetcore:claim:autumn/request/r1",
        "a",
    ],
)
async def test_another_topic_is_refused_counted_and_written_down(connected, codec, plane, counts, topic):
    wire = await connected()

    await wire.send(codec.publish(topic, ENROLL, 5))

    answer = await wire.answer()
    assert (answer[0], answer[2:4]) == (0x40, b"\x00\x05")
    if codec.version == 5:
        assert answer[4] == 0x87
    assert [denial[1:] for denial in plane.denials] == [("publish", "not_authorised", {"topic": topic})]
    assert (counts["mqtt_claim_refused"], plane.calls, plane.received) == (1, [], [])


@pytest.mark.parametrize("topic", ["", "fleet/v1/+/request/r1", f"fleet/v1/{NAME}/request/+", "#"])
async def test_a_topic_with_a_wildcard_closes(connected, codec, plane, wire_packet, wire_text, topic):
    wire = await connected()
    more = b"\x00" if codec.version == 5 else b""

    await wire.send(wire_packet(0x32, wire_text(topic) + b"\x00\x05" + more + ENROLL))

    assert len(await wire.closed()) == (codec.version == 5)
    assert plane.calls == []


@pytest.mark.parametrize("respond", ["fleet/v1/dev1/reply/r1", f"fleet/v1/{NAME}/request/r2", "a"])
async def test_a_response_topic_of_somebody_else_is_refused(dial, v5, plane, respond):
    wire = await dial.wire(v5)
    await wire.send(v5.connect(""))
    await wire.answer()

    await wire.send(v5.publish(REQUEST, ENROLL, 5, response_topic=respond))

    assert (await wire.answer())[4] == 0x87
    assert plane.calls == []


async def test_a_will_is_refused_and_never_published(dial, codec, plane):
    wire = await dial.wire(codec)

    await wire.send(codec.connect("", will=("fleet/v1/dev1/status", b'{"state": "offline"}')))

    assert (await wire.answer())[3] == (0x87 if codec.version == 5 else 5)
    assert await wire.closed() == []
    assert (plane.claims, plane.received, plane.denials[0].what) == ([], [], "will")


async def test_a_disabled_batch_is_refused_at_connect(dial, codec, plane):
    plane.disable_claim("spring")
    wire = await dial.wire(codec)

    await wire.send(codec.connect(""))

    assert (await wire.answer())[3] == (0x87 if codec.version == 5 else 5)
    assert await wire.closed() == []


async def test_what_is_open_ends_with_its_batch(connected, codec, plane):
    wire = await connected()

    plane.disable_claim("spring")

    assert [end[2] for end in await wire.closed()] == ([0x98] if codec.version == 5 else [])


@pytest.mark.parametrize("busy", [False, True])
async def test_a_connection_ends_at_its_deadline_busy_or_not(connected, codec, clock, plane, busy, until):
    wire = await connected(keep_alive=0)
    plane.hold_calls()
    await clock.advance(applicants.CONNECTED_S - 2)
    await wire.send(codec.publish(REQUEST, ENROLL, 5) if busy else b"\xc0\x00")
    if busy:
        await until(lambda: plane.calls)
    else:
        assert await wire.answer() == b"\xd0\x00"

    await clock.advance(3)

    assert [end[2] for end in await wire.closed()] == ([0xA0] if codec.version == 5 else [])
    assert plane.claims == []


async def test_so_many_are_connected_and_a_place_that_is_left_is_given_again(
    connected, dial, codec, plane, monkeypatch, until
):
    monkeypatch.setattr(applicants, "CONNECTIONS", 2)
    first, _second = await connected(), await connected()
    third = await dial.wire(codec)

    await third.send(codec.connect(""))

    assert (await third.answer())[3] == (0x89 if codec.version == 5 else 3)
    assert await third.closed() == []
    assert [denial[1:] for denial in plane.denials] == [("session", "overloaded", {})]
    await first.send(b"\xe0\x00")
    await first.closed()
    await until(lambda: len(plane.claims) == 1)
    await connected()


async def test_one_connection_may_say_so_much(connected, codec, plane):
    wire = await connected(subscribed=False)

    await wire.send(*(codec.publish("a", b"", None) for _ in range(applicants.MESSAGES + 1)))

    assert [end[2] for end in await wire.closed()] == ([0x97] if codec.version == 5 else [])
    assert len(plane.denials) == applicants.MESSAGES


async def test_a_message_that_is_longer_than_any_request_closes(connected, codec, plane):
    wire = await connected()

    await wire.send(codec.publish(REQUEST, b"x" * 70_000))

    assert [end[2] for end in await wire.closed()] == ([0x95] if codec.version == 5 else [])
    assert plane.calls == []


async def test_connack_of_version_5_gives_each_an_id_of_its_own_and_no_session(dial, v5):
    names = set()
    for _ in range(2):
        wire = await dial.wire(v5)
        await wire.send(v5.connect("", clean=False, session_expiry_interval=60))
        welcome = await wire.decoded()
        names.add(welcome.assigned_client_id)
        assert (welcome.session_present, welcome.session_expiry_interval, welcome.max_packet_size) == (False, 0, 65_536)
    assert len(names) == 2


async def test_what_was_asked_is_answered_before_the_endpoint_drains(connected, codec, plane, endpoint, until):
    wire = await connected()
    plane.hold_calls()
    await wire.send(codec.publish(REQUEST, ENROLL, 7))
    await until(lambda: plane.calls)

    draining = asyncio.create_task(endpoint.drain())
    await asyncio.sleep(0.05)
    waited = not draining.done()
    plane.answer_calls()
    await draining

    assert waited
    assert await wire.answer() == b"\x40\x02\x00\x07"


# -- anything at all ----------------------------------------------------------------------------------------------


class Transport(asyncio.Transport):
    def __init__(self):
        super().__init__()
        self.closing = False

    def set_write_buffer_limits(self, high=None, low=None):
        pass

    def is_closing(self):
        return self.closing

    def close(self):
        self.closing = True

    abort = close

    def write(self, data):
        assert not self.closing

    def pause_reading(self):
        pass

    resume_reading = pause_reading


bodies = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["op", "body", "csr", "parameters", "ownership_token"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    sent=st.lists(
        st.one_of(
            st.binary(max_size=64),
            st.builds(lambda kind, body: bytes((kind, len(body))) + body, st.integers(0, 255), st.binary(max_size=80)),
            st.tuples(
                st.sampled_from([REQUEST, REPLY, "fleet/v1/dev1/telemetry", "fleet/v1/" + NAME + "/x"]),
                bodies.map(lambda body: json.dumps(body).encode()) | st.binary(max_size=40),
            ),
        ),
        min_size=1,
        max_size=5,
    ),
    version=st.sampled_from([4, 5]),
)
def test_a_claimant_who_sends_anything_is_closed_or_answered(sent, version, plane_class, v4, v5):
    codec = v5 if version == 5 else v4

    async def feed():
        plane, problems = with_claims(plane_class()), []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, what: problems.append(what))
        lent = context("mqtt", in_memory=True, logger=logging.getLogger("fuzz"))
        lent.logger.error = lambda *args, **more: problems.append((args, more))
        endpoint = Endpoint(lent, plane, plane, in_flight=32)
        connection, transport = Connection(endpoint), Transport()
        connection.connection_made(transport)
        connection.data_received(codec.connect("") + codec.subscribe(1, (REPLIES, 1)))
        await lent.clock.advance(0)
        assert len(plane.claims) == 1, problems
        for piece in sent:
            if not transport.closing:
                connection.data_received(piece if isinstance(piece, bytes) else codec.publish(*piece, 9))
                await asyncio.sleep(0)
        await lent.clock.advance(0)
        connection.connection_lost(None)
        await endpoint.close()
        assert problems == []
        assert (plane.claims, plane.sessions, plane.received) == ([], [], [])
        assert len(endpoint.claimants) == 0

    asyncio.run(feed())
