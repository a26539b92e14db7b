"""What devices and attackers can have the listener keep, look up and send; and a device whose address changes."""

import asyncio
from random import Random

import pytest
from fleetcore_coap.codec import EMPTY, Kind, Method, Option, Packet, code_of, decode, encode, options
from fleetcore_coap.exchanges import MAX_RETRANSMIT
from fleetcore_coap.oscore.contexts import MAX_UNPROVED, Kept
from fleetcore_coap.oscore.lookups import MAX

from fleetcore.testing.heap import grown_bytes
from fleetcore.testing.recording_plane import RecordingPlane
from fleetcore.wire.shared_keys import SharedKey

T = [(Option.URI_PATH, b"d"), (Option.URI_PATH, b"t"), (Option.CONTENT_FORMAT, b"\x32")]
TWIN = [(Option.URI_PATH, segment) for segment in (b"device", b"v1", b"twin")]
COMMANDS = [(Option.URI_PATH, b"d"), (Option.URI_PATH, b"c")]
OBSERVE = [*COMMANDS, (Option.OBSERVE, b"")]
READING = b'{"t": 1}'
COMMAND = {"id": "c-1", "name": "reboot", "args": {}, "sequence": 1, "attempt": 1}
MANY = 4_000
FLAT_BYTES = 800_000


# -- contexts ---------------------------------------------------------------------------------------------------------


async def test_the_context_silent_for_longest_goes_and_its_device_is_asked_for_an_echo_again(serve, hand, with_oscore):
    served = await serve(tls=False, oscore=True, associations=1)
    first, second = hand(served), hand(served, "dev2")
    await first.tell(Method.GET, TWIN)
    captured = first.made(Method.POST, T, READING)
    assert (await first.ask(captured)).code == code_of(204)
    await second.tell(Method.GET, TWIN)
    replayed = await first.ask(captured, first.new_socket())
    back = await first.tell(Method.GET, TWIN)

    assert served.adapter.connections == 1
    assert served.reached["coap", "associations"] == 2
    assert (replayed.code, replayed.get(Option.ECHO) is not None) == (code_of(401), True)
    assert back.code == code_of(205)


async def test_what_brought_a_context_back_once_does_not_bring_it_back_again(serve, plane, hand, with_oscore):
    served = await serve(tls=False, oscore=True, associations=1)
    first, second = hand(served), hand(served, "dev2")
    echo = (await first.ask(first.made(Method.POST, T, READING))).get(Option.ECHO)
    captured = first.made(Method.POST, [*T, (Option.ECHO, echo)], READING)
    assert (await first.ask(captured)).code == code_of(204)
    await second.tell(Method.GET, TWIN)  # has the first one's context go
    replayed = await first.ask(captured, first.new_socket())

    assert replayed.code == code_of(401)
    assert replayed.get(Option.ECHO) != echo
    assert len(plane.received) == 1


def test_of_contexts_that_have_proved_nothing_few_are_kept_and_none_of_a_device_goes_for_them():
    class Context:
        def __init__(self, token):
            self.token = token

    kept = Kept(10)
    proved = Context("dev1")
    kept.enter(proved)
    kept.heard(proved)
    echo = kept.echo("new")
    for number in range(2000):
        passed = kept.enter(Context(f"t{number}"))
        if passed is not None:
            kept.leave(passed)

    assert len(kept.all()) == MAX_UNPROVED + 1
    assert kept.find("dev1") is proved
    assert kept.echo("new") == echo
    kept.leave(proved)
    assert kept.find("dev1") is None


async def test_a_replay_before_a_device_came_back_costs_few_numbers(protected, hand):
    device = hand(protected)
    captured = [device.made(Method.POST, T, READING) for _ in range(100)]
    before = protected.adapter.numbers._free[0][0]
    elsewhere = device.new_socket()
    for datagram in captured:
        elsewhere.send(datagram)
    for _ in range(20):
        await asyncio.sleep(0)
    await protected.clock.advance(3.0)
    used = protected.adapter.numbers._free[0][0] - before

    assert 0 < used <= 16
    assert (await device.tell(Method.POST, T, READING)).code == code_of(204)


