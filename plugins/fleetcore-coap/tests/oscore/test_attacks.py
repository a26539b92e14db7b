"""Keys that are not the device's, datagrams that come again, and what an attacker changes or adds on the way."""

from random import Random

import pytest
from fleetcore_coap.codec import Block, Kind, Method, Option, Packet, code_of, decode, encode, options

from fleetcore.wire.shared_keys import SharedKey

T = [(Option.URI_PATH, b"d"), (Option.URI_PATH, b"t"), (Option.CONTENT_FORMAT, b"\x32")]
TWIN = [(Option.URI_PATH, segment) for segment in (b"device", b"v1", b"twin")]
COMMANDS = [(Option.URI_PATH, b"d"), (Option.URI_PATH, b"c")]
READING = b'{"t": 1}'


async def test_a_wrong_key_is_refused_and_nothing_is_stored(protected, plane, hand):
    other = hand(protected, key=SharedKey(hand(protected).key.token, b"0" * 32))
    datagram = other.made(Method.POST, T, READING)
    answer = await other.ask(datagram)

    assert (answer.code, answer.payload) == (code_of(400), b"Decryption failed")
    assert len(encode(answer)) <= len(datagram)
    assert plane.arrived == []


@pytest.mark.parametrize("token", ["dev1:0123456789abcdef", "nobody:0123456789abcdef", "no token", ""])
async def test_an_unknown_context_is_refused_with_the_standards_words(protected, plane, hand, token):
    device = hand(protected, key=SharedKey(token, b"0" * 32))
    datagram = device.made(Method.POST, T, READING)
    answer = await device.ask(datagram)

    assert answer.code == code_of(401)
    assert answer.payload in {b"Security context not found", b""}
    assert len(encode(answer)) <= len(datagram)
    assert plane.arrived == []


async def test_what_is_not_to_be_confirmed_is_refused_without_a_word(protected, plane, hand):
    device = hand(protected, key=SharedKey("dev1:0123456789abcdef", b"0" * 32))
    device.socket.send(device.made(Method.POST, T, READING, kind=Kind.NON))
    good = hand(protected)
    answer = await good.tell(Method.POST, T, READING)

    assert answer.code == code_of(204)
    with pytest.raises(BlockingIOError):
        device.socket.recv(4096)


async def test_a_replay_is_answered_as_before_to_its_address_and_refused_to_another(protected, plane, hand):
    device = hand(protected)
    await device.tell(Method.GET, TWIN)
    datagram = device.made(Method.POST, T, READING)
    answers = [await device.ask(datagram) for _ in range(2)]
    elsewhere = await device.ask(datagram, device.new_socket())

    assert [answer.code for answer in answers] == [code_of(204)] * 2
    assert (elsewhere.code, elsewhere.payload) == (code_of(401), b"Replay detected")
    assert len(plane.received) == 1


@pytest.mark.parametrize("given", [TWIN, [(Option.OBSERVE, b""), *COMMANDS]], ids=["read", "observe"])
async def test_a_request_that_only_reads_and_is_repeated_is_answered_from_memory(protected, hand, given):
    device = hand(protected)
    await device.tell(Method.GET, TWIN)
    datagram = device.made(Method.GET, given)
    device.socket.send(datagram)
    first = await device.heard()
    device.socket.send(datagram)

    assert await device.heard() == first
    assert device.opened(first).code == code_of(205)


async def test_requests_out_of_order_pass_within_the_window_and_not_beyond_it(protected, plane, hand):
    device = hand(protected)
    await device.tell(Method.GET, TWIN)
    late = device.made(Method.POST, T, b'{"late": 1}')
    too_late = [device.made(Method.POST, T, READING) for _ in range(40)]
    in_time = too_late.pop(20)
    newest = await device.ask(too_late[-1])
    found = [await device.ask(datagram, device.new_socket()) for datagram in (late, in_time)]

    assert newest.code == code_of(204)
    assert [answer.code for answer in found] == [code_of(401), code_of(204)]
    assert len(plane.received) == 2


async def test_a_key_that_the_peer_has_gives_no_right_to_speak_for_another_device(protected, plane, hand):
    device = hand(protected)
    foreign = [(Option.URI_PATH, segment) for segment in (b"device", b"v1", b"leaf", b"dev2", b"telemetry")]
    answer = await device.tell(Method.POST, [*foreign, (Option.CONTENT_FORMAT, b"\x32")], READING)

    assert answer.code == code_of(403)
    assert b"not_your_device" in answer.payload
    assert plane.received == []


async def test_a_public_path_is_served_inside_and_outside_the_protection(protected, hand):
    device = hand(protected)
    ca = [(Option.URI_PATH, segment) for segment in (b"device", b"v1", b"ca")]
    inside = await device.tell(Method.GET, ca)
    root = [(Option.URI_PATH, segment) for segment in (b"device", b"v1", b"")]
    asked = encode(Packet(kind=Kind.CON, code=Method.GET, mid=900, token=b"p", options=options(root)))
    outside = await device.ask(asked)
    echo = outside.get(Option.ECHO)
    again = encode(
        Packet(kind=Kind.CON, code=Method.GET, mid=901, token=b"p", options=options([*root, (Option.ECHO, echo)]))
    )
    public = await device.ask(again)

    assert (inside.code, b"ca" in inside.payload) == (code_of(205), True)
    assert len(encode(outside)) <= 3 * len(asked)
    assert public.code == code_of(205)
    assert b'"device"' not in public.payload  # it names the device of a credential, and none was shown


