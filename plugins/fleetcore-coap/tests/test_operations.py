"""The CoAP column of the wire table: methods, forms, tags, blocks and observations, byte by byte over DTLS."""

import asyncio
import json

import cbor2
import pytest
from fleetcore_coap.channel import Channel
from fleetcore_coap.codec import Block, Kind, Method, Option, Packet, code_of, options, uint
from fleetcore_coap.exchanges import MAX_RETRANSMIT
from fleetcore_coap.problems import members

from fleetcore.model.message import Accepted
from fleetcore.wire import messages

JSON, CBOR, PROBLEM = b"\x32", b"\x3c", uint(257)
OFFER = {"execution": "e", "campaign": "c", "attempt": 1, "version": "2", "size": 1, "sha256": "a" * 64}


def path(*segments):
    return [(Option.URI_PATH, segment.encode()) for segment in segments]


def v1(*segments):
    return path("device", "v1", *segments)


def posted(*segments):
    return [*v1(*segments), (Option.CONTENT_FORMAT, JSON)]


def code(number):
    return code_of(number)


@pytest.mark.parametrize("method", [Method.POST, Method.PUT])
@pytest.mark.parametrize("where", [v1("location"), path("d", "l")], ids=["path", "alias"])
async def test_a_position_is_posted_or_put(served, wires, plane, method, where):
    wire = await wires()
    answer = await wire.ask(method, [*where, (Option.CONTENT_FORMAT, JSON)], b'{"lat": 37.7, "lon": -122.4}')

    assert answer.code == code(204)
    assert [message.type for message in plane.messages] == [messages.LOCATION]


@pytest.mark.parametrize(
    ("method", "where"),
    [
        (Method.PUT, posted("telemetry")),
        (Method.DELETE, v1("twin")),
        (Method.FETCH, v1("twin")),
        (Method.PATCH, posted("twin", "reported")),
        (Method.POST, v1("time")),
    ],
)
async def test_a_method_that_a_path_has_not_is_405(served, wires, plane, method, where):
    assert (await (await wires()).ask(method, where, b"{}")).code == code(405)
    assert plane.messages == []


# -- forms and tags -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accept", [uint(41), uint(257), uint(11542)])
async def test_a_form_that_is_not_served_is_406_before_anything_is_done(served, wires, plane, accept):
    plane.outcome = Accepted(stored=1, refused=({"index": 1, "code": "time_in_future"},))
    wire = await wires()
    refused = await wire.ask(Method.POST, [*posted("telemetry"), (Option.ACCEPT, accept)], b'{"t": 1}')
    read = await wire.ask(Method.GET, [*v1("twin"), (Option.ACCEPT, accept)], mid=2)

    assert (refused.code, read.code) == (code(406), code(406))
    assert plane.received == []


@pytest.mark.parametrize("form", [41, 0, 65000])
async def test_a_content_format_that_nothing_reads_is_415(served, wires, plane, form):
    given = [*v1("status"), (Option.CONTENT_FORMAT, uint(form))]
    answer = await (await wires()).ask(Method.POST, given, b'{"state": "online"}')

    assert answer.code == code(415)
    assert answer.get(Option.CONTENT_FORMAT) == PROBLEM
    assert members(answer.payload, answer.code)["code"] == "media_type_unsupported"
    assert plane.received == []


async def test_the_form_of_an_answer_is_as_asked_else_as_the_request_else_json(served, wires, plane):
    wire = await wires()
    asked = await wire.ask(Method.GET, [*v1("twin"), (Option.ACCEPT, CBOR)], mid=1)
    other = await wire.ask(Method.GET, v1("twin"), mid=2)
    given = [*v1("leaf"), (Option.CONTENT_FORMAT, CBOR)]
    as_given = await wire.ask(Method.POST, given, cbor2.dumps({"device": "leaf9"}), mid=3)

    assert cbor2.loads(asked.payload)["reported_version"] == json.loads(other.payload)["reported_version"]
    assert (asked.get(Option.CONTENT_FORMAT), other.get(Option.CONTENT_FORMAT)) == (CBOR, JSON)
    assert (as_given.code, as_given.get(Option.CONTENT_FORMAT)) == (code(201), CBOR)


async def test_a_tag_that_is_the_current_one_is_203_and_another_one_gets_the_twin(served, wires, plane):
    wire = await wires()
    first = await wire.ask(Method.GET, v1("twin"), mid=1)
    tag = first.get(Option.ETAG)
    same = await wire.ask(Method.GET, [*v1("twin"), (Option.ETAG, b"otherone"), (Option.ETAG, tag)], mid=2)
    other = await wire.ask(Method.GET, [*v1("twin"), (Option.ETAG, b"otherone")], mid=3)

    assert (first.code, same.code, other.code) == (code(205), code(203), code(205))
    assert (same.payload, same.get(Option.ETAG)) == (b"", tag)