# -- keys that are looked up ------------------------------------------------------------------------------------------


class Asked(RecordingPlane):
    """Counts what it is asked, and answers when it is let."""

    def __init__(self, **given):
        super().__init__(**given)
        self.asked, self.let = [], asyncio.Event()

    async def shared_key(self, token_id, *, protocol, peer=""):
        self.asked.append(token_id)
        await self.let.wait()
        return await super().shared_key(token_id, protocol=protocol, peer=peer)


@pytest.fixture
async def plane():
    return Asked(leaves={"leaf1": "dev1"})


@pytest.fixture(autouse=True)
def _let(request, plane):
    if "look" not in request.node.name:
        plane.let.set()


async def test_an_address_has_a_part_of_the_look_ups_and_what_finds_no_room_is_dropped(protected, plane, hand):
    device = hand(protected, key=SharedKey("dev1:0123456789abcdef", b"0" * 32))
    for number in range(MAX + 50):
        device.security.id_context = b"dev1:%016x" % number
        device.socket.send(device.made(Method.POST, T, READING))
        if number % 32 == 0:
            await asyncio.sleep(0.001)
    await asyncio.sleep(0.01)
    under_way = len(plane.asked)
    plane.let.set()
    known = hand(protected)
    answer = await known.tell(Method.POST, T, READING)

    assert under_way == protected.adapter._context.listening.per_address(MAX)
    assert protected.reached["coap", "per_address"] > 0
    assert answer.code == code_of(204)


async def test_a_token_is_looked_up_once_for_all_that_wait_and_few_wait(protected, plane, hand):
    device = hand(protected)
    for _ in range(20):
        device.socket.send(device.made(Method.POST, T, READING))
    await asyncio.sleep(0.01)
    plane.let.set()
    answers = [device.opened(await device.heard()) for _ in range(4)]

    assert len(plane.asked) == 1
    assert {answer.code for answer in answers} == {code_of(401)}
    assert all(answer.get(Option.ECHO) for answer in answers)


# -- addresses --------------------------------------------------------------------------------------------------------


async def test_a_device_keeps_its_session_where_its_address_changes(protected, plane, hand):
    device = hand(protected)
    await device.tell(Method.POST, T, READING)
    answers = [await device.ask(device.made(Method.POST, T, READING), device.new_socket()) for _ in range(20)]

    assert {answer.code for answer in answers} == {code_of(204)}
    assert len(plane.authentications) == 1
    assert protected.adapter.connections == 1
    assert len(protected.adapter._ways) == 2


async def test_notifications_follow_the_newest_address_also_one_that_is_under_way(protected, plane, hand, until):
    device = hand(protected)
    await device.tell(Method.GET, COMMANDS)
    began = await device.ask(device.made(Method.GET, OBSERVE, token=b"o"))
    plane.command("dev1", COMMAND)
    first = await device.heard()
    moved = device.new_socket()
    datagram = device.made(Method.POST, T, READING)
    moved.send(datagram)
    came = {packet.token: packet for packet in [await device.heard(moved), await device.heard(moved)]}
    notification = came[b"o"]
    moved.send(encode(Packet(kind=Kind.ACK, code=EMPTY, mid=notification.mid)))
    plane.command("dev1", COMMAND | {"id": "c-2", "sequence": 2})
    later = await device.heard(moved)
    moved.send(encode(Packet(kind=Kind.ACK, code=EMPTY, mid=later.mid)))
    (secured,) = protected.adapter._kept.all()
    await until(lambda: not secured.peer.observations.outstanding)
    for _ in range(MAX_RETRANSMIT + 2):
        await protected.clock.advance(60.0)

    assert _drained(device.socket) == 0  # nothing goes where the device is not any more
    assert len(secured.peer.observations) == 1
    assert began.get(Option.OBSERVE) is not None
    assert notification.get(Option.OSCORE) == first.get(Option.OSCORE)
    assert notification.payload == first.payload  # the same message, not another one with its number
    assert b"c-1" in device.opened(notification).payload
    assert b"c-2" in device.opened(later).payload