async def test_a_message_without_protection_does_nothing(protected, plane, hand):
    device = hand(protected)
    await device.tell(Method.GET, TWIN)  # also from an address that a device speaks from
    asked = Packet(kind=Kind.CON, code=Method.POST, mid=900, token=b"p", options=options(T), payload=READING)
    challenge = await device.ask(encode(asked))
    given = options([*T, (Option.ECHO, challenge.get(Option.ECHO))])
    answer = await device.ask(
        encode(Packet(kind=Kind.CON, code=Method.POST, mid=901, token=b"p", options=given, payload=READING * 40))
    )

    assert answer.code == code_of(401)
    assert plane.received == []


@pytest.mark.parametrize(
    "added",
    [
        (Option.OBSERVE, b""),
        (Option.BLOCK1, Block(3, True, 6).encode()),
        (Option.BLOCK2, Block(1, False, 0).encode()),
        (Option.URI_PATH, b"ca"),
        (Option.IF_MATCH, b"x"),
        (Option.ACCEPT, b"\x28"),
        (35, b"coap://elsewhere/"),
        (39, b"http"),
        (Option.ECHO, b"12345678"),
        (65001, b"critical"),
    ],
    ids=str,
)
async def test_outer_options_that_an_attacker_adds_change_nothing(protected, plane, hand, added):
    device = hand(protected)
    plain = await device.tell(Method.GET, TWIN)
    answer = await device.ask(device.made(Method.GET, TWIN, outer=[added]))
    stored = await device.ask(device.made(Method.POST, T, READING, outer=[added]))

    assert (answer.code, answer.options, answer.payload) == (plain.code, plain.options, plain.payload)
    assert stored.code == code_of(204)
    assert len(plane.received) == 1
    assert not plane.listening


async def test_an_observation_begins_only_where_both_sides_of_the_protection_say_so(protected, plane, hand):
    device = hand(protected)
    await device.tell(Method.GET, COMMANDS)
    taken_away = decode(device.made(Method.GET, [*COMMANDS, (Option.OBSERVE, b"")]))
    given = options([each for each in taken_away.options if each[0] != Option.OBSERVE])
    answer = await device.ask(encode(Packet(
        kind=Kind.CON, code=taken_away.code, mid=taken_away.mid, token=taken_away.token, options=given,
        payload=taken_away.payload,
    )))  # fmt: skip
    begun = await device.ask(device.made(Method.GET, [*COMMANDS, (Option.OBSERVE, b"")]))

    assert (answer.code, answer.get(Option.OBSERVE)) == (code_of(205), None)
    assert begun.get(Option.OBSERVE) is not None


@pytest.mark.parametrize(
    "value",
    [b"\x00", b"\x0e", b"\x0f", b"\x20", b"\xff", b"\x10", b"\x19\x00", b"\x1a\x00\x01\x05", b"\x09"], ids=bytes.hex
)  # fmt: skip
@pytest.mark.parametrize("length", [1, 30])
async def test_an_oscore_option_of_no_form_is_402_or_401_and_short(protected, hand, value, length):
    device = hand(protected)
    datagram = encode(
        Packet(
            kind=Kind.CON, code=Method.POST, mid=1, token=b"t", options=((Option.OSCORE, value),), payload=b"x" * length
        )
    )
    answer = await device.ask(datagram)

    assert answer.code in {code_of(402), code_of(401)}
    assert len(encode(answer)) <= len(datagram)


@pytest.mark.parametrize("method", [Method.GET, Method.PUT, Method.DELETE, Method.IPATCH])
async def test_a_protected_request_of_an_outer_method_that_there_is_not_is_refused(protected, plane, hand, method):
    device = hand(protected)
    made = decode(device.made(Method.POST, T, READING))
    answer = await device.ask(encode(Packet(
        kind=Kind.CON, code=method, mid=1, token=b"m", options=made.options, payload=made.payload
    )))  # fmt: skip

    assert answer.code == code_of(405)
    assert plane.arrived == []


async def test_what_is_protected_and_no_message_is_402_and_uses_up_its_number(protected, plane, hand):
    device = hand(protected)
    await device.tell(Method.GET, TWIN)
    random = Random(51)
    for _ in range(200):
        plaintext = random.randbytes(random.randrange(1, 40))
        device.security._split_message = lambda message, _binding, text=plaintext: (
            type(message)(code=Method.POST),
            text,
        )
        answer = await device.ask(device.made(Method.POST, T))
        assert answer.code >= 128
    del device.security._split_message

    assert (await device.tell(Method.POST, T, READING)).code == code_of(204)
    assert len(plane.received) == 1