@pytest.mark.parametrize(
    ("tags", "expected", "version"),
    [
        ([b"\0\0\0\x0c\0\0\0\x28"], 204, 40),
        ([b"\0\0\0\x0c\0\0\0\x27"], 412, 39),
        ([b""], 204, None),
        ([b"short"], 412, None),
        ([b"\0\0\0\x0c\0\0\0\x28", b"\0\0\0\x0c\0\0\0\x29"], 412, None),
    ],
)
async def test_if_match_holds_a_report_to_a_version(served, wires, plane, tags, expected, version):
    given = [*posted("twin", "reported"), *((Option.IF_MATCH, tag) for tag in tags)]
    answer = await (await wires()).ask(Method.IPATCH, given, b'{"a": 1}')

    assert answer.code == code(expected)
    assert [message.if_version for message in plane.messages] == ([version] if expected == 204 else [])


async def test_if_none_match_and_other_critical_options_are_402(served, wires, plane):
    wire = await wires()
    for mid, option in enumerate((Option.IF_NONE_MATCH, 35, 39, 65001)):
        assert (await wire.ask(Method.POST, [*posted("telemetry"), (option, b"")], b"{}", mid=mid)).code == code(402)
    assert plane.received == []


# -- blocks -------------------------------------------------------------------------------------------------------


async def test_a_body_that_says_it_is_too_long_is_413_with_the_limit_and_the_size_of_blocks(served, wires, plane):
    limit = plane.limits.message_bytes
    given = [*posted("telemetry"), (Option.BLOCK1, Block(0, True, 2).encode()), (Option.SIZE1, uint(limit + 1))]
    answer = await (await wires()).ask(Method.POST, given, b"x" * 64)

    assert answer.code == code(413)
    assert answer.uint(Option.SIZE1) == limit
    assert answer.block(Option.BLOCK1).exponent == 2
    assert members(answer.payload, answer.code)["limit"] == limit


async def test_a_block_without_those_before_it_is_408(served, wires, plane):
    given = [*posted("telemetry"), (Option.BLOCK1, Block(3, False, 2).encode())]
    answer = await (await wires()).ask(Method.POST, given, b"x")

    assert answer.code == code(408)
    assert answer.block(Option.BLOCK1).exponent == 2
    assert plane.received == []


@pytest.mark.parametrize("option", [Option.BLOCK1, Option.BLOCK2])
async def test_the_reserved_size_of_blocks_is_400(served, wires, plane, option):
    given = [*posted("telemetry"), (option, Block(0, False, 7).encode())]

    assert (await (await wires()).ask(Method.POST, given, b'{"t": 1}')).code == code(400)
    assert plane.received == []


async def test_a_long_answer_has_its_size_with_its_first_block_and_one_tag_with_each(served, wires, plane):
    plane.report("dev1", 41, {f"key-{number}": "x" * 30 for number in range(60)})
    wire = await wires()
    parts, number = [], 0
    while not parts or parts[-1].block(Option.BLOCK2).more:
        given = [*v1("twin"), (Option.BLOCK2, Block(number, False, 5).encode())]
        parts.append(await wire.ask(Method.GET, given, mid=number))
        number += 1
    whole = b"".join(part.payload for part in parts)
    beyond = await wire.ask(Method.GET, [*v1("twin"), (Option.BLOCK2, Block(99, False, 5).encode())], mid=99)

    assert json.loads(whole)["reported_version"] == 41
    assert [part.uint(Option.SIZE2) for part in parts] == [len(whole), *[None] * (len(parts) - 1)]
    assert len({part.get(Option.ETAG) for part in parts}) == 1
    assert beyond.code == code(402)


# -- observations -------------------------------------------------------------------------------------------------

STATES = {
    "desired": (v1("twin", "desired"), lambda plane: plane.desire("dev1", 13, {"interval": 60}), b'"interval":60'),
    "desired alias": (path("d", "d"), lambda plane: plane.desire("dev1", 13, {"interval": 60}), b'"interval":60'),
    "commands": (v1("commands"), lambda plane: plane.command("dev1", {"id": "c-1", "sequence": 1}), b'"id":"c-1"'),
    "commands alias": (path("d", "c"), lambda plane: plane.command("dev1", {"id": "c-1", "sequence": 1}), b'"id":"c-1"'),
    "firmware": (v1("firmware"), lambda plane: plane.offer("dev1", OFFER), b'"execution":"e"'),
    "firmware alias": (path("d", "f"), lambda plane: plane.offer("dev1", OFFER), b'"execution":"e"'),
    "a leaf's": (
        v1("leaf", "leaf1", "commands"),
        lambda plane: plane.command("leaf1", {"id": "c-1", "sequence": 1}),
        b'"id":"c-1"',
    ),
}  # fmt: skip


async def _observing(wire, where, until):
    first = await wire.ask(Method.GET, [(Option.OBSERVE, b""), *where], mid=1)
    assert first.uint(Option.OBSERVE) is not None
    return first