async def test_notifications_have_numbers_that_rise_and_a_registration_that_was_ended_tells_no_more(
    protected, plane, hand, until
):
    device = hand(protected)
    await device.tell(Method.GET, COMMANDS)
    await device.ask(device.made(Method.GET, OBSERVE, token=b"o"))
    seen = []
    for number in range(5):
        plane.command("dev1", COMMAND | {"id": f"c-{number}", "sequence": number + 1})
        told = await device.heard()
        device.socket.send(encode(Packet(kind=Kind.ACK, code=EMPTY, mid=told.mid)))
        seen.append(told.get(Option.OSCORE))
    (secured,) = protected.adapter._kept.all()
    ended = await device.ask(device.made(Method.GET, [*COMMANDS, (Option.OBSERVE, b"\x01")], token=b"o"))

    assert seen == sorted(seen)
    assert len(set(seen)) == 5
    assert (ended.code, len(secured.peer.observations)) == (code_of(205), 0)


async def test_a_notification_that_nothing_acknowledges_is_the_same_each_time_and_ends_the_observation(
    protected, plane, hand, until
):
    device = hand(protected)
    await device.tell(Method.GET, COMMANDS)
    await device.ask(device.made(Method.GET, OBSERVE, token=b"o"))
    plane.command("dev1", COMMAND)
    told = [await device.heard()]
    (secured,) = protected.adapter._kept.all()
    for _ in range(MAX_RETRANSMIT + 1):
        await protected.clock.advance(60.0)
    await until(lambda: not len(secured.peer.observations))
    told += [await device.heard() for _ in range(MAX_RETRANSMIT)]

    assert len({encode(packet) for packet in told}) == 1


async def test_two_devices_behind_one_address_and_port_are_told_apart(protected, plane, hand):
    first, second = hand(protected), hand(protected, "dev2")
    second.socket = first.socket
    second.mid = 1000
    for _ in range(3):
        assert (await first.tell(Method.POST, T, READING)).code == code_of(204)
        assert (await second.tell(Method.POST, T, READING)).code == code_of(204)

    assert [each.identity for each in plane.received] == ["dev1", "dev2"] * 3
    assert len(protected.adapter._ways) == 1


async def test_requests_beyond_those_that_may_be_under_way_are_answered_later_inside_the_protection(
    protected, plane, hand, until
):
    device = hand(protected)
    await device.tell(Method.GET, TWIN)
    plane.hold()
    for _ in range(33):
        device.socket.send(device.made(Method.POST, T, READING))
    busy = device.opened(await device.heard())
    plane.commit()
    answers = [device.opened(await device.heard()) for _ in range(32)]

    assert (busy.code, busy.get(Option.MAX_AGE)) == (code_of(503), b"\x01")
    assert {answer.code for answer in answers} == {code_of(204)}


async def test_a_peer_without_protection_is_forgotten_and_few_are_kept(protected, hand):
    device = hand(protected)
    root = [(Option.URI_PATH, segment) for segment in (b"device", b"v1", b"")]
    for number in range(300):
        asked = Packet(kind=Kind.CON, code=Method.GET, mid=number, token=b"p", options=options(root))
        await device.ask(encode(asked), device.new_socket())
    most = protected.adapter.connections, len(protected.adapter._ways)
    await protected.clock.advance(122.0)

    assert most == (256, 256)
    assert (protected.adapter.connections, len(protected.adapter._ways)) == (0, 0)


# -- mutations --------------------------------------------------------------------------------------------------------


def mutated(random, datagram):
    found = bytearray(datagram)
    for _ in range(random.randint(1, 4)):
        what, at = random.random(), random.randrange(len(found))
        if what < 0.7:
            found[at] ^= 1 << random.randrange(8)
        elif what < 0.85:
            found[at:at] = random.randbytes(random.randint(1, 8))
        elif len(found) > 12:
            del found[at : at + random.randint(1, 8)]
    return bytes(found)


async def test_thousands_of_mutations_of_a_protected_message_store_nothing_and_leave_no_memory(
    protected, plane, hand, monkeypatch
):
    device, random = hand(protected), Random(61)
    await device.tell(Method.GET, TWIN)
    victim = [device.made(Method.POST, T, READING) for _ in range(8)]  # none of which ever arrives whole
    attacker = device.new_socket()
    sent = received = 0

    async def work(times):
        nonlocal sent, received
        for number in range(times):
            original = victim[number % len(victim)]
            datagram = mutated(random, original)
            if _same(datagram, original):
                continue
            attacker.send(datagram)
            sent += len(datagram)
            if number % 32 == 0:
                for _ in range(3):
                    await asyncio.sleep(0)
                received += _drained(attacker)
        await protected.clock.advance(300.0)
        received += _drained(attacker)

    grown = await grown_bytes(lambda: work(MANY // 2))
    answer = await device.tell(Method.POST, T, READING)

    assert received <= 3 * sent  # unprotected ones get a challenge, the others less than they brought
    assert grown < FLAT_BYTES
    assert answer.code == code_of(204)
    assert len(plane.received) == 1


async def test_thousands_of_mutations_of_what_a_device_protects_leave_its_context_alive_and_no_memory(
    protected, plane, hand, monkeypatch
):
    from aiocoap.message import Message
    from fleetcore_coap.codec import write_body

    device, random = hand(protected), Random(62)
    await device.tell(Method.GET, TWIN)
    plain = [
        bytes((code,)) + write_body(Packet(kind=Kind.CON, code=code, options=options(given), payload=payload))
        for code, given, payload in [
            (Method.GET, TWIN, b""),
            (Method.GET, OBSERVE, b""),
            (Method.POST, [*T, (Option.BLOCK1, b"\x08")], b'{"t":1.0000000}'),
            (Method.POST, T, READING),
        ]
    ]

    async def work(times):
        for number in range(times):
            inner = mutated(random, plain[number % len(plain)])
            monkeypatch.setattr(
                device.security, "_split_message", lambda _message, _binding, text=inner: (Message(code=2), text)
            )
            device.socket.send(device.made(Method.POST, T, token=b"t%d" % (number % 100)))
            if number % 16 == 0:
                for _ in range(4):
                    await asyncio.sleep(0)
                _drained(device.socket)
        monkeypatch.delattr(device.security, "_split_message")
        for _ in range(4):
            await protected.clock.advance(100.0)

    grown = await grown_bytes(lambda: work(MANY // 2))
    _drained(device.socket)
    device.socket = device.new_socket()
    answer = await device.tell(Method.POST, T, b'{"after": 1}')

    assert answer.code == code_of(204)
    assert plane.bodies[-1] == b'{"after": 1}'
    assert grown < 4 * FLAT_BYTES  # the recording plane keeps what it was given


async def test_an_answer_is_sent_again_few_times_to_whatever_repeats_its_request(protected, plane, hand):
    device = hand(protected)
    await device.tell(Method.GET, TWIN)
    datagram = device.made(Method.GET, TWIN)
    for _ in range(100):
        device.socket.send(datagram)
    await device.ask(device.made(Method.POST, T, READING), device.new_socket())
    sent = _drained(device.socket)

    assert sent <= 9 * 200


def _same(datagram, original):
    """Whether what is protected is untouched, so the message is genuine."""
    try:
        packet, genuine = decode(datagram), decode(original)
    except Exception:  # not a message
        return False
    return (packet.get(Option.OSCORE), packet.payload) == (genuine.get(Option.OSCORE), genuine.payload)


def _drained(sock):
    found = 0
    while True:
        try:
            found += len(sock.recv(4096))
        except BlockingIOError:
            return found