@pytest.mark.parametrize(("where", "happen", "shown"), STATES.values(), ids=STATES)
async def test_a_state_that_is_observed_is_told_confirmably_as_it_changes(
    served, wires, plane, until, where, happen, shown
):
    wire = await wires()
    first = await _observing(wire, where, until)
    happen(plane)
    await until(lambda: len(wire.heard) > 1)
    told = wire.heard[1]

    assert shown not in first.payload
    assert shown in told.payload
    assert (told.kind, told.code, told.token) == (Kind.CON, code(205), b"t")
    assert told.uint(Option.OBSERVE) > first.uint(Option.OBSERVE)


async def test_a_state_is_told_in_the_form_that_the_registration_asked_for(served, wires, plane, until):
    wire = await wires()
    await _observing(wire, [*path("d", "c"), (Option.ACCEPT, CBOR)], until)
    plane.command("dev1", {"id": "c-1", "sequence": 1})
    await until(lambda: len(wire.heard) > 1)

    assert cbor2.loads(wire.heard[1].payload)["commands"][0]["id"] == "c-1"


def _peer(served):
    (place,) = served.adapter._places.live.values()
    return place.peer


async def _deregister(wire, served, plane, until):
    answer = await wire.ask(Method.GET, [(Option.OBSERVE, b"\x01"), *path("d", "c")], mid=2)
    assert answer.get(Option.OBSERVE) is None


async def _reset(wire, served, plane, until):
    plane.command("dev1", {"id": "c-0", "sequence": 0})
    await until(lambda: len(wire.heard) > 1)
    wire.signal(Kind.RST, wire.heard[1].mid)


async def _never_acknowledged(wire, served, plane, until):
    plane.command("dev1", {"id": "c-0", "sequence": 0})
    await until(lambda: len(wire.heard) > 1)
    for _ in range(MAX_RETRANSMIT + 1):
        await served.clock.advance(60.0)


async def _suspended(wire, served, plane, until):
    plane.suspend("dev1")
    plane.command("dev1", {"id": "c-0", "sequence": 0})


async def _revoked(wire, served, plane, until):
    plane.revoke("dev1")


@pytest.mark.parametrize("end", [_deregister, _reset, _never_acknowledged, _revoked])
async def test_an_observation_ends_and_nothing_is_told_any_more(served, wires, plane, until, end):
    wire = await wires()
    await _observing(wire, path("d", "c"), until)
    peer = _peer(served)
    await end(wire, served, plane, until)
    await until(lambda: len(peer.observations) == 0 or served.adapter.connections == 0)
    heard = len(wire.heard)
    plane.command("dev1", {"id": "c-1", "sequence": 1})
    await asyncio.sleep(0.05)

    assert len(wire.heard) == heard


async def test_a_change_while_a_notification_is_outstanding_is_told_once_it_is_acknowledged(
    served, wires, plane, until
):
    wire = await wires()
    await _observing(wire, path("d", "c"), until)
    for number in (1, 2, 3):
        plane.command("dev1", {"id": f"c-{number}", "sequence": number})
    await until(lambda: len(wire.heard) > 1)
    early = len(wire.heard)
    wire.signal(Kind.ACK, wire.heard[1].mid)
    await until(lambda: len(wire.heard) > 2)

    assert early == 2
    assert all(f'"c-{number}"'.encode() in wire.heard[2].payload for number in (1, 2, 3))


async def test_the_inbox_is_not_observed(served, wires, plane):
    answer = await (await wires()).ask(Method.GET, [(Option.OBSERVE, b""), *v1("inbox")])

    assert answer.code == code(205)
    assert answer.get(Option.OBSERVE) is None


async def test_requests_that_are_not_confirmable_are_all_answered(served, wires, plane, until):
    wire = await wires()
    for number in range(100):
        wire.send(
            Method.POST, posted("telemetry"), b'{"t": %d}' % number, mid=number, kind=Kind.NON, token=bytes([number])
        )
    await until(lambda: len(wire.heard) == 100)
    answers = {packet.token[0]: packet.code for packet in wire.heard}
    taken = {int(json.loads(body)["t"]) for body in plane.bodies}

    assert {number for number, each in answers.items() if each == code(204)} == taken
    assert {each for number, each in answers.items() if number not in taken} <= {code(503)}


async def test_a_device_that_is_let_in_later_is_so_on_the_association_that_was_refused(served, plane, authority):
    plane.revoke("dev1")
    channel = Channel(served.url, authority.secrets("dev1"))
    await channel.open()
    asked = Packet(kind=Kind.CON, code=Method.GET, options=options(v1("twin")))
    refused = await channel.ask(asked)
    plane.register_again("dev1")
    await served.clock.advance(31.0)
    served_now = await channel.ask(asked)
    channel.close()

    assert (refused.code, served_now.code) == (code(403), code(205))
    assert len(plane.authentications) == 2
